//! A flood of new flows beside established ones, in a gateway of its own.

use super::device::{Device, Run};
use super::source::Rates;
use crate::Stand;
use crate::report::median;
use anyhow::{Result, ensure};
use benches::output::say;

/// New flows a second.
const FLOOD: f64 = 5e6;
/// More than any worker takes.
const ALL: f64 = 20e6;
/// The share of what the worker takes that flood and established traffic together come to: where more is sent than a port's one
/// queue can take, it drops the one as well as the other.
const FULL: f64 = 0.8;
const SECONDS: f64 = 0.75;
/// Where more is lost without the flood, that is no rate that the worker carries.
const LOST_ALONE: f64 = 0.01;

/// What established traffic loses with the flood, less what it loses without.
pub fn bench(stand: &mut Stand) -> Result<()> {
    let mut device = Device::start(stand, "flood")?;
    let mut run = |known, unknown| device.run(Rates { known, unknown }, SECONDS, 0.0..0.0);
    let most = (0..3).map(|_| Ok(per_second(&run(ALL, 0.0)?, |run| run.outcome.received())));
    let most = median(&most.collect::<Result<Vec<_>>>()?);
    // With the flood, four fifths of what the worker takes; in steps that can be read.
    let known = ((most * FULL - FLOOD).max(most / 10.0) / 1e5).floor() * 1e5;
    ensure!(known > 0.0, "the gateway forwards {most} packets a second");
    let mut rounds: Vec<[Run; 2]> = Vec::new();
    for _ in 0..3 * stand.runs {
        rounds.push([run(known, 0.0)?, run(known, FLOOD)?]);
        if rounds.iter().filter(|round| is_fair(round)).count() >= stand.runs {
            break;
        }
    }
    rounds.retain(is_carried);
    if rounds.is_empty() {
        say("bad.trap_flood.established_lost: packets are lost without a flood too, no figure");
        return Ok(());
    }
    // The fair ones first.
    rounds.sort_by_key(|round| !is_fair(round));
    rounds.truncate(stand.runs);
    let unfair = rounds.iter().filter(|round| !is_fair(round)).count();
    let of = |position: usize, what: fn(&Run) -> f64| {
        median(&rounds.iter().map(|round| what(&round[position])).collect::<Vec<_>>())
    };
    let mpps = 1e6;
    let conditions = format!(
        "{:.1} Mpps of 65536 sessions beside {:.2} Mpps of new flows ({:.1} were to be; the worker takes {:.1} Mpps of \
         established traffic over this memif), of which {:.2} reached the worker, {:.1} % of them over the limit; lost with it {:.2} %, without {:.2} \
         %; {unfair} runs with far or shared cores",
        of(1, |run| per_second(run, |run| run.outcome.known.offered)) / mpps,
        of(1, |run| per_second(run, |run| run.outcome.unknown.offered)) / mpps,
        FLOOD / mpps,
        most / mpps,
        of(1, |run| per_second(run, |run| run.outcome.unknown.taken)) / mpps,
        100.0 * of(1, |run| run.counts.limited as f64 / run.outcome.unknown.taken.max(1) as f64),
        100.0 * of(1, |run| run.outcome.lost()),
        100.0 * of(0, |run| run.outcome.lost()),
    );
    let lost = rounds.iter().map(|[alone, beside]| beside.outcome.lost() - alone.outcome.lost()).collect();
    stand.report.add("bad.trap_flood.established_lost", "share", lost, conditions);
    Ok(())
}

fn is_fair(round: &[Run; 2]) -> bool {
    is_carried(round) && round.iter().all(|run| run.fair)
}

fn is_carried([alone, _]: &[Run; 2]) -> bool {
    alone.outcome.lost() <= LOST_ALONE
}

fn per_second(run: &Run, what: impl Fn(&Run) -> u64) -> f64 {
    what(run) as f64 / run.outcome.seconds
}
