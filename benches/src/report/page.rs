//! The report as a page of Markdown.

use super::number::{digits, with_unit};
use super::plots::Plot;
use super::targets::{TARGETS, is_counted};
use super::{Figure, Report};
use std::fmt::Write;

/// The page, with the plots that were drawn.
pub fn page(report: &Report, plots: &[Plot]) -> String {
    let mut page = String::from(
        "# Benchmark report\n\n`benches report` made this of [report.json](report.json); do not edit it. Each figure is the median \
         of its runs. Compare figures of one report, or of two of the same machine (`benches compare`).\n\n| | |\n|---|---|\n",
    );
    for (label, value) in report.machine.rows().iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(page, "| {label} | {} |", cell(value));
    }
    page += "\n## Figures to reach\n\n| figure | reach | measured | |\n|---|---|---|---|\n";
    for target in TARGETS {
        let figure = target.figure(report);
        let measured = figure.map_or_else(String::new, shown);
        let verdict = match figure {
            Some(figure) if target.is_reached(figure.value) => "pass",
            Some(_) => "**miss**",
            None => "not measured",
        };
        let _ = writeln!(page, "| {} | {} | {measured} | {verdict} |", target.words, target.goal());
    }
    for plot in plots.iter().filter(|plot| plot.svg.is_some()) {
        let _ = write!(page, "\n## {}\n\n![{}]({})\n", plot.words, plot.words, plot.file);
    }
    page += "\n## All figures\n\n| figure | median | lowest to highest | conditions |\n|---|---|---|---|\n";
    for figure in &report.results {
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            cell(&figure.name),
            with_unit(figure.value, &figure.unit, digits),
            spread(figure).unwrap_or_else(|| only(figure).to_owned()),
            cell(&figure.conditions)
        );
    }
    page
}

/// "139 cycles (134 to 151 cycles)".
fn shown(figure: &Figure) -> String {
    let value = with_unit(figure.value, &figure.unit, digits);
    match (spread(figure), only(figure)) {
        (Some(spread), _) => format!("{value} ({spread})"),
        (None, "") => value,
        (None, only) => format!("{value} ({only})"),
    }
}

/// What is said of a figure without a spread.
fn only(figure: &Figure) -> &'static str {
    if is_counted(&figure.name, &figure.unit) { "" } else { "one run" }
}

/// Lowest and highest of the runs; None of one.
fn spread(figure: &Figure) -> Option<String> {
    let lowest = figure.runs.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = figure.runs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let [lowest, highest] = [lowest, highest].map(|value| with_unit(value, &figure.unit, digits));
    let unit = highest.find(' ').map_or("", |at| &highest[at..]);
    let lowest = lowest.strip_suffix(unit).unwrap_or(&lowest);
    (figure.runs.len() > 1).then(|| format!("{lowest} to {highest}"))
}

/// Text that keeps within its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn every_target_has_its_row_and_verdict() {
        let report = sample(&[
            ("hotpath.cycles_per_packet.1k", "cycles", &[70.0, 72.0, 75.0]),
            ("hotpath.cycles_per_packet.1M", "cycles", &[139.0]),
            ("memif.ratio_to_testpmd.1k", "ratio", &[0.61]),
            ("table.reader_loss", "cycles", &[0.01]),
            ("table.bytes_per_session.16M", "bytes", &[159.0]),
        ]);
        let page = page(&report, &[]);
        let row = |start: &str| {
            page.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {page}"))
        };
        assert_eq!(
            row("| decap, NAT, encap in process"),
            "| decap, NAT, encap in process, 1k sessions | ≤ 80 cycles | 72.0 cycles (70.0 to 75.0 cycles) | pass |"
        );
        assert_eq!(
            row("| the same, 1M"),
            "| the same, 1M sessions | ≤ 130 cycles | 139 cycles (one run) | **miss** |"
        );
        assert!(row("| ÷ testpmd").ends_with("| ≥ 0.6 | 0.610 (one run) | pass |"));
        assert!(row("| memory per session").ends_with("| 159 bytes | pass |"), "counted, not timed");
        assert!(row("| what that worker").ends_with("| not measured |"), "another unit is another figure");
        assert_eq!(page.matches("not measured").count(), TARGETS.len() - 4);
    }

    #[test]
    fn text_stays_in_its_cell_and_drawn_plots_are_shown() {
        let mut report = sample(&[("a.b", "ms", &[1.0])]);
        report.results[0].conditions = "a | b\nc".into();
        let plot = |file, svg| Plot { file, words: "words", svg };
        let page = page(&report, &[plot("drawn.svg", Some(String::new())), plot("empty.svg", None)]);
        assert!(page.contains("| `a.b` | 1.00 ms | one run | a \\| b c |"), "{page}");
        assert!(page.contains("![words](drawn.svg)") && !page.contains("empty.svg"));
    }
}
