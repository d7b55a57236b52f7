//! Which plots a report has: by the names of its figures.

use super::charts::{Series, bars, columns, stack};
use super::curves::{Curve, curves};
use super::number::{round, with_unit};
use super::targets::TARGETS;
use super::{Figure, Report};

/// A plot and where it goes.
pub struct Plot {
    /// File name.
    pub file: &'static str,
    /// What it shows.
    pub words: &'static str,
    /// SVG; None if the report has no figures for it.
    pub svg: Option<String>,
}

/// All plots, drawn or not.
pub fn all(report: &Report) -> Vec<Plot> {
    let plot = |file, words, svg| Plot { file, words, svg };
    vec![
        plot("headline.svg", "Packets per second beside what else does NAT", headline(report)),
        plot("throughput.svg", "Packets per second over sessions", throughput(report)),
        plot("cycles.svg", "Cycles per packet over sessions", cycles(report)),
        plot("stages.svg", "Cycles by stage", stages(report)),
        plot("latency.svg", "Latency over load", latency(report)),
    ]
}

const SIZES: [&str; 4] = ["1k", "64k", "1M", "16M"];
const OURS: &str = "#0b7a75";

/// Who is drawn how, by what stands before `.mpps.` in the name: label, colour.
const WHO: [(&str, &str, &str); 7] = [
    ("memif", "gateway", OURS),
    ("hotpath", "gateway in process", "#7fc4c0"),
    ("memif.testpmd_macswap", "testpmd macswap, no NAT", "#8c959f"),
    ("memif.testpmd_io", "testpmd io, no NAT", "#c4cad0"),
    ("peer.testpmd.macswap_burst128", "testpmd macswap, ×128", "#a9b1b9"),
    ("peer.ovs_dpdk", "OVS-DPDK ct+nat", "#d9822b"),
    ("peer.nftables", "Linux nftables", "#6f5bd6"),
];

/// `prefix` of `prefix.mpps.size`, and the size.
fn rate(figure: &Figure) -> Option<(&str, usize)> {
    let (who, size) = figure.name.split_once(".mpps.")?;
    Some((who, SIZES.iter().position(|known| *known == size)?))
}

/// Rates over sessions, of those in [`WHO`] first, then of others.
fn rates(report: &Report) -> Vec<(String, Series)> {
    let mut list: Vec<(String, Series)> = WHO
        .iter()
        .map(|(who, label, colour)| (*who, *label, *colour))
        .map(|(who, label, colour)| (who.to_owned(), empty(label, colour)))
        .collect();
    for (figure, (who, size)) in report.results.iter().filter_map(|figure| Some((figure, rate(figure)?))) {
        let place = list.iter().position(|(known, _)| known == who).unwrap_or_else(|| {
            list.push((who.to_owned(), empty(who, "#b8a125")));
            list.len() - 1
        });
        list[place].1.values[size] = Some(figure.value);
    }
    list.retain(|(_, series)| series.values.iter().any(Option::is_some));
    list
}

fn empty(label: &str, colour: &'static str) -> Series {
    Series { label: label.to_owned(), colour, values: vec![None; SIZES.len()] }
}

/// The sizes that any of `series` has, as groups; and `series` with those alone.
fn groups(mut series: Vec<Series>) -> Option<(Vec<String>, Vec<Series>)> {
    let used: Vec<usize> =
        (0..SIZES.len()).filter(|size| series.iter().any(|series| series.values[*size].is_some())).collect();
    for one in &mut series {
        one.values = used.iter().map(|size| one.values[*size]).collect();
    }
    let names = used.iter().map(|size| format!("{} sessions", SIZES[*size])).collect();
    (!used.is_empty()).then_some((names, series))
}

/// What a contender's core was busy for, by the conditions, if that leaves more than a tenth of it: the rate is the generator's.
fn idling(figure: &Figure) -> Option<&str> {
    let share = figure.conditions.split_once("was busy for ")?.1.split_once(" %")?.0;
    (share.parse::<f64>().ok()? < 90.0).then_some(share)
}

/// The number of sessions at which most contenders were measured, the largest of those; the gateway alone if there was nobody else.
fn headline(report: &Report) -> Option<String> {
    let rates = rates(report);
    let against = |size: usize| {
        let contenders = rates.iter().filter(|(who, _)| who != "hotpath");
        contenders.filter_map(|(who, series)| Some((who, series, series.values[size]?))).collect::<Vec<_>>()
    };
    let size = (0..SIZES.len()).max_by_key(|size| against(*size).len())?;
    let machine = report.machine.summary();
    let mut rows: Vec<_> = against(size)
        .into_iter()
        .map(|(who, series, value)| {
            let figure = report.figure(&format!("{who}.mpps.{}", SIZES[size]));
            let note = figure.and_then(idling).map(|share| format!(", {share} % busy")).unwrap_or_default();
            (format!("{}{note}", series.label), value, series.colour)
        })
        .collect();
    if rows.len() > 1 {
        rows.sort_by(|a, b| b.1.total_cmp(&a.1));
        let subtitle = format!("64-byte frames, {} sessions, every reply checked; {machine}", SIZES[size]);
        return Some(bars(("Packets through one core", &subtitle), "Mpps", &rows));
    }
    let alone = rates.iter().find(|(who, _)| who == "memif" || who == "hotpath")?;
    let sizes = alone.1.values.iter().zip(SIZES);
    let rows: Vec<_> =
        sizes.filter_map(|(value, size)| Some((format!("{size} sessions"), (*value)?, OURS))).collect();
    let subtitle = format!("64-byte frames, VLAN to NAT to VXLAN; {machine}");
    Some(bars(("Packets through one core", &subtitle), "Mpps", &rows))
}

fn throughput(report: &Report) -> Option<String> {
    let (groups, series) = groups(rates(report).into_iter().map(|(_, series)| series).collect())?;
    let subtitle = format!("64-byte frames, one worker; {}", report.machine.summary());
    Some(columns(("Packets per second over sessions", &subtitle), "Mpps", &groups, &series, &[]))
}

fn cycles(report: &Report) -> Option<String> {
    let name = |size: &str| format!("hotpath.cycles_per_packet.{size}");
    let values = SIZES.iter().map(|size| report.figure(&name(size)).map(|figure| figure.value)).collect();
    let goal = |size: &&str| {
        let target = TARGETS.iter().find(|target| target.name == name(size))?;
        let (super::targets::Reach::AtMost(goal) | super::targets::Reach::AtLeast(goal)) = target.reach;
        Some((goal, format!("goal {}", with_unit(goal, "", round).trim())))
    };
    let (names, series) = groups(vec![Series { values, ..empty("gateway", OURS) }])?;
    let sizes = SIZES.iter().filter(|size| report.figure(&name(size)).is_some());
    let goals: Vec<_> = sizes.map(goal).collect();
    let subtitle = format!("decap, NAT, encap in process, 64-byte frames; {}", report.machine.summary());
    Some(columns(("Cycles per packet over sessions", &subtitle), "cycles", &names, &series, &goals))
}

/// Stages that take less than this together are "other".
const SMALL: f64 = 1.0;

fn stages(report: &Report) -> Option<String> {
    let stage =
        |figure: &Figure| Some((figure.name.strip_prefix("hotpath.stage.")?.to_owned(), figure.value));
    let (mut parts, small): (Vec<_>, Vec<_>) =
        report.results.iter().filter_map(stage).partition(|(_, value)| *value >= SMALL);
    if parts.is_empty() {
        return None;
    }
    let other: f64 = small.iter().map(|(_, value)| value).sum();
    if other > 0.0 {
        parts.push(("other".to_owned(), other));
    }
    let whole: f64 = parts.iter().map(|(_, value)| value).sum();
    let subtitle = format!("{whole:.0} cycles per packet, 1k sessions; {}", report.machine.summary());
    Some(stack(("Cycles by stage", &subtitle), "cycles", &parts))
}

/// `latency.p99_us.50`: ours at half load; `latency.testpmd_p99_9_us.90`: another's. Who, percentile, load. Not those at a
/// common rate, as `latency.same_rate.p99_us.50`.
fn latency_point(name: &str) -> Option<(&str, String, f64)> {
    let (what, load) = name.strip_prefix("latency.")?.rsplit_once("_us.")?;
    if what.contains('.') {
        return None;
    }
    let (who, percentile) = what.rsplit_once("_p").or_else(|| Some(("gateway", what.strip_prefix('p')?)))?;
    Some((who, format!("p{}", percentile.replace('_', ".")), load.parse().ok()?))
}

/// What loads are shares of: "50 % of the gateway's no-drop rate: 2 Mpps, …".
fn whole(conditions: &str) -> Option<&str> {
    conditions.split_once(" % of ")?.1.split_once(':').map(|(whole, _)| whole)
}

fn latency(report: &Report) -> Option<String> {
    let mut list: Vec<Curve> = Vec::new();
    let mut share_of = "a rate that the conditions tell";
    for figure in &report.results {
        let Some((who, percentile, load)) = latency_point(&figure.name) else { continue };
        share_of = whole(&figure.conditions).unwrap_or(share_of);
        let label = format!("{who} {percentile}");
        let colour = if who == "gateway" { OURS } else { "#8c959f" };
        let dashes = match percentile.as_str() {
            "p50" => "2 4",
            "p99" => "",
            _ => "8 4",
        };
        let place = list.iter().position(|curve| curve.label == label).unwrap_or_else(|| {
            list.push(Curve { label, colour, dashes, points: Vec::new() });
            list.len() - 1
        });
        list[place].points.push((load, figure.value));
    }
    list.sort_by(|a, b| a.label.cmp(&b.label));
    list.iter_mut().for_each(|curve| curve.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    let subtitle = format!("64-byte frames, from burst made to burst arrived; {}", report.machine.summary());
    (!list.is_empty()).then(|| curves(("Latency over load", &subtitle), share_of, "µs", &list))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn drawn(report: &Report) -> Vec<&'static str> {
        all(report).iter().filter(|plot| plot.svg.is_some()).map(|plot| plot.file).collect()
    }

    #[test]
    fn what_is_not_measured_is_not_drawn() {
        assert_eq!(drawn(&sample(&[])), [""; 0]);
        assert_eq!(drawn(&sample(&[("hotpath.stage.nat", "cycles", &[3.0])])), ["stages.svg"]);
        assert_eq!(drawn(&sample(&[("latency.p99_us.50", "us", &[3.0])])), ["latency.svg"]);
        assert_eq!(drawn(&sample(&[("hotpath.cycles_per_packet.1k", "cycles", &[3.0])])), ["cycles.svg"]);
        let rates = sample(&[("hotpath.mpps.1k", "Mpps", &[3.0]), ("replay.mpps", "Mpps", &[4.0])]);
        assert_eq!(drawn(&rates), ["headline.svg", "throughput.svg"]);
    }

    #[test]
    fn headline_is_where_most_were_measured_the_fastest_first() {
        let report = sample(&[
            ("hotpath.mpps.64k", "Mpps", &[15.0]),
            ("memif.mpps.1M", "Mpps", &[7.5]),
            ("memif.testpmd_macswap.mpps.1M", "Mpps", &[19.0]),
            ("peer.nftables.mpps.64k", "Mpps", &[0.45]),
            ("memif.mpps.64k", "Mpps", &[9.5]),
            ("memif.testpmd_macswap.mpps.64k", "Mpps", &[20.0]),
        ]);
        let file = headline(&report).unwrap();
        let at = |text: &str| file.find(text).unwrap_or_else(|| panic!("no {text} in {file}"));
        assert!(at("20 Mpps") < at("9.5 Mpps") && at("9.5 Mpps") < at("0.45 Mpps"));
        assert!(!file.contains("15.0") && file.contains("64k sessions"));
    }

    #[test]
    fn whose_core_idled_is_said() {
        let mut report =
            sample(&[("memif.mpps.64k", "Mpps", &[9.0]), ("peer.nftables.mpps.64k", "Mpps", &[0.4])]);
        for (busy, said) in [(41, true), (89, true), (97, false)] {
            report.results[1].conditions = format!("on one core, which was busy for {busy} %, in turn");
            let file = headline(&report).unwrap();
            assert_eq!(file.contains(&format!("Linux nftables, {busy} % busy")), said, "{file}");
            assert!(file.contains("Linux nftables"));
        }
    }

    #[test]
    fn contenders_nobody_named_are_drawn_by_their_name() {
        let report = sample(&[("peer.vpp.mpps.1M", "Mpps", &[3.0]), ("memif.mpps.1k", "Mpps", &[4.0])]);
        let file = throughput(&report).unwrap();
        assert!(file.contains("peer.vpp, 1M sessions: 3 Mpps"), "{file}");
        assert!(!file.contains("64k"), "{file}");
    }

    #[test]
    fn latency_names_are_read() {
        assert_eq!(latency_point("latency.p99_us.50"), Some(("gateway", "p99".into(), 50.0)));
        assert_eq!(latency_point("latency.testpmd_p99_9_us.90"), Some(("testpmd", "p99.9".into(), 90.0)));
        assert_eq!(latency_point("latency.p99_ratio_to_testpmd.50"), None);
        assert_eq!(latency_point("latency.same_rate.p99_us.50"), None);
    }

    #[test]
    fn latency_is_over_the_rate_that_the_conditions_tell() {
        let mut report = sample(&[("latency.p99_us.50", "us", &[3.0])]);
        for whole in ["the gateway's no-drop rate", "the gateway's PDR (every rate loses packets here)"] {
            report.results[0].conditions = format!("50 % of {whole}: 2.235 Mpps, 64 B: 3 % lost");
            let file = latency(&report).unwrap();
            assert!(file.contains(&format!("share of {whole}<")), "{file}");
        }
        report.results[0].conditions = "in a test".into();
        assert!(!latency(&report).unwrap().contains("drop rate"));
    }

    #[test]
    fn small_stages_are_other() {
        let report = sample(&[
            ("hotpath.stage.lookup", "cycles", &[50.0]),
            ("hotpath.stage.trap", "cycles", &[0.3]),
            ("hotpath.stage.solicit", "cycles", &[0.2]),
        ]);
        let file = stages(&report).unwrap();
        assert!(file.contains("other: 0.5 cycles") && !file.contains("solicit"), "{file}");
        assert!(file.contains("50 cycles per packet") || file.contains("51 cycles per packet"));
    }
}
