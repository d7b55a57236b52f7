//! Values of the command line's options.

use anyhow::{Result, anyhow, bail, ensure};
use dpdk::{Memif, MemifError, MemifOptions};
use std::ops::RangeBounds;
use std::str::FromStr;
use std::time::Duration;

/// How fast to send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// As fast as packets come back.
    Max,
    /// Packets a second.
    Packets(f64),
}

pub fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    number(text, "\"max\" or a number of packets above 0", |rate| rate > 0.0).map(Rate::Packets)
}

pub fn packets_a_second(text: &str) -> Result<f64, String> {
    number(text, "a number of packets above 0", |rate| rate > 0.0)
}

/// 0 is none.
pub fn fill(text: &str) -> Result<f64, String> {
    number(text, "0, or 1 or more packets", |rate| rate == 0.0 || rate >= 1.0)
}

pub fn goal(text: &str) -> Result<f64, String> {
    number(text, "a share from 0 up to 1, such as 0.005 for 0.5 %", |share| (0.0..1.0).contains(&share))
}

pub fn width(text: &str) -> Result<f64, String> {
    number(text, "a share between 0 and 1, such as 0.01 for 1 %", |share| share > 0.0 && share < 1.0)
}

/// Longer ones would be more ticks than can be counted.
const SECONDS: f64 = 1e6;

pub fn seconds(text: &str) -> Result<Duration, String> {
    let good = |seconds: f64| seconds > 0.0 && seconds <= SECONDS;
    number(text, "a number of seconds above 0, a million at most", good).map(Duration::from_secs_f64)
}

pub fn warm_up(text: &str) -> Result<Duration, String> {
    let good = |seconds: f64| (0.0..=SECONDS).contains(&seconds);
    number(text, "a number of seconds from 0 to a million", good).map(Duration::from_secs_f64)
}

fn number(text: &str, wanted: &str, good: impl Fn(f64) -> bool) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| value.is_finite() && good(*value));
    value.ok_or_else(|| format!("wanted is {wanted}"))
}

/// What follows `memif` in a device, if it is one of the generator's own.
pub fn memif_arguments(device: &str) -> Option<&str> {
    if device == "memif" { Some("") } else { device.strip_prefix("memif,") }
}

/// A memif by its arguments.
pub fn memif(arguments: &str) -> Result<MemifOptions<'_>> {
    let mut options = MemifOptions { socket: "", ..MemifOptions::default() };
    for argument in arguments.split(',').filter(|argument| !argument.is_empty()) {
        let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
        let wrong = || {
            anyhow!(
                "--port memif: {argument:?}: wanted are socket=NAME, socket-abstract=yes or no, id=N, rsize=1 to 14, rings=1 to 256"
            )
        };
        match (key, value) {
            ("socket", name) => options.socket = name,
            ("socket-abstract", "yes" | "no") => options.abstract_socket = value == "yes",
            ("id", id) => options.id = id.parse().map_err(|_| wrong())?,
            ("rsize", bits) => options.ring_bits = within(bits, 1..=14).ok_or_else(wrong)?,
            ("rings", rings) => options.rx_rings = within(rings, 1..=256).ok_or_else(wrong)?,
            _ => return Err(wrong()),
        }
    }
    ensure!(
        !options.socket.is_empty(),
        "--port memif: socket= is missing: give memif,socket=NAME, the server's socket"
    );
    Ok(options)
}

fn within<T: FromStr + PartialOrd>(text: &str, range: impl RangeBounds<T>) -> Option<T> {
    text.parse().ok().filter(|value| range.contains(value))
}

/// Connects to a memif's server.
pub fn connect(options: &MemifOptions<'_>) -> Result<Memif> {
    match Memif::connect(options) {
        Err(error @ MemifError::Socket { operation: "connecting", .. }) if options.abstract_socket => {
            bail!("{error} with socket-abstract=no it listens on a path: leave socket-abstract=yes out")
        }
        Err(error @ MemifError::Socket { operation: "connecting", .. }) => {
            bail!(
                "{error} DPDK's listens on an abstract socket, unless its device says socket-abstract=no: give socket-abstract=yes"
            )
        }
        connected => connected.map_err(|error| anyhow!(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_ranges() {
        assert_eq!((rate("max"), rate("1e6")), (Ok(Rate::Max), Ok(Rate::Packets(1e6))));
        assert!(["0", "-1", "inf", "NaN", "fast", ""].iter().all(|text| rate(text).is_err()));
        assert!(["0", "-1", "inf", "NaN"].iter().all(|text| packets_a_second(text).is_err()));
        assert_eq!((fill("0"), fill("1e5")), (Ok(0.0), Ok(1e5)));
        assert!(["-1", "0.1", "NaN"].iter().all(|text| fill(text).is_err()));
        assert_eq!((goal("0"), goal("0.005")), (Ok(0.0), Ok(0.005)));
        assert!(["-0.1", "1", "100", "NaN"].iter().all(|text| goal(text).is_err()));
        assert_eq!(width("0.01"), Ok(0.01));
        assert!(["0", "-1", "1", "NaN"].iter().all(|text| width(text).is_err()));
        assert_eq!((seconds("0.5"), warm_up("0")), (Ok(Duration::from_millis(500)), Ok(Duration::ZERO)));
        assert!(["0", "-1", "1e7", "NaN"].iter().all(|text| seconds(text).is_err()));
        assert!(["-1", "1e7", "NaN"].iter().all(|text| warm_up(text).is_err()));
        assert!(seconds("0").unwrap_err().contains("above 0"));
    }

    #[test]
    fn a_memif_is_read() {
        let read = memif("socket=/run/x.sock,socket-abstract=yes,id=3,rsize=11,rings=2").unwrap();
        let MemifOptions { socket, abstract_socket, id, ring_bits, rx_rings, .. } = read;
        assert_eq!((socket, abstract_socket, id, ring_bits, rx_rings), ("/run/x.sock", true, 3, 11, 2));
        assert!(!memif("socket=x,socket-abstract=no").unwrap().abstract_socket);
        for arguments in ["", "id=1", "socket="] {
            let error = memif(arguments).unwrap_err().to_string();
            assert!(error.contains("socket= is missing"), "{error}");
        }
        for wrong in
            ["socket-abstract=maybe", "rings=0", "rings=257", "rsize=0", "rsize=15", "id=x", "role=client"]
        {
            let error = memif(&format!("socket=x,{wrong}")).unwrap_err().to_string();
            assert!(error.contains(&format!("{wrong:?}: wanted are")), "{error}");
        }
        assert_eq!((memif_arguments("memif"), memif_arguments("memif,id=1")), (Some(""), Some("id=1")));
        assert_eq!(memif_arguments("net_memif0,role=client"), None);
    }

    #[test]
    fn who_finds_no_socket_hears_of_abstract_ones() {
        let name = format!("/nowhere/pktgen-{}", std::process::id());
        let refused = |abstract_socket| {
            let options = MemifOptions {
                socket: &name,
                abstract_socket,
                patience: Duration::ZERO,
                ..MemifOptions::default()
            };
            connect(&options).unwrap_err().to_string()
        };
        assert!(refused(false).ends_with("give socket-abstract=yes"), "{}", refused(false));
        assert!(refused(true).ends_with("leave socket-abstract=yes out"), "{}", refused(true));
    }
}
