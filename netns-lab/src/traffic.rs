//! Real traffic between tenants: iperf3, ping, DNS.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::command::need_program;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::plan::Host;
use crate::process::Process;

/// How long a server gets to listen.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// What a client may take on top of its traffic's duration.
const SLACK: Duration = Duration::from_secs(40);

/// The name that [`dns_server`] knows.
pub const DNS_NAME: &str = "lab.example";
/// Its address.
pub const DNS_ADDRESS: &str = "192.0.2.80";

/// What iperf3 shall do.
#[derive(Debug, Clone)]
pub struct Iperf {
    /// The server's address as the client sees it.
    pub to: IpAddr,
    /// And its port.
    pub port: u16,
    /// How long, in seconds.
    pub seconds: u32,
    /// UDP at so many bits per second, in packets of 1200 bytes; `None`: TCP as fast as it goes.
    pub udp_rate: Option<u64>,
    /// The server sends.
    pub reverse: bool,
}

impl Iperf {
    /// TCP to `to` for `seconds`.
    pub fn tcp(to: IpAddr, port: u16, seconds: u32) -> Self {
        Iperf { to, port, seconds, udp_rate: None, reverse: false }
    }

    /// Runs the client on `from` to its end.
    ///
    /// # Errors
    /// As [`crate::command::run`]; [`Error::Output`] if iperf3 reports none of its results.
    pub fn run(&self, lab: &Lab, from: &Host) -> Result<IperfResult> {
        let argv = self.argv();
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let output = lab.ns(from.name)?.output(&argv, Duration::from_secs(self.seconds.into()) + SLACK)?;
        IperfResult::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Starts the client on `from`; its output goes to a file that [`IperfResult::read`] understands.
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn start(&self, lab: &Lab, from: &Host) -> Result<Process> {
        let argv = self.argv();
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        Process::spawn(
            lab.ns(from.name)?,
            &argv,
            &log(lab, &format!("iperf3-client-{}", from.name), self.port),
        )
    }

    fn argv(&self) -> Vec<String> {
        let mut argv =
            format!("iperf3 -J -c {} -p {} -t {} --connect-timeout 10000", self.to, self.port, self.seconds);
        if let Some(rate) = self.udp_rate {
            argv += &format!(" -u -b {rate} -l 1200");
        }
        if self.reverse {
            argv += " -R";
        }
        argv.split(' ').map(str::to_owned).collect()
    }
}

/// What iperf3 measured, at the receiver.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IperfResult {
    /// Throughput.
    pub bits_per_second: f64,
    /// Bytes received.
    pub bytes: u64,
    /// UDP: share of packets lost, 0 to 1. TCP: 0.
    pub loss: f64,
}

impl IperfResult {
    /// The result of a client that [`Iperf::start`] started and that has ended.
    ///
    /// # Errors
    /// [`Error::Output`] with iperf3's reason.
    pub fn read(client: &Process) -> Result<Self> {
        IperfResult::parse(&client.output())
    }

    fn parse(text: &str) -> Result<Self> {
        let bad = |output: String| Error::Output { program: "iperf3".to_owned(), output };
        let json: Value = serde_json::from_str(text).map_err(|_| bad(text.to_owned()))?;
        if let Some(error) = json.get("error").and_then(Value::as_str) {
            return Err(bad(error.to_owned()));
        }
        let number = |path: &str| json.pointer(path).and_then(Value::as_f64);
        if let Some(lost) = number("/end/sum/lost_percent") {
            let bits_per_second = number("/end/sum/bits_per_second").unwrap_or(0.0) * (1.0 - lost / 100.0);
            let bytes = number("/end/sum/bytes").unwrap_or(0.0) * (1.0 - lost / 100.0);
            return Ok(IperfResult { bits_per_second, bytes: bytes as u64, loss: lost / 100.0 });
        }
        let received = number("/end/sum_received/bits_per_second").zip(number("/end/sum_received/bytes"));
        let (bits_per_second, bytes) = received.ok_or_else(|| bad(text.to_owned()))?;
        Ok(IperfResult { bits_per_second, bytes: bytes as u64, loss: 0.0 })
    }
}

/// An iperf3 server on `host`.
///
/// # Errors
/// As [`Process::wait_until`]; [`Error::Missing`].
pub fn iperf_server(lab: &Lab, host: &Host, port: u16) -> Result<Process> {
    need_program("iperf3", "iperf3")?;
    let log = log(lab, &format!("iperf3-server-{}", host.name), port);
    let port = port.to_string();
    let argv = ["iperf3", "-s", "-p", &port, "--forceflush"];
    let mut server = Process::spawn(lab.ns(host.name)?, &argv, &log)?;
    let listens = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("Server listening"));
    server.wait_until("listening", READY_LIMIT, listens)?;
    Ok(server)
}

/// A DNS server on `host` that knows one name.
///
/// # Errors
/// As [`Process::wait_until`]; [`Error::Missing`].
pub fn dns_server(lab: &Lab, host: &Host) -> Result<Process> {
    need_program("dnsmasq", "dnsmasq-base")?;
    let log = log(lab, &format!("dnsmasq-{}", host.name), 53);
    let address = format!("--address=/{DNS_NAME}/{DNS_ADDRESS}");
    let argv = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--pid-file=",
        "--user=root",
        "--log-facility=-",
        "--interface=eth0",
        "--bind-interfaces",
        &address,
    ];
    let mut server = Process::spawn(lab.ns(host.name)?, &argv, &log)?;
    let listens = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("started, version"));
    server.wait_until("listening", READY_LIMIT, listens)?;
    Ok(server)
}

/// Asks `server` from `from` for [`DNS_NAME`] over UDP, once, from `source_port` (0: any); returns the answer.
///
/// # Errors
/// As [`crate::command::run`]; [`Error::Missing`].
pub fn dns_query(lab: &Lab, from: &Host, server: IpAddr, port: u16, source_port: u16) -> Result<String> {
    need_program("dig", "bind9-dnsutils")?;
    let own: IpAddr = if server.is_ipv4() { from.ipv4().into() } else { from.ipv6().into() };
    let (server, port, source) = (format!("@{server}"), port.to_string(), format!("{own}#{source_port}"));
    let argv =
        ["dig", "+short", "+tries=3", "+time=5", "+nocookie", "-b", &source, "-p", &port, &server, DNS_NAME];
    Ok(lab.ns(from.name)?.run(&argv, SLACK)?.trim().to_owned())
}

/// Pings `to` from `from`, `count` times at an interval of 0.1 s; returns how many answers came.
///
/// # Errors
/// As [`crate::command::output`]; [`Error::Output`].
pub fn ping(lab: &Lab, from: &Host, to: IpAddr, count: u32) -> Result<u32> {
    need_program("ping", "iputils-ping")?;
    let (count, to) = (count.to_string(), to.to_string());
    let argv = ["ping", "-n", "-c", &count, "-i", "0.1", "-W", "5", &to];
    let output = lab.ns(from.name)?.output(&argv, SLACK)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let received = text.split(", ").find_map(|part| part.strip_suffix(" received")?.parse().ok());
    received.ok_or_else(|| Error::Output { program: "ping".to_owned(), output: text.into_owned() })
}

fn log(lab: &Lab, name: &str, port: u16) -> PathBuf {
    lab.directory().join(format!("{name}-{port}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iperf3_results_are_read() {
        let tcp = r#"{"end": {"sum_sent": {"bits_per_second": 9.0, "bytes": 9},
                              "sum_received": {"bits_per_second": 8000.5, "bytes": 3000}}}"#;
        assert_eq!(
            IperfResult::parse(tcp).unwrap(),
            IperfResult { bits_per_second: 8000.5, bytes: 3000, loss: 0.0 }
        );
        let udp = r#"{"end": {"sum": {"bits_per_second": 1000.0, "bytes": 400, "lost_percent": 25.0}}}"#;
        assert_eq!(
            IperfResult::parse(udp).unwrap(),
            IperfResult { bits_per_second: 750.0, bytes: 300, loss: 0.25 }
        );
        let error = IperfResult::parse(r#"{"error": "unable to connect"}"#).unwrap_err().to_string();
        assert!(error.contains("unable to connect"), "{error}");
    }
}
