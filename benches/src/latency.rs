//! Latency under load, beside testpmd's: each at shares of its own rate, and both at half of the gateway's.

use crate::Stand;
use crate::duel::{Contender, Run, flat_out, mpps, rounds, rounds_at};
use crate::memif::{self, back, gateway, testpmd};
use crate::report::{self, median};
use anyhow::Result;
use benches::devices::Scratch;
use benches::devices::testpmd::Mode;
use benches::output::say;
use benches::pktgen::generator::Traffic;
use benches::pktgen::search::Measured;
use benches::pktgen::trial::{Counts, Latency};
use benches::pktgen::{Bounds, Goal, Load, Search, Trial};
use std::fmt::Write;
use std::time::Duration;

const SESSIONS: u32 = 65_536;
/// So few that no packet waits for memory: what is left is the program.
const FEW: u32 = 1_000;
/// Shares of a device's rate, percent.
const LOADS: [u32; 3] = [10, 50, 90];
/// Lowest and highest load of the searches, packets a second.
const RANGE: (f64, f64) = (1e4, 30e6);
/// Runs flat out.
const FLAT_OUT: usize = 3;
/// Attempts at a trial that somebody else's work spoils.
const ATTEMPTS: usize = 2;

/// NDR, PDR, and latency.
pub fn bench(stand: &mut Stand) -> Result<()> {
    let scratch = Scratch::new("latency")?;
    let profile = memif::profile(SESSIONS)?;
    let mut ours = gateway(stand, &scratch, &profile)?;
    let mut theirs = testpmd(stand, Mode::Macswap, &scratch, &profile)?;
    theirs.traffic = Traffic::new(&stand.eal, &back(&profile, Mode::Macswap))?;
    let (runs, _) = rounds(&mut [&mut theirs, &mut ours], &flat_out(), FLAT_OUT)?;
    let flat_out = [0, 1].map(|who: usize| 1e6 * median(&mpps(&runs[who])));
    let no_drop = [searched(stand, "testpmd_", &mut theirs)?, searched(stand, "", &mut ours)?];
    let ([their_whole, our_whole], whole) = wholes(no_drop, flat_out);
    for load in LOADS {
        let own = format!("its own {whole}");
        measure(stand, "", SESSIONS, [&mut theirs, &mut ours], ([their_whole, our_whole], &own), load)?;
    }
    let common = format!("the gateway's {whole} with {SESSIONS} sessions");
    let wholes = ([our_whole; 2], common.as_str());
    measure(stand, ".same_rate", SESSIONS, [&mut theirs, &mut ours], wholes, 50)?;
    drop(ours);
    let profile = memif::profile(FEW)?;
    let mut ours = gateway(stand, &scratch, &profile)?;
    theirs.traffic = Traffic::new(&stand.eal, &back(&profile, Mode::Macswap))?;
    measure(stand, ".same_rate_1k", FEW, [&mut theirs, &mut ours], wholes, 50)
}

/// No-drop rate and, beside it, partial drop rate of a device: the first, packets a second, if it was found.
fn searched(stand: &mut Stand, prefix: &str, device: &mut Contender) -> Result<Option<f64>> {
    let no_drop = found(stand, &format!("{prefix}ndr"), 0.0, device)?.lower;
    found(stand, &format!("{prefix}pdr"), 0.005, device)?;
    Ok(no_drop)
}

/// What loads are shares of, packets a second of each device, and its name: one kind for both, so that both have as much to
/// spare. Where cores are shared, nearly every rate loses something to somebody else, and a search ends anywhere; then it is
/// what they forward flat out.
fn wholes(no_drop: [Option<f64>; 2], flat_out: [f64; 2]) -> ([f64; 2], &'static str) {
    match no_drop {
        [Some(theirs), Some(ours)] if theirs >= flat_out[0] / 2.0 && ours >= flat_out[1] / 2.0 => {
            ([theirs, ours], "no-drop rate")
        }
        _ => (flat_out, "rate flat out"),
    }
}

/// At `load` percent of each device's rate, testpmd first.
fn measure(
    stand: &mut Stand,
    kind: &str,
    sessions: u32,
    [theirs, ours]: [&mut Contender; 2],
    (wholes, name): ([f64; 2], &str),
    load: u32,
) -> Result<()> {
    let rates = wholes.map(|whole| whole * f64::from(load) / 100.0);
    let trials = rates.map(|rate| Trial::new(Load::Rate(rate), Duration::from_millis(750)));
    let (runs, unfair) = rounds_at(&mut [theirs, ours], &trials, stand.runs)?;
    let [untimed_theirs, untimed_ours] = [0, 1].map(|who: usize| untimed(&runs[who]));
    let [most_theirs, most_ours] = [0, 1].map(|who: usize| {
        median(
            &runs[who].iter().filter_map(|run| Some(run.outcome.latency_at_most_us?.p99)).collect::<Vec<_>>(),
        )
    });
    let [their_mpps, our_mpps] = rates.map(|rate| rate / 1e6);
    let conditions = format!(
        "{load} % of {name}: {our_mpps:.3} Mpps, testpmd {their_mpps:.3}, {sessions} sessions, 64 B, from burst made to burst \
         arrived, without what was on its way while the generator was held up ({untimed_theirs:.1} % of testpmd's packets, \
         {untimed_ours:.1} % of the gateway's; with them p99 is at most {most_theirs:.1} and {most_ours:.1} us), {unfair} runs with far or shared cores"
    );
    record(&mut stand.report, kind, load, &runs, &conditions);
    Ok(())
}

/// Percent of the packets received.
#[expect(clippy::cast_precision_loss, reason = "a share")]
fn untimed(runs: &[Run]) -> f64 {
    let sum = |of: fn(&Counts) -> u64| runs.iter().map(|run| of(&run.outcome.counts)).sum::<u64>() as f64;
    100.0 * sum(|counts| counts.untimed) / sum(|counts| counts.received).max(1.0)
}

type Quantile = fn(&Latency) -> f64;

fn record(report: &mut report::Report, kind: &str, load: u32, runs: &[Vec<Run>], conditions: &str) {
    let quantiles: [(&str, Quantile); 3] =
        [("p50", |latency| latency.p50), ("p99", |latency| latency.p99), ("p99_9", |latency| latency.p99_9)];
    for (name, quantile) in quantiles {
        let micros = |who: usize| {
            runs[who]
                .iter()
                .map(|run| quantile(&run.outcome.latency_us.unwrap_or_default()))
                .collect::<Vec<_>>()
        };
        let (theirs, ours) = (micros(0), micros(1));
        let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
        report.add(format!("latency{kind}.{name}_ratio_to_testpmd.{load}"), "ratio", ratios, conditions);
        report.add(format!("latency{kind}.{name}_us.{load}"), "us", ours, conditions);
        report.add(format!("latency{kind}.testpmd_{name}_us.{load}"), "us", theirs, conditions);
    }
}

fn found(stand: &mut Stand, name: &str, loss_ratio: f64, device: &mut Contender) -> Result<Bounds> {
    let goal = Goal {
        loss_ratio,
        width: 0.02,
        first: Duration::from_millis(200),
        last: Duration::from_millis(if stand.full { 2000 } else { 500 }),
        trials: if stand.full { 25 } else { 15 },
    };
    let mut measure = |rate: f64, duration: Duration| -> Result<Measured> {
        let trial = Trial::new(Load::Rate(rate), duration);
        let mut run = device.trial(&trial)?;
        for _ in 1..ATTEMPTS {
            if run.fair || run.outcome.loss_ratio() <= loss_ratio {
                break;
            }
            run = device.trial(&trial)?;
        }
        Ok(Measured { loss_ratio: run.outcome.loss_ratio(), forwarded: run.outcome.rx_pps })
    };
    let bounds = Search::new(goal, RANGE, &mut measure).run()?;
    let (loss, trials) = (100.0 * loss_ratio, bounds.trials);
    let mpps =
        |bound: Option<f64>| bound.map_or("not known".to_owned(), |pps| format!("{:.3} Mpps", pps / 1e6));
    let mut conditions = format!(
        "{SESSIONS} sessions, 64 B, memif, loss up to {loss} %, {trials} trials; lower bound, the upper one is {}",
        mpps(bounds.upper)
    );
    let figure = format!("memif.{name}.64k");
    match bounds.lower {
        None if bounds.cut_short => say(format_args!("{figure:<44} not found in {trials} trials: no figure")),
        None => {
            let _ = write!(conditions, "; even {} loses more", mpps(Some(RANGE.0)));
            stand.report.add(figure, "Mpps", vec![0.0], conditions);
        }
        Some(lower) => {
            if bounds.cut_short {
                conditions += "; cut short, may be higher";
            }
            stand.report.add(figure, "Mpps", vec![lower / 1e6], conditions);
        }
    }
    Ok(bounds)
}

#[cfg(test)]
mod tests {
    use super::wholes;

    #[test]
    fn loads_are_shares_of_one_kind_of_rate() {
        let flat_out = [16e6, 10e6];
        assert_eq!(wholes([Some(12e6), Some(9e6)], flat_out), ([12e6, 9e6], "no-drop rate"));
        assert_eq!(wholes([Some(1e6), Some(9e6)], flat_out), (flat_out, "rate flat out"));
        assert_eq!(wholes([Some(12e6), Some(4e6)], flat_out).0, flat_out);
        assert_eq!(wholes([None, Some(9e6)], flat_out).0, flat_out);
        assert_eq!(wholes([Some(12e6), None], flat_out).0, flat_out);
    }
}
