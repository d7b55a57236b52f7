//! DPDK's own `dpdk-testpmd`, which forwards without a look at the packet: what the I/O allows.

use super::process::{Process, Scratch, output};
use super::{WORKER_CORE, memif_server};
use anyhow::{Context, Result};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How it forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Frames go back as they came.
    Io,
    /// With source and destination MAC swapped.
    Macswap,
    /// The same with up to 128 packets from and to a port at once, as many as the gateway takes; else they are 32.
    MacswapBurst128,
}

/// A running testpmd.
pub struct Testpmd {
    /// To be paused and resumed.
    pub process: Rc<Process>,
    /// The memif's socket.
    pub socket: String,
}

/// The package that has it.
pub fn version() -> Result<String> {
    output("dpkg-query", &["-W", "-f=${Version}", "dpdk-dev"])
}

impl Testpmd {
    /// Starts one that forwards on core 1 and has a memif of one queue.
    pub fn start(mode: Mode, hugepages: bool, scratch: &Scratch) -> Result<Self> {
        let (name, forward, burst) = match mode {
            Mode::Io => ("io", "io", 32),
            Mode::Macswap => ("macswap", "macswap", 32),
            Mode::MacswapBurst128 => ("macswap128", "macswap", 128),
        };
        let socket = format!("benches-testpmd-{name}-{}", std::process::id());
        // It buffers what it writes to a file.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "dpdk-testpmd"]);
        command.arg(format!("--lcores=0@0,1@{WORKER_CORE}")).args(["-m", "64", "--no-pci", "--no-telemetry"]);
        command.args(if hugepages {
            &["--in-memory", "--iova-mode=va"][..]
        } else {
            &["--no-huge", "--no-shconf"]
        });
        command.arg(format!("--file-prefix=benches-{name}-{}", std::process::id()));
        command.arg(format!("--vdev={}", memif_server(0, &socket))).arg("--");
        command.args(["--auto-start", "--nb-cores=1", "--total-num-mbufs=8192", &format!("--burst={burst}")]);
        command.args([&format!("--forward-mode={forward}"), "--port-topology=loop", "--no-lsc-interrupt"]);
        // Commands come by its standard input; cycles are those of polls that had packets.
        command.args(["-i", "--record-core-cycles"]);
        let mut process = Process::start(command, scratch, name)?;
        process.wait_until(Duration::from_secs(30), |log| log.contains("packet forwarding - ports=1"))?;
        Ok(Self { process: Rc::new(process), socket })
    }
}

/// Cycles that a testpmd has spent on packets, and how many packets: what it answers to `show fwd stats all`.
pub fn work(process: &Process) -> Result<(u64, u64)> {
    const TOTAL: &str = "Accumulated forward statistics";
    let before = process.log().matches(TOTAL).count();
    process.tell("show fwd stats all")?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        let log = process.log();
        // Its answer ends with its prompt; nothing is said of cycles before the first packet.
        if let Some((_, answer)) = log.rsplit_once(TOTAL)
            && log.matches(TOTAL).count() > before
            && answer.contains("testpmd>")
        {
            return match answer.contains(CYCLES) {
                true => last_work(answer).context("testpmd's statistics are not as expected"),
                false => Ok((0, 0)),
            };
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    anyhow::bail!("testpmd does not answer:\n{}", process.log())
}

const CYCLES: &str = "(total cycles=";

/// From "CPU cycles/packet=99.5 (total cycles=199 / total macswap packets=2) at 2300 MHz Clock".
fn last_work(log: &str) -> Option<(u64, u64)> {
    let (cycles, rest) = log.rsplit_once(CYCLES)?.1.split_once(" / total ")?;
    let (packets, _) = rest.split_once(" packets=")?.1.split_once(')')?;
    Some((cycles.parse().ok()?, packets.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn cycles_and_packets_are_read_from_the_last_answer() {
        let line = |cycles, packets| {
            format!(
                "  CPU cycles/packet=1.50 (total cycles={cycles} / total io packets={packets}) at 2300 MHz Clock\n"
            )
        };
        let log = line(1, 2) + &line(30, 20) + "testpmd> ";
        assert_eq!(super::last_work(&log), Some((30, 20)));
        assert_eq!(super::last_work("testpmd> "), None);
    }
}
