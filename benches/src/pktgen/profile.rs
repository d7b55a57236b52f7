//! What to send and what to expect back, as a TOML file. `share/bench/` has examples.

pub use super::address::{Mac, Network, PortRange};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::Path;

/// Bytes that pktgen needs behind the L4 header.
pub const PAYLOAD: usize = 18;

/// All of a profile.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// How many.
    pub sessions: u32,
    /// Of everything pseudo-random.
    #[serde(default = "one")]
    pub seed: u64,
    /// Tuples drawn pseudo-randomly from the ranges (RFC 4814), each once; else counted up, source port first.
    #[serde(default)]
    pub random: bool,
    /// What the frames carry.
    #[serde(default)]
    pub protocol: Protocol,
    /// How long they are.
    #[serde(default)]
    pub frame: Size,
    /// Which ways.
    #[serde(default)]
    pub direction: Direction,
    /// What comes back.
    #[serde(default)]
    pub expect: Expect,
    /// MACs are replaced, and TTL goes down by one.
    #[serde(default = "yes")]
    pub routed: bool,
    /// Who starts the sessions.
    pub source: Ends,
    /// Whom they talk to.
    pub destination: Ends,
    /// What the source becomes, a pair of its own for each session; absent: it stays.
    pub nat: Option<Ends>,
    /// Where sessions come from.
    pub inside: Side,
    /// Where they go to.
    pub outside: Side,
    /// For sides with a VNI.
    pub underlay: Option<Underlay>,
}

/// What a session's frames carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "names say it")]
pub enum Protocol {
    #[default]
    Udp,
    /// Segments with ACK, of an established connection.
    Tcp,
    /// Echo requests; replies the other way. The source port is the identifier.
    Icmp,
}

/// A frame's bytes as RFC 2544 counts them: with FCS, without tags and tunnel headers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "wanted is a number of bytes, or \"imix\"")]
pub enum Size {
    /// All alike.
    Fixed(u16),
    /// "imix": of 12 frames 7 have 64 bytes, 4 have 594, 1 has 1518.
    Mix(Mix),
}

/// Frames of different sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "described at Size")]
pub enum Mix {
    Imix,
}

/// Which ways frames go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Inside to outside.
    #[default]
    Forward,
    /// Outside to inside.
    Reverse,
    /// Half and half.
    Both,
}

/// What comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// The session's frames on the other side, translated as it says.
    #[default]
    Session,
    /// On the other side, the source translated to whatever its first frame shows, and to that ever after.
    Learn,
    /// What was sent, as it was sent.
    Same,
    /// What was sent with its MACs swapped.
    Macswap,
}

/// Addresses and ports.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Ends {
    /// From here.
    pub addresses: Network,
    /// From these.
    #[serde(default = "unprivileged")]
    pub ports: PortRange,
}

/// A LIF, and who is on it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// Its id in the gateway's configuration.
    pub lif: u32,
    /// The tag of its frames.
    pub vlan: Option<u16>,
    /// The VXLAN network of its frames. With neither, they are untagged.
    pub vni: Option<u32>,
    /// The host that pktgen plays.
    pub mac: Mac,
    /// The gateway's address there: what frames are sent to, and routed ones come from.
    pub gateway_mac: Mac,
}

/// What carries VXLAN.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Underlay {
    /// Its tag; 0 is none.
    #[serde(default)]
    pub vlan: u16,
    /// The gateway's VTEP.
    pub gateway_ip: Ipv4Addr,
    /// The gateway's port.
    pub gateway_mac: Mac,
    /// The VTEP that pktgen plays.
    pub ip: Ipv4Addr,
    /// Its MAC.
    pub mac: Mac,
    /// Of VXLAN.
    #[serde(default = "vxlan")]
    pub udp_port: u16,
}

fn one() -> u64 {
    1
}

fn yes() -> bool {
    true
}

fn vxlan() -> u16 {
    4789
}

fn unprivileged() -> PortRange {
    PortRange::UNPRIVILEGED
}

impl Default for Size {
    fn default() -> Self {
        Self::Fixed(64)
    }
}

impl Size {
    /// The sizes, in the order they take turns.
    pub fn turns(&self) -> &[u16] {
        match self {
            Self::Fixed(size) => std::slice::from_ref(size),
            Self::Mix(Mix::Imix) => &[64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 594, 64],
        }
    }
}

impl Protocol {
    /// Its number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Bytes of its header.
    pub fn header(self) -> usize {
        if self == Self::Tcp { 20 } else { 8 }
    }
}

impl Direction {
    /// The ways frames go.
    pub fn ways(self) -> &'static [Self] {
        match self {
            Self::Forward => &[Self::Forward],
            Self::Reverse => &[Self::Reverse],
            Self::Both => &[Self::Forward, Self::Reverse],
        }
    }
}

impl Profile {
    /// From a file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// From text; everything in it makes sense together.
    pub fn parse(text: &str) -> Result<Self> {
        let profile: Self = toml::from_str(text)?;
        profile.check()?;
        Ok(profile)
    }

    /// Says what does not fit together.
    pub fn check(&self) -> Result<()> {
        ensure!(self.sessions > 0, "sessions: at least 1");
        ensure!(self.sessions <= 1 << 28, "sessions: at most {}", 1 << 28);
        let least = 18 + 20 + self.protocol.header() + PAYLOAD;
        for size in self.frame.turns() {
            ensure!(
                (least..=9018).contains(&usize::from(*size)),
                "frame: {size} bytes; {:?} frames that carry a sequence number and a time have {least} to 9018",
                self.protocol
            );
        }
        for (name, side) in [("inside", &self.inside), ("outside", &self.outside)] {
            // As the gateway's configuration has them.
            let lifs = 1..=i32::MAX as u32;
            ensure!(lifs.contains(&side.lif), "{name}: lif {} is not in 1 to {}", side.lif, lifs.end());
            match (side.vlan, side.vni) {
                (Some(_), Some(_)) => bail!("{name}: has vlan and vni; leave one out"),
                (Some(vlan), _) => {
                    ensure!((1..=4094).contains(&vlan), "{name}: vlan {vlan} is not in 1 to 4094");
                }
                (_, Some(vni)) => {
                    ensure!((1..1 << 24).contains(&vni), "{name}: vni {vni} is not in 1 to 16777215");
                    ensure!(self.underlay.is_some(), "{name}: has a vni, but there is no [underlay]");
                }
                (None, None) => {}
            }
        }
        let vlan = self.underlay.as_ref().map_or(0, |underlay| underlay.vlan);
        ensure!(vlan <= 4094, "underlay: vlan {vlan} is not in 1 to 4094, nor 0 for none");
        let loops = matches!(self.expect, Expect::Same | Expect::Macswap);
        ensure!(
            self.expect != Expect::Learn || self.direction == Direction::Forward,
            "expect = \"learn\" knows the forward direction only"
        );
        ensure!(!(loops && self.nat.is_some()), "nat: cannot be, where frames come back as they were sent");
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub const VLAN_TO_VXLAN: &str = r#"
        sessions = 1000
        source = { addresses = "10.1.0.0/16", ports = "1024-33791" }
        destination = { addresses = "198.51.100.10", ports = "443" }
        nat = { addresses = "203.0.113.0/24", ports = "1024-61023" }
        inside = { lif = 1, vlan = 100, mac = "02:00:00:00:aa:05", gateway_mac = "02:00:00:00:aa:01" }
        outside = { lif = 2, vni = 2000, mac = "02:00:00:00:bb:0a", gateway_mac = "02:00:00:00:bb:01" }
        [underlay]
        vlan = 2
        gateway_ip = "192.0.2.1"
        gateway_mac = "02:00:00:00:00:01"
        ip = "192.0.2.9"
        mac = "02:00:00:00:02:09"
    "#;

    #[test]
    fn a_profile_reads_and_is_checked() {
        let profile = Profile::parse(VLAN_TO_VXLAN).unwrap();
        assert_eq!(profile.frame, Size::Fixed(64));
        let wrong = |from: &str, to: &str| {
            let text = VLAN_TO_VXLAN.replace(from, to);
            assert_ne!(text, VLAN_TO_VXLAN);
            format!("{:#}", Profile::parse(&text).unwrap_err())
        };
        assert!(wrong("sessions = 1000", "sessions = 1000\nframe = 63").contains("64 to 9018"));
        assert!(wrong("sessions = 1000", "sessions = 1000\nprotocol = \"tcp\"").contains("76 to 9018"));
        assert!(wrong("vlan = 100", "vlan = 4095").contains("1 to 4094"));
        assert!(wrong("vni = 2000", "vni = 2000, vlan = 3").contains("leave one out"));
        assert!(wrong("sessions = 1000", "sessions = 1000\ncolour = 3").contains("colour"));
        assert!(wrong("sessions = 1000", "sessions = 1000\nframe = \"imax\"").contains("bytes, or \"imix\""));
        assert!(wrong("vni = 2000", "vni = 0").contains("1 to 16777215"));
        assert!(wrong("vni = 2000", "vni = 16777216").contains("1 to 16777215"));
        assert!(wrong("lif = 2", "lif = 0").contains("outside: lif 0 is not in 1 to 2147483647"));
        assert!(wrong("vlan = 2\n", "vlan = 4095\n").contains("underlay: vlan 4095"));
    }

    #[test]
    fn imix_is_seven_four_one() {
        let turns = Size::Mix(Mix::Imix);
        let count = |size| turns.turns().iter().filter(|other| **other == size).count();
        assert_eq!((count(64), count(594), count(1518)), (7, 4, 1));
    }
}
