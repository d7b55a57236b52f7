//! What may stand on the right of an equals sign.

use control::Endpoint;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use toml::de::DeValue;

/// Parses six pairs of hexadecimal digits between colons, as `ip link` shows them.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part =
            parts.next().filter(|part| part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// A MAC as `ip link` shows it.
pub fn format_mac(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

pub(super) const MAC: &str = "a unicast MAC address such as \"02:00:00:00:00:01\"";

pub(super) fn mac(value: &DeValue<'_>) -> Option<[u8; 6]> {
    parse_mac(value.as_str()?).filter(|mac| *mac != [0; 6] && mac[0] & 1 == 0)
}

pub(super) fn ip(value: &DeValue<'_>) -> Option<IpAddr> {
    value.as_str()?.parse::<IpAddr>().ok().filter(|ip| is_host(*ip))
}

/// "IP/LENGTH".
pub(super) fn prefix(value: &DeValue<'_>) -> Option<(IpAddr, u8)> {
    let (ip, length) = value.as_str()?.split_once('/')?;
    Some((ip.parse().ok()?, length.parse().ok()?))
}

pub(super) fn ipv4(value: &DeValue<'_>) -> Option<Ipv4Addr> {
    value.as_str()?.parse::<Ipv4Addr>().ok().filter(|ip| is_host(IpAddr::V4(*ip)))
}

/// Whether an interface may have this address.
fn is_host(ip: IpAddr) -> bool {
    let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback() && !broadcast
}

pub(super) fn integer<T: TryFrom<i64>>(range: RangeInclusive<i64>) -> impl Fn(&DeValue<'_>) -> Option<T> {
    move |value| {
        let number = value.as_integer()?;
        let number = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
        if range.contains(&number) { T::try_from(number).ok() } else { None }
    }
}

pub(super) fn boolean(value: &DeValue<'_>) -> Option<bool> {
    value.as_bool()
}

/// Text of printable characters, not empty.
pub(super) fn text(value: &DeValue<'_>) -> Option<String> {
    let text = value.as_str()?;
    (!text.trim().is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

pub(super) const NAME: &str =
    "a name of at most 32 letters, digits, '-', '_' and '.', beginning with a letter or digit";

/// A name that may also stand in a file name and before an equals sign.
pub(super) fn name(value: &DeValue<'_>) -> Option<String> {
    const LONGEST: usize = 32;
    let name = value.as_str()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    (starts_well && name.len() <= LONGEST && name.chars().all(plain)).then(|| name.to_owned())
}

pub(super) const DEVICE: &str =
    "a PCI address such as \"0000:01:00.0\" or a DPDK vdev such as \"net_af_packet0,iface=eth1\"";

pub(super) fn device(value: &DeValue<'_>) -> Option<String> {
    let device = value.as_str()?;
    let name = device.split(',').next()?;
    let is_vdev = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    let printable = device.chars().all(|c| c.is_ascii_graphic());
    (printable && (is_vdev || is_pci(name))).then(|| device.to_owned())
}

/// `[DDDD:]BB:DD.F` in hexadecimal.
pub(crate) fn is_pci(name: &str) -> bool {
    let hex = |part: &str, len: usize| part.len() == len && part.bytes().all(|c| c.is_ascii_hexdigit());
    let Some((address, function)) = name.rsplit_once('.') else { return false };
    let parts = address.split(':').collect::<Vec<_>>();
    let bus_device = match parts.as_slice() {
        [domain, bus, device] if hex(domain, 4) => hex(bus, 2) && hex(device, 2),
        [bus, device] => hex(bus, 2) && hex(device, 2),
        _ => false,
    };
    bus_device && function.len() == 1 && matches!(function.as_bytes(), [b'0'..=b'7'])
}

/// The kernel's interface that a virtual device takes.
pub(crate) fn interface(device: &str) -> Option<&str> {
    device.split(',').skip(1).find_map(|argument| argument.strip_prefix("iface="))
}

pub(super) const LISTEN: &str = "\"IP:PORT\" or \"unix:/absolute/path\"";

/// An endpoint whose place does not depend on where the gateway is started, nor on chance.
pub(super) fn listen(value: &DeValue<'_>) -> Option<Endpoint> {
    value.as_str()?.parse::<Endpoint>().ok().filter(|endpoint| match endpoint {
        Endpoint::Tcp(address) => address.port() != 0,
        Endpoint::Unix(path) => path.is_absolute() && path.file_name().is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs() {
        assert_eq!(parse_mac("02:00:00:00:aB:01"), Some([2, 0, 0, 0, 0xab, 1]));
        for wrong in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "02-00-00-00-00-01",
            "02:00:00:00:00:+1",
        ] {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
        assert_eq!(format_mac(&[2, 0, 0, 0, 0xab, 1]), "02:00:00:00:ab:01");
    }

    #[test]
    fn devices() {
        let ok = [
            "0000:01:00.0",
            "af:1f.7",
            "net_af_packet0,iface=eth1",
            "net_null0",
            "virtio_user0,path=/dev/vhost-net",
        ];
        for device in ok {
            assert!(super::device(&DeValue::String(device.into())).is_some(), "{device}");
        }
        for device in ["", "eth 1", "0000:01:00.8", "0000:1:0.0", ",iface=eth0", "net_null0\n"] {
            assert!(super::device(&DeValue::String(device.into())).is_none(), "{device}");
        }
    }

    #[test]
    fn listeners() {
        let parse =
            |text: &'static str| listen(&DeValue::String(text.into())).map(|endpoint| endpoint.to_string());
        for text in ["127.0.0.1:3443", "[::1]:3443", "unix:/run/x.sock"] {
            assert_eq!(parse(text).as_deref(), Some(text));
        }
        for text in
            ["", "3443", "localhost:3443", "127.0.0.1:0", "unix:", "unix:/", "unix:run/x", "127.0.0.1"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
