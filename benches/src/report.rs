//! The bench report: results with their runs and conditions, as JSON and as a table.

use serde::Serialize;
use std::path::Path;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Result {
    /// Name that scripts look for.
    pub name: String,
    /// Median of `runs`.
    pub value: f64,
    /// Of `value` and `runs`.
    pub unit: &'static str,
    /// Each run, in order.
    pub runs: Vec<f64>,
    /// What it was measured under.
    pub conditions: String,
}

/// What it ran on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// CPU model.
    pub cpu: String,
    /// Online cores.
    pub cores: usize,
    /// TSC frequency, Hz.
    pub tsc_hz: u64,
    /// Kernel release.
    pub kernel: String,
    /// Free and total 2 MiB pages at start.
    pub hugepages: String,
    /// A cache line's round trip between cores 0 and 1, nanoseconds; None with one core.
    pub core_round_trip_ns: Option<f64>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What it ran on.
    pub machine: Machine,
    /// In the order they were measured.
    pub results: Vec<Result>,
}

impl Report {
    /// Empty, for this machine.
    pub fn new(tsc_hz: u64, core_round_trip_ns: Option<f64>) -> Self {
        let machine = Machine {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: read("/proc/cpuinfo").matches("processor\t").count(),
            tsc_hz,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            hugepages: format!(
                "{} free of {}",
                field("/proc/meminfo", "HugePages_Free"),
                field("/proc/meminfo", "HugePages_Total")
            ),
            core_round_trip_ns,
        };
        Self { machine, results: Vec::new() }
    }

    /// Adds a figure and prints it.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        runs: Vec<f64>,
        conditions: impl Into<String>,
    ) {
        let result =
            Result { name: name.into(), value: median(&runs), unit, runs, conditions: conditions.into() };
        println!("{:<44} {:>12.3} {:<24} {}", result.name, result.value, result.unit, result.conditions);
        self.results.push(result);
    }

    /// Writes the JSON file, making its folder.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, serde_json::to_string_pretty(self)? + "\n")?;
        println!("report: {}", path.display());
        Ok(())
    }
}

/// The middle value; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
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
    use super::median;

    #[test]
    fn median_is_the_middle_of_odd_and_the_mean_of_even() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(&[]).abs() < f64::EPSILON);
    }
}
