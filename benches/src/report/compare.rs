//! Two reports, figure by figure: what got worse by more than the runs differ among themselves?

use super::number::digits;
use super::targets::{Better, better, is_counted};
use super::{Figure, Report, median};
use std::fmt::Write;

/// How many median absolute deviations of its runs a figure may move.
const DEVIATIONS: f64 = 3.0;
/// Runs without which nobody knows by how much they differ.
const ENOUGH: usize = 3;
/// What a share may move whatever it was: a tenth of a percentage point.
const SHARE: f64 = 0.001;

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Beyond noise, the wrong way.
    Worse,
    /// Beyond noise, the right way.
    Better,
    /// Within noise.
    Same,
    /// Nobody says which way is better.
    Told,
    /// One of the two has so few runs that noise is not known.
    Few(usize),
}

impl Change {
    fn words(self) -> &'static str {
        match self {
            Self::Worse => "WORSE",
            Self::Better => "better",
            Self::Same => "same",
            Self::Told => "-",
            Self::Few(0 | 1) => "one run",
            Self::Few(_) => "two runs",
        }
    }
}

/// What may be taken for noise between two measurements of a figure, in its unit: the largest of three median absolute
/// deviations of either's runs, and `threshold` (a share) of the old value.
fn noise(old: &Figure, new: &Figure, threshold: f64) -> f64 {
    let floor = if old.unit == "share" { SHARE } else { 0.0 };
    let deviation = deviation(&old.runs).max(deviation(&new.runs));
    (DEVIATIONS * deviation).max(threshold * old.value.abs()).max(floor)
}

/// The median distance of the values to their median.
fn deviation(values: &[f64]) -> f64 {
    let middle = median(values);
    median(&values.iter().map(|value| (value - middle).abs()).collect::<Vec<_>>())
}

/// What became of `old`.
pub fn change(old: &Figure, new: &Figure, threshold: f64) -> Change {
    let gain = match better(&old.name, &old.unit) {
        Some(Better::Higher) => new.value - old.value,
        Some(Better::Lower) => old.value - new.value,
        None => return Change::Told,
    };
    let runs = old.runs.len().min(new.runs.len());
    if runs < ENOUGH && !is_counted(&old.name, &old.unit) {
        return Change::Few(runs);
    }
    let noise = noise(old, new, threshold);
    match gain {
        gain if gain < -noise => Change::Worse,
        gain if gain > noise => Change::Better,
        _ => Change::Same,
    }
}

/// The figure of a report that can be compared with `figure`.
fn counterpart<'r>(report: &'r Report, figure: &Figure) -> Option<&'r Figure> {
    report.figure(&figure.name).filter(|other| other.unit == figure.unit)
}

/// Whether there is something to compare.
pub fn have_common(old: &Report, new: &Report) -> bool {
    old.results.iter().any(|figure| counterpart(new, figure).is_some())
}

/// The table, and how many figures got worse.
pub fn compare(old: &Report, new: &Report, threshold: f64) -> (String, usize) {
    let mut table = format!(
        "{:<44} {:>10} {:>10} {:<12} {:>7} {:>8}\n",
        "figure", "old", "new", "unit", "ratio", "noise"
    );
    let mut worse = 0;
    let mut missing = Vec::new();
    for before in &old.results {
        let Some(after) = counterpart(new, before) else {
            missing.push(before.name.as_str());
            continue;
        };
        let change = change(before, after, threshold);
        worse += usize::from(change == Change::Worse);
        let scale = before.value.abs();
        let percent =
            |part: f64| if scale > 0.0 { format!("{:.1} %", part / scale * 100.0) } else { "-".into() };
        let ratio = if scale > 0.0 { format!("{:.3}", after.value / before.value) } else { "-".into() };
        let _ = writeln!(
            table,
            "{:<44} {:>10} {:>10} {:<12} {ratio:>7} {:>8} {}",
            before.name,
            digits(before.value),
            digits(after.value),
            before.unit,
            match change {
                Change::Few(_) => "-".into(),
                _ => percent(noise(before, after, threshold)),
            },
            change.words()
        );
    }
    let names = new.results.iter().map(|figure| figure.name.as_str());
    let fresh: Vec<_> = names.filter(|name| old.figure(name).is_none()).collect();
    for (what, names) in [("only in the first", missing), ("only in the second", fresh)] {
        if !names.is_empty() {
            let _ = writeln!(table, "{what}:\n  {}", names.join("\n  "));
        }
    }
    (table, worse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn figure(name: &str, unit: &str, runs: &[f64]) -> Figure {
        sample(&[(name, unit, runs)]).results.remove(0)
    }

    fn judge(name: &str, unit: &str, old: &[f64], new: &[f64]) -> Change {
        change(&figure(name, unit, old), &figure(name, unit, new), 0.02)
    }

    /// The same of values that all runs agree on.
    fn steady(name: &str, unit: &str, old: f64, new: f64) -> Change {
        judge(name, unit, &[old; ENOUGH], &[new; ENOUGH])
    }

    #[test]
    fn direction_follows_the_unit() {
        assert_eq!(steady("hotpath.stage.nat", "cycles", 100.0, 110.0), Change::Worse);
        assert_eq!(steady("hotpath.stage.nat", "cycles", 100.0, 90.0), Change::Better);
        assert_eq!(steady("hotpath.mpps.1k", "Mpps", 10.0, 11.0), Change::Better);
        assert_eq!(steady("hotpath.mpps.1k", "Mpps", 10.0, 9.0), Change::Worse);
        assert_eq!(steady("workers.second_speedup", "ratio", 1.9, 1.7), Change::Worse);
        assert_eq!(steady("latency.p99_ratio_to_testpmd.50", "ratio", 1.9, 1.7), Change::Better);
        assert_eq!(steady("peer.ovs_dpdk.mpps.1M", "Mpps", 1.1, 0.6), Change::Told);
    }

    #[test]
    fn noise_is_what_runs_differ_by_but_two_percent_at_least() {
        assert_eq!(steady("hotpath.stage.nat", "cycles", 100.0, 101.9), Change::Same);
        assert_eq!(steady("hotpath.stage.nat", "cycles", 100.0, 102.1), Change::Worse);
        // Deviation of the runs: 4, so 12 may be noise; whichever of the two it is that is restless.
        let restless = [92.0, 96.0, 100.0, 104.0, 108.0];
        let against = |value: f64| judge("hotpath.stage.nat", "cycles", &restless, &[value; ENOUGH]);
        assert_eq!(against(111.0), Change::Same);
        assert_eq!(judge("hotpath.stage.nat", "cycles", &[111.0; ENOUGH], &restless), Change::Same);
        assert_eq!(against(113.0), Change::Worse);
        let [old, new] = [100.0, 110.0].map(|value| figure("a.b", "cycles", &[value; ENOUGH]));
        assert_eq!(change(&old, &new, 0.15), Change::Same, "a threshold of one's own");
    }

    #[test]
    fn what_has_fewer_than_three_runs_is_not_judged() {
        let (one, two, three) = ([1.0], [1.0, 1.0], [1.0, 1.0, 1.0]);
        let judge = |old: &[f64], new: &[f64]| judge("soak.longest_pause_us", "us", old, new);
        assert_eq!(judge(&one, &[9.0; 5]), Change::Few(1));
        assert_eq!(judge(&[9.0; 5], &one), Change::Few(1));
        assert_eq!(judge(&two, &[9.0; 5]), Change::Few(2));
        assert_eq!(judge(&three, &[9.0; 3]), Change::Worse);
        let reports = [1.0, 9.0].map(|pause| sample(&[("soak.longest_pause_us", "us", &[pause])]));
        let (table, worse) = compare(&reports[0], &reports[1], 0.02);
        assert!(worse == 0 && table.lines().nth(1).unwrap().ends_with(" - one run"), "{table}");
    }

    #[test]
    fn what_is_counted_needs_one_run() {
        let judge = |name, unit, old: f64, new: f64| judge(name, unit, &[old], &[new]);
        assert_eq!(judge("instructions.all", "instructions", 500.0, 520.0), Change::Worse);
        assert_eq!(judge("table.bytes_per_session.16M", "bytes", 159.0, 150.0), Change::Better);
        assert_eq!(judge("table.load_at_refusal.64k", "share", 1.0, 0.9), Change::Worse);
    }

    #[test]
    fn shares_near_nothing_are_not_worse_for_a_trifle() {
        assert_eq!(steady("table.reader_loss", "share", 0.0, 0.0005), Change::Same);
        assert_eq!(steady("table.reader_loss", "share", 0.0, 0.01), Change::Worse);
    }

    #[test]
    fn table_tells_all_and_counts_what_is_worse() {
        let old = sample(&[
            ("hotpath.mpps.1k", "Mpps", &[10.0; 3]),
            ("replay.mpps", "Mpps", &[5.0; 3]),
            ("gone.before", "ms", &[1.0]),
            ("table.reader_loss", "share", &[0.0; 3]),
        ]);
        let new = sample(&[
            ("hotpath.mpps.1k", "Mpps", &[5.0; 3]),
            ("replay.mpps", "Mpps", &[5.0; 3]),
            ("table.reader_loss", "share", &[0.5; 3]),
            ("come.since", "ms", &[1.0]),
        ]);
        let (table, worse) = compare(&old, &new, 0.02);
        assert_eq!(worse, 2, "{table}");
        let line = table.lines().find(|line| line.starts_with("hotpath.mpps.1k")).unwrap();
        assert!(line.contains("0.500") && line.ends_with("WORSE"), "{line}");
        assert!(
            table.ends_with("only in the first:\n  gone.before\nonly in the second:\n  come.since\n"),
            "{table}"
        );
        assert_eq!(compare(&old, &old, 0.02).1, 0);
    }
}
