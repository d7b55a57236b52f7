//! A port whose other end takes nothing for a second, and goes on sending.

use super::device::Device;
use super::source::{Outcome, Rates};
use crate::Stand;
use crate::report::median;
use anyhow::{Context, Result, ensure};
use benches::devices::RING_BITS;

const RATES: Rates = Rates { known: 1e6, unknown: 1e5 };
const SECONDS: f64 = 2.5;
/// When nothing is taken.
const SILENCE: std::ops::Range<f64> = 0.5..1.5;
/// So many packets in a row, none of them lost, are the full rate: nearly twice what a ring holds.
const IN_A_ROW: usize = 2000;

/// Many times the packets that a gateway could hold, if it waited for its port and dropped none.
const WAITING: u64 = 10 << RING_BITS;

/// How long it takes until everything comes back again. Meanwhile the gateway goes on: it drops what the port does not take,
/// counts it, and sends what is for another port.
pub fn bench(stand: &mut Stand) -> Result<()> {
    let mut device = Device::start(stand, "stalled")?;
    let (mut recovery, mut dropped, mut unfair) = (Vec::new(), Vec::new(), 0);
    for _ in 0..stand.runs {
        let run = device.run(RATES, SECONDS, SILENCE)?;
        let counts = run.counts;
        ensure!(counts.dropped > WAITING, "the gateway waited for a port that takes nothing: {counts:?}");
        recovery.push(recovered(&run.outcome)? as f64 / RATES.known * 1e6);
        dropped.push(counts.dropped as f64);
        unfair += usize::from(!run.fair);
    }
    let conditions = format!(
        "from the first packet taken to the first of {IN_A_ROW} in a row that all come back; 1 Mpps of sessions and 0.1 Mpps \
         of new flows, the uplink's peer takes nothing for a second: {:.0} packets dropped, all counted, none of those for \
         the kernel; {unfair} runs with far or shared cores",
        median(&dropped)
    );
    stand.report.add("bad.stalled_port.recovery", "us", recovery, conditions);
    Ok(())
}

/// Packets that were due from the end of the silence to the first of many that all came back.
fn recovered(outcome: &Outcome) -> Result<usize> {
    let after = &outcome.back[outcome.after_silence..];
    let mut from = 0;
    for (number, back) in after.iter().enumerate() {
        if !back {
            from = number + 1;
        } else if number + 1 - from >= IN_A_ROW {
            return Ok(from);
        }
    }
    Err(anyhow::anyhow!("{} of {} came back", after.iter().filter(|back| **back).count(), after.len()))
        .context("the full rate is not back a second after the port takes packets again")
}
