//! What is done with reports after the measurement.

use super::compare::{compare, have_common};
use super::{Report, page, plots};
use anyhow::{Context, Result, bail, ensure};
use benches::output::say;
use clap::Subcommand;
use std::fs;
use std::path::{Path, PathBuf};

/// What to do instead of measuring.
#[derive(Subcommand)]
pub enum Command {
    /// Writes a report's page and plots.
    Report {
        /// What `make bench` wrote.
        report: PathBuf,
        /// Where report.md, the plots and report.json go.
        #[arg(long)]
        into: PathBuf,
    },
    /// Compares two reports; exits with 1 if a figure got worse beyond noise, with 2 if they cannot be compared.
    Compare {
        /// The earlier report.
        old: PathBuf,
        /// The later report.
        new: PathBuf,
        /// Share of a figure that it may move even if its runs agree.
        #[arg(long, default_value_t = 0.02, value_parser = share)]
        threshold: f64,
        /// Compare even if the machines are not the same.
        #[arg(long)]
        any_machine: bool,
    },
}

impl Command {
    /// Does it; the exit code.
    pub fn run(&self) -> i32 {
        let done = match self {
            Self::Report { report, into } => publish(report, into).map(|()| true),
            Self::Compare { old, new, threshold, any_machine } => {
                judge(old, new, *threshold, *any_machine).map(|worse| worse == 0)
            }
        };
        match done {
            Ok(good) => i32::from(!good),
            Err(error) => {
                eprintln!("benches: {error:#}");
                2
            }
        }
    }
}

fn share(text: &str) -> Result<f64> {
    let share: f64 = text.parse()?;
    ensure!((0.0..1.0).contains(&share), "not from 0 up to 1; 0.02 is 2 %");
    Ok(share)
}

fn publish(path: &Path, into: &Path) -> Result<()> {
    let report = Report::read(path)?;
    fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    let put = |name: &str, text: &str| {
        let file = into.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    let plots = plots::all(&report);
    for plot in &plots {
        match &plot.svg {
            Some(svg) => put(plot.file, svg)?,
            // One of an earlier report would be shown for this one's.
            None => drop(fs::remove_file(into.join(plot.file))),
        }
    }
    put("report.md", &page::page(&report, &plots))?;
    let copy = into.join("report.json");
    if fs::canonicalize(&copy).ok() != fs::canonicalize(path).ok() {
        fs::copy(path, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
    }
    say(format_args!("report: {}", into.join("report.md").display()));
    Ok(())
}

fn judge(old: &Path, new: &Path, threshold: f64, any_machine: bool) -> Result<usize> {
    let read = |path: &Path| {
        let report = Report::read(path)?;
        ensure!(!report.results.is_empty(), "{}: holds no figures", path.display());
        Ok(report)
    };
    let (old, new) = (read(old)?, read(new)?);
    if let Some(why) = old.machine.differs_from(&new.machine) {
        if !any_machine {
            bail!("not the same machine: {why}; `--any-machine` compares them nevertheless");
        }
        say(format_args!("not the same machine: {why}"));
    }
    for (label, before, after) in old.machine.changes(&new.machine) {
        say(format_args!("{label}: {before:?}, then {after:?}"));
    }
    ensure!(
        have_common(&old, &new),
        "the reports have no figure in common; measure the same benches (--only)"
    );
    let (table, worse) = compare(&old, &new, threshold);
    say(format_args!("{table}{worse} worse beyond noise"));
    Ok(worse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Machine, sample};

    fn written(folder: &Path, name: &str, cpu: &str, mpps: f64) -> PathBuf {
        let mut report = sample(&[("hotpath.mpps.1k", "Mpps", &[mpps; 3])]);
        report.machine = Machine { cpu: cpu.into(), ..Machine::default() };
        report.write(&folder.join(name)).unwrap();
        folder.join(name)
    }

    fn code(old: &Path, new: &Path, any_machine: bool) -> i32 {
        Command::Compare { old: old.into(), new: new.into(), threshold: 0.02, any_machine }.run()
    }

    #[test]
    fn worse_is_1_and_another_machine_2() {
        let folder = tempfile::tempdir().unwrap();
        let fast = written(folder.path(), "fast.json", "a", 10.0);
        let slow = written(folder.path(), "slow.json", "a", 8.0);
        let other = written(folder.path(), "other.json", "b", 10.0);
        assert_eq!(code(&fast, &slow, false), 1);
        assert_eq!(code(&slow, &fast, false), 0);
        assert_eq!(code(&fast, &other, false), 2);
        assert_eq!(code(&fast, &other, true), 0);
        assert_eq!(code(&fast, &folder.path().join("none.json"), false), 2);
    }

    #[test]
    fn nothing_to_compare_is_2() {
        let folder = tempfile::tempdir().unwrap();
        let one = written(folder.path(), "one.json", "a", 10.0);
        let save = |name: &str, mut report: Report| {
            report.machine = Report::read(&one).unwrap().machine;
            report.write(&folder.path().join(name)).unwrap();
            folder.path().join(name)
        };
        let empty = save("empty.json", sample(&[]));
        let other = save("other.json", sample(&[("replay.mpps", "Mpps", &[1.0])]));
        for (old, new) in [(&empty, &empty), (&one, &empty), (&empty, &one), (&one, &other)] {
            assert_eq!(code(old, new, false), 2);
        }
    }

    #[test]
    fn publishes_what_is_there_and_removes_what_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let report = written(folder.path(), "bench.json", "a", 10.0);
        let into = folder.path().join("docs");
        fs::create_dir(&into).unwrap();
        fs::write(into.join("latency.svg"), "stale").unwrap();
        fs::write(into.join("README.md"), "kept").unwrap();
        publish(&report, &into).unwrap();
        let mut names: Vec<_> = fs::read_dir(&into)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["README.md", "headline.svg", "report.json", "report.md", "throughput.svg"]);
        publish(&into.join("report.json"), &into).unwrap();
        assert_eq!(fs::read(&report).unwrap(), fs::read(into.join("report.json")).unwrap());
    }

    #[test]
    fn thresholds_are_shares() {
        assert!(share("0.05").is_ok() && share("2").is_err() && share("x").is_err());
    }
}
