//! Latency under load, beside testpmd's: at shares of the gateway's own drop rate, the same packets a second for both.

use crate::duel::{Contender, Run, rounds};
use crate::memif::{self, back, gateway, testpmd};
use crate::{Stand, report};
use anyhow::Result;
use benches::devices::Scratch;
use benches::devices::testpmd::Mode;
use benches::pktgen::generator::Traffic;
use benches::pktgen::search::Measured;
use benches::pktgen::trial::{Counts, Latency};
use benches::pktgen::{Bounds, Goal, Load, Search, Trial};
use std::fmt::Write;
use std::time::Duration;

const SESSIONS: u32 = 65_536;
/// So few that no packet waits for memory: what is left is the program.
const FEW: u32 = 1_000;
/// Shares of the no-drop rate, percent.
const LOADS: [u32; 3] = [10, 50, 90];
/// Lowest and highest load of the searches, packets a second.
const RANGE: (f64, f64) = (1e4, 30e6);
/// Attempts at a trial that somebody else's work spoils.
const ATTEMPTS: usize = 2;

/// NDR, PDR, and latency.
pub fn bench(stand: &mut Stand) -> Result<()> {
    let scratch = Scratch::new("latency")?;
    let profile = memif::profile(SESSIONS)?;
    let mut ours = gateway(stand, &scratch, &profile)?;
    let mut theirs = testpmd(stand, Mode::Macswap, &scratch, &profile)?;
    theirs.traffic = Traffic::new(&stand.eal, &back(&profile, Mode::Macswap))?;
    let ndr = found(stand, "ndr", 0.0, &mut ours)?;
    let pdr = found(stand, "pdr", 0.005, &mut ours)?;
    // Where cores are shared, nearly every rate loses something to somebody else; then the partial drop rate is the base.
    let (base, name) = match (ndr.lower, pdr.lower) {
        (Some(ndr), pdr) if pdr.is_none_or(|pdr| ndr >= pdr / 2.0) => (ndr, "the gateway's no-drop rate"),
        (_, Some(pdr)) => (pdr, "the gateway's partial drop rate (0.5 % loss)"),
        _ => (1e6, "1 Mpps (no drop rate was found)"),
    };
    for load in LOADS {
        measure(stand, "", SESSIONS, [&mut theirs, &mut ours], (base, name), load)?;
    }
    drop(ours);
    let profile = memif::profile(FEW)?;
    let mut ours = gateway(stand, &scratch, &profile)?;
    theirs.traffic = Traffic::new(&stand.eal, &back(&profile, Mode::Macswap))?;
    let name = format!("{name} with {SESSIONS} sessions");
    measure(stand, ".1k", FEW, [&mut theirs, &mut ours], (base, &name), 50)
}

/// At `load` percent of a rate, for both devices.
fn measure(
    stand: &mut Stand,
    size: &str,
    sessions: u32,
    [theirs, ours]: [&mut Contender; 2],
    (base, name): (f64, &str),
    load: u32,
) -> Result<()> {
    let rate = base * f64::from(load) / 100.0;
    let trial = Trial::new(Load::Rate(rate), Duration::from_millis(750));
    let (runs, unfair) = rounds(&mut [theirs, ours], &trial, stand.runs)?;
    let [untimed_theirs, untimed_ours] = [0, 1].map(|who: usize| untimed(&runs[who]));
    let conditions = format!(
        "{load} % of {name}: {:.3} Mpps, {sessions} sessions, 64 B, from burst made to burst arrived, without what was on \
         its way while the generator was held up ({untimed_theirs:.1} % of testpmd's packets, {untimed_ours:.1} % of the \
         gateway's), {unfair} runs with far or shared cores",
        rate / 1e6
    );
    record(&mut stand.report, size, load, &runs, &conditions);
    Ok(())
}

/// Percent of the packets received.
#[expect(clippy::cast_precision_loss, reason = "a share")]
fn untimed(runs: &[Run]) -> f64 {
    let sum = |of: fn(&Counts) -> u64| runs.iter().map(|run| of(&run.outcome.counts)).sum::<u64>() as f64;
    100.0 * sum(|counts| counts.untimed) / sum(|counts| counts.received).max(1.0)
}

type Quantile = fn(&Latency) -> f64;

fn record(report: &mut report::Report, size: &str, load: u32, runs: &[Vec<Run>], conditions: &str) {
    let quantiles: [(&str, Quantile); 3] =
        [("p50", |latency| latency.p50), ("p99", |latency| latency.p99), ("p99_9", |latency| latency.p99_9)];
    for (name, quantile) in quantiles {
        let micros =
            |who: usize| runs[who].iter().map(|run| quantile(&run.outcome.latency_us)).collect::<Vec<_>>();
        let (theirs, ours) = (micros(0), micros(1));
        let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
        report.add(format!("latency{size}.{name}_ratio_to_testpmd.{load}"), "ratio", ratios, conditions);
        report.add(format!("latency{size}.{name}_us.{load}"), "us", ours, conditions);
        report.add(format!("latency{size}.testpmd_{name}_us.{load}"), "us", theirs, conditions);
    }
}

fn found(stand: &mut Stand, name: &str, loss_ratio: f64, device: &mut Contender) -> Result<Bounds> {
    let goal = Goal {
        loss_ratio,
        width: 0.02,
        first: Duration::from_millis(200),
        last: Duration::from_millis(if stand.full { 2000 } else { 500 }),
        trials: 25,
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
        None if bounds.cut_short => println!("{figure:<44} not found in {trials} trials: no figure"),
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
