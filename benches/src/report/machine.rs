//! What a report was measured on, and with.

use serde::{Deserialize, Serialize};
use std::process::Command;

/// Machine, versions and settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// CPU model.
    pub cpu: String,
    /// Online cores.
    pub cores: usize,
    /// TSC frequency, Hz.
    pub tsc_hz: u64,
    /// Last-level cache, with its unit, as the kernel says.
    pub cache: String,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Whether it is a virtual machine.
    pub is_virtual: bool,
    /// Kernel release.
    pub kernel: String,
    /// Distribution.
    pub system: String,
    /// Free and total 2 MiB pages at start.
    pub hugepages: String,
    /// A cache line's round trip between cores 0 and 1, nanoseconds; None with one core.
    pub core_round_trip_ns: Option<f64>,
    /// Load averages at start, over 1, 5 and 15 minutes.
    pub load: String,
    /// DPDK's version.
    pub dpdk: String,
    /// Compiler, profile and flags.
    pub build: String,
    /// Commit of the tree, "-dirty" if it had changes; empty where there is no git.
    pub commit: String,
    /// Arguments of the benches.
    pub arguments: Vec<String>,
    /// How long they ran, seconds.
    pub seconds: Option<f64>,
}

impl Machine {
    /// This one.
    pub fn this(tsc_hz: u64, core_round_trip_ns: Option<f64>) -> Self {
        let memory = field("/proc/meminfo", "MemTotal");
        let load = read("/proc/loadavg");
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: read("/proc/cpuinfo").matches("processor\t").count(),
            tsc_hz,
            cache: read("/sys/devices/system/cpu/cpu0/cache/index3/size").trim().to_owned(),
            memory_mib: memory.trim_end_matches(" kB").parse().map_or(0, |kib: u64| kib / 1024),
            is_virtual: field("/proc/cpuinfo", "flags").split(' ').any(|flag| flag == "hypervisor"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: read("/etc/os-release")
                .lines()
                .find_map(|line| line.strip_prefix("PRETTY_NAME="))
                .map(|name| name.trim_matches('"').to_owned())
                .unwrap_or_default(),
            hugepages: format!(
                "{} free of {}",
                field("/proc/meminfo", "HugePages_Free"),
                field("/proc/meminfo", "HugePages_Total")
            ),
            core_round_trip_ns,
            load: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
            dpdk: dpdk::version(),
            build: env!("BUILD_NOTE").to_owned(),
            commit: commit().unwrap_or_default(),
            arguments: std::env::args().skip(1).collect(),
            seconds: None,
        }
    }

    /// What makes its figures incomparable to those of `other`; None if it is the same machine.
    pub fn differs_from(&self, other: &Self) -> Option<String> {
        let same_clock = self.tsc_hz.abs_diff(other.tsc_hz) <= self.tsc_hz / 100;
        let known = |a: &str, b: &str| a == b || a.is_empty() || b.is_empty();
        let same = self.cpu == other.cpu && self.cores == other.cores && same_clock;
        (!same || !known(&self.cache, &other.cache))
            .then(|| format!("the first is of {}, the second of {}", self.summary(), other.summary()))
    }

    /// What is not the same, of what may differ from run to run: label, here, there.
    pub fn changes(&self, other: &Self) -> Vec<(&'static str, String, String)> {
        let rows = self.rows().into_iter().zip(other.rows());
        rows.filter(|(a, b)| a.1 != b.1).map(|((label, a), (_, b))| (label, a, b)).collect()
    }

    /// CPU, cores and clock in a few words.
    pub fn summary(&self) -> String {
        #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
        let ghz = self.tsc_hz as f64 / 1e9;
        let cores = if self.is_virtual { "virtual cores" } else { "cores" };
        let cache = if self.cache.is_empty() { String::new() } else { format!(", {} cache", self.cache) };
        format!("{}, {} {cores}, {ghz:.1} GHz{cache}", self.cpu, self.cores)
    }

    /// All of it, to be shown.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let round_trip = self.core_round_trip_ns.map_or_else(String::new, |ns| format!("{ns:.0} ns"));
        let memory = if self.memory_mib > 0 { format!("{} MiB", self.memory_mib) } else { String::new() };
        vec![
            ("machine", self.summary()),
            ("memory", memory),
            ("2 MiB pages", self.hugepages.clone()),
            ("a cache line from core 0 to 1 and back", round_trip),
            ("load average at start", self.load.clone()),
            ("system", self.system.clone()),
            ("kernel", self.kernel.clone()),
            ("DPDK", self.dpdk.trim_start_matches("DPDK ").to_owned()),
            ("build", self.build.clone()),
            ("commit", self.commit.clone()),
            ("arguments", self.arguments.join(" ")),
            ("duration", self.seconds.map(duration).unwrap_or_default()),
        ]
    }
}

fn duration(seconds: f64) -> String {
    format!("{:.0} min {:.0} s", (seconds / 60.0).floor(), seconds % 60.0)
}

fn commit() -> Option<String> {
    // Root may look at a tree that is somebody else's.
    let git = Command::new("git")
        .args(["-c", "safe.directory=*", "describe", "--always", "--dirty", "--abbrev=12"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()?;
    git.status.success().then(|| String::from_utf8_lossy(&git.stdout).trim().to_owned())
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn field(path: &str, key: &str) -> String {
    let text = read(path);
    let line = text.lines().find(|line| line.starts_with(key)).and_then(|line| line.split_once(':'));
    line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_and_the_same_as_itself() {
        let here = Machine::this(2_300_000_000, None);
        assert!(here.cores > 0 && here.memory_mib > 0, "{here:?}");
        assert!(here.build.starts_with("rustc "), "{}", here.build);
        assert!(here.dpdk.starts_with("DPDK "), "{}", here.dpdk);
        assert_eq!(here.differs_from(&here), None);
        let drifted = Machine { tsc_hz: 2_299_998_000, load: "9 9 9".into(), ..here.clone() };
        assert_eq!(here.differs_from(&drifted), None);
        assert!(here.changes(&drifted).iter().any(|(label, ..)| *label == "load average at start"));
        let other = Machine { cpu: "another".into(), ..here.clone() };
        assert!(here.differs_from(&other).is_some_and(|why| why.contains("another")));
        assert!(here.differs_from(&Machine { cores: 99, ..here.clone() }).is_some());
    }
}
