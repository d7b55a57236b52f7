//! Values of a profile that are strings with a form of their own: MACs, networks, port ranges.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// An IPv4 network, `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    first: u32,
    prefix: u8,
}

/// Ports, both ends included: `1024-65535`, or one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// What a text should have been.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub struct Malformed {
    text: String,
    wanted: &'static str,
}

impl Network {
    /// Addresses in it: all, network and broadcast address too, as they are hosts of some larger network.
    pub fn count(self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// The address at a position below [`count`](Self::count).
    pub fn at(self, position: u64) -> u32 {
        self.first.wrapping_add(position as u32)
    }
}

impl PortRange {
    /// All ports but the well-known ones.
    pub const UNPRIVILEGED: Self = Self { first: 1024, last: 65535 };

    /// Ports in it.
    pub fn count(self) -> u64 {
        u64::from(self.last - self.first) + 1
    }

    /// The port at a position below [`count`](Self::count).
    pub fn at(self, position: u64) -> u16 {
        self.first.wrapping_add(position as u16)
    }
}

impl FromStr for Mac {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wanted = "a MAC address such as \"02:00:00:00:00:01\"";
        gateway::config::parse_mac(text).map(Self).ok_or_else(|| Malformed { text: text.into(), wanted })
    }
}

impl FromStr for Network {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = || Malformed {
            text: text.into(),
            wanted: "an IPv4 network such as \"10.1.0.0/16\" without host bits, or an address",
        };
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let first = u32::from(address.parse::<Ipv4Addr>().map_err(|_| malformed())?);
        let prefix = prefix.parse::<u8>().ok().filter(|prefix| *prefix <= 32).ok_or_else(malformed)?;
        let host_bits = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        if first & host_bits == 0 { Ok(Self { first, prefix }) } else { Err(malformed()) }
    }
}

impl FromStr for PortRange {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed =
            || Malformed { text: text.into(), wanted: "ports such as \"1024-65535\", or one port" };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.trim().parse::<u16>().map_err(|_| malformed());
        let (first, last) = (port(first)?, port(last)?);
        if first <= last { Ok(Self { first, last }) } else { Err(malformed()) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&gateway::config::format_mac(&self.0))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.first), self.prefix)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Text in files, parsed.
macro_rules! text {
    ($($type:ty),+) => {$(
        impl TryFrom<String> for $type {
            type Error = Malformed;
            fn try_from(text: String) -> Result<Self, Malformed> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )+};
}
text!(Mac, Network, PortRange);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_ports_count_their_ends() {
        let network: Network = "10.1.0.0/16".parse().unwrap();
        assert_eq!((network.count(), network.at(65_535)), (65_536, 0x0a01_ffff));
        assert_eq!("198.51.100.10".parse::<Network>().unwrap().count(), 1);
        assert_eq!("0.0.0.0/0".parse::<Network>().unwrap().count(), 1 << 32);
        let ports: PortRange = "1024-65535".parse().unwrap();
        assert_eq!((ports.count(), ports.at(64_511)), (64_512, 65_535));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["10.1.0.1/16", "10.1.0.0/33", "10.1/16", ""] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        for text in ["2-1", "65536", "-", "a"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
        assert!("02:00:00:00:01".parse::<Mac>().is_err());
    }
}
