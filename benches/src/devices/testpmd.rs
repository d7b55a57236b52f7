//! DPDK's own `dpdk-testpmd`, which forwards without a look at the packet: what the I/O allows.

use super::process::{Process, Scratch, output};
use super::{WORKER_CORE, memif_server};
use anyhow::Result;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

/// How it forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Frames go back as they came.
    Io,
    /// With source and destination MAC swapped.
    Macswap,
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
        let name = match mode {
            Mode::Io => "io",
            Mode::Macswap => "macswap",
        };
        let socket = format!("benches-testpmd-{name}-{}", std::process::id());
        let mut command = Command::new("dpdk-testpmd");
        command.arg(format!("--lcores=0@0,1@{WORKER_CORE}")).args(["-m", "64", "--no-pci", "--no-telemetry"]);
        command.args(if hugepages {
            &["--in-memory", "--iova-mode=va"][..]
        } else {
            &["--no-huge", "--no-shconf"]
        });
        command.arg(format!("--file-prefix=benches-{name}-{}", std::process::id()));
        command.arg(format!("--vdev={}", memif_server(0, &socket))).arg("--");
        command.args(["--auto-start", "--nb-cores=1", "--total-num-mbufs=8192", "--burst=32"]);
        command.args([&format!("--forward-mode={name}"), "--port-topology=loop", "--no-lsc-interrupt"]);
        // Keeps it from reading commands.
        command.arg("--stats-period=3600");
        let mut process = Process::start(command, scratch, name)?;
        process.wait_until(Duration::from_secs(30), |log| log.contains("packet forwarding - ports=1"))?;
        Ok(Self { process: Rc::new(process), socket })
    }
}
