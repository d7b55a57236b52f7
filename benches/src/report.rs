//! The bench report: figures with their runs and conditions, as JSON; and what is made of it for people.

mod command;
mod compare;
mod curves;
mod charts;
mod machine;
mod number;
mod page;
mod plots;
mod svg;
mod targets;

pub use command::Command;
pub use machine::Machine;

use anyhow::Context;
use benches::output::{check_file, say};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;

/// One figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// Name that scripts look for.
    pub name: String,
    /// Median of `runs`.
    pub value: f64,
    /// Of `value` and `runs`.
    pub unit: String,
    /// Each run, in order.
    pub runs: Vec<f64>,
    /// What it was measured under.
    pub conditions: String,
}

impl Figure {
    fn new(name: String, unit: &str, runs: Vec<f64>, conditions: String) -> Self {
        Self { name, value: median(&runs), unit: unit.to_owned(), runs, conditions }
    }
}

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What it ran on.
    pub machine: Machine,
    /// In the order they were measured.
    pub results: Vec<Figure>,
    /// When measuring began; unknown of a report that was read.
    #[serde(skip)]
    begun: Option<Instant>,
}

impl Report {
    /// Empty, for this machine.
    pub fn new(tsc_hz: u64, core_round_trip_ns: Option<f64>) -> Self {
        let machine = Machine::this(tsc_hz, core_round_trip_ns);
        Self { machine, results: Vec::new(), begun: Some(Instant::now()) }
    }

    /// Adds a figure and prints it; one that is measured again, at another time, gets more runs.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        unit: &str,
        mut runs: Vec<f64>,
        conditions: impl Into<String>,
    ) {
        let name = name.into();
        let position = self.results.iter().position(|figure| figure.name == name);
        if let Some(figure) = position.and_then(|position| self.results.get(position)) {
            runs = [figure.runs.as_slice(), &runs].concat();
        }
        let figure = Figure::new(name, unit, runs, conditions.into());
        let Figure { name, value, unit, conditions, .. } = &figure;
        say(format_args!("{name:<44} {value:>12.3} {unit:<24} {conditions}"));
        match position.and_then(|position| self.results.get_mut(position)) {
            Some(before) => *before = figure,
            None => self.results.push(figure),
        }
    }

    /// The figure of that name.
    fn figure(&self, name: &str) -> Option<&Figure> {
        self.results.iter().find(|figure| figure.name == name)
    }

    /// Reads the JSON file.
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let report = serde_json::from_slice(&text);
        report.with_context(|| format!("{} is no report of `make bench`", path.display()))
    }

    /// That the JSON file can be written, making its folder.
    pub fn check_file(option: &str, path: &Path) -> anyhow::Result<()> {
        make_folder(path).with_context(|| option.to_owned())?;
        check_file(option, path)
    }

    /// Writes the JSON file, making its folder; with the time it took so far.
    pub fn write(&mut self, path: &Path) -> anyhow::Result<()> {
        if let Some(begun) = self.begun {
            self.machine.seconds = Some(begun.elapsed().as_secs_f64().round());
        }
        make_folder(path)?;
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
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

/// A report to test with.
#[cfg(test)]
fn sample(figures: &[(&str, &str, &[f64])]) -> Report {
    let figure = |(name, unit, runs): &(&str, &str, &[f64])| {
        Figure::new((*name).into(), unit, runs.to_vec(), "in a test".into())
    };
    Report { machine: Machine::default(), results: figures.iter().map(figure).collect(), begun: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_of_odd_and_the_mean_of_even() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(&[]).abs() < f64::EPSILON);
    }

    #[test]
    fn what_was_written_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/report.json");
        let mut report = sample(&[("hotpath.mpps.1k", "Mpps", &[10.0, 12.0, 11.0])]);
        report.machine = Machine::this(2_300_000_000, Some(101.5));
        report.write(&path).unwrap();
        let read = Report::read(&path).unwrap();
        assert_eq!(read.machine, report.machine);
        assert_eq!(format!("{:?}", read.results), format!("{:?}", report.results));
    }

    #[test]
    fn what_is_measured_again_has_all_runs_in_its_place() {
        let mut report = sample(&[("a", "s", &[1.0, 9.0]), ("b", "s", &[5.0])]);
        report.add("a", "s", vec![2.0], "in a test");
        let figures: Vec<_> =
            report.results.iter().map(|f| (f.name.as_str(), f.value, f.runs.len())).collect();
        assert_eq!(figures, [("a", 2.0, 3), ("b", 5.0, 1)]);
    }

    #[test]
    fn how_long_it_took_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let mut report = Report::new(2_300_000_000, None);
        report.begun = Instant::now().checked_sub(std::time::Duration::from_secs(725));
        report.write(&path).unwrap();
        let rows = Report::read(&path).unwrap().machine.rows();
        let (_, duration) = rows.iter().find(|(label, _)| *label == "duration").unwrap();
        assert!(duration.starts_with("12 min "), "{duration}");
        Report::read(&path).unwrap().write(&path).unwrap();
        assert_eq!(Report::read(&path).unwrap().machine.rows(), rows, "writing it again takes no time");
    }

    #[test]
    fn reports_of_earlier_versions_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.json");
        std::fs::write(&path, r#"{"machine": {"cpu": "x", "cores": 2}, "results": []}"#).unwrap();
        assert_eq!(Report::read(&path).unwrap().machine.cpu, "x");
        std::fs::write(&path, r#"{"machine": "#).unwrap();
        let error = Report::read(&path).unwrap_err().to_string();
        assert!(error.contains("old.json is no report"), "{error}");
    }
}
