//! Sessions that share one pair of buckets and one tag: chosen by somebody who knows the table's secret, which nobody does.

use super::bed::{Bed, Discard, SECRET};
use crate::{Stand, traffic};
use anyhow::{Context, Result, ensure};
use conntrack::{InsertError, SessionSpec, Timestamp, Tuple};
use pipeline::BURST;
use std::net::{IpAddr, Ipv4Addr};

/// Places of two buckets: so many entries are compared at worst.
const PLACES: usize = 24;
/// Sessions of the table. What is measured lies in the cache however large it is.
const CAPACITY: u32 = 1024;

/// Cycles per packet for traffic of as many such sessions as fit, beside as many others.
pub fn bench(stand: &mut Stand) -> Result<()> {
    let crowd = crowd()?;
    let (chosen, one_more) = crowd.split_at(PLACES);
    let mut crowded = Bed::new(stand, CAPACITY, chosen.iter().copied())?;
    // That they are where they are believed to be: one more finds no place in an empty table.
    for spec in one_more {
        let refused = crowded.table.insert(spec, Timestamp(0)) == Err(InsertError::Full);
        ensure!(refused, "sessions do not share their buckets: the index places them in another way now");
    }
    let others: Vec<_> = (0..PLACES as u32).map(traffic::session).collect();
    let mut plain = Bed::new(stand, CAPACITY, others.iter().copied())?;
    let cycles = |stand: &Stand, bed: &mut Bed, sessions: &[SessionSpec]| {
        let mut turn = sessions.iter().cycle();
        let mut next = || turn.next().map(|spec| traffic::frame_of(&spec.original)).unwrap_or_default();
        let [before, _] = bed.sent_and_dropped();
        let cycles = bed.cycles(&stand.pool, &mut next, BURST, &mut Discard(&stand.pool))?;
        let [after, _] = bed.sent_and_dropped();
        let offered = super::PACKETS.next_multiple_of(BURST) as u64;
        ensure!(after - before == offered, "{} of {offered} packets were forwarded", after - before);
        Ok(cycles)
    };
    let (mut runs, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..stand.runs {
        let usual = cycles(stand, &mut plain, &others)?;
        let worst = cycles(stand, &mut crowded, chosen)?;
        runs.push(worst);
        ratios.push(worst / usual);
    }
    let conditions = format!(
        "{PLACES} sessions of one pair of buckets and one tag: {} entries compared on average, {PLACES} at worst",
        (PLACES + 1) as f64 / 2.0
    );
    stand.report.add("bad.one_bucket", "cycles/packet", runs, conditions.clone());
    stand.report.add("bad.one_bucket.ratio", "ratio", ratios, format!("{conditions}; ÷ {PLACES} others"));
    Ok(())
}

/// Sessions whose forward flows have the same two places, one more than these can take.
fn crowd() -> Result<Vec<SessionSpec>> {
    let places = Places::new(SECRET, CAPACITY);
    let all = || (0..10_000_000).map(traffic::session);
    let of = |spec: &SessionSpec| places.of(&spec.original);
    let (wanted, tag) =
        all().map(|spec| of(&spec)).find(|([a, b], _)| a != b).context("no pair of buckets")?;
    let crowd: Vec<_> = all().filter(|spec| of(spec) == (wanted, tag)).take(PLACES + 1).collect();
    ensure!(crowd.len() > PLACES, "only {} sessions share a pair of buckets", crowd.len());
    Ok(crowd)
}

/// Where the table's index has flows, by arithmetic of its own: an attacker has no more than the source and the secret.
struct Places {
    secrets: [u64; 6],
    buckets: u64,
    spread: u32,
}

impl Places {
    fn new(seed: [u64; 2], capacity: u32) -> Self {
        let mut state = seed[0];
        let secrets: [u64; 6] = std::array::from_fn(|n| {
            state ^= if n == 3 { seed[1] } else { 0 };
            random(&mut state) ^ seed[1].rotate_left(11 * n as u32)
        });
        let [.., s3, s4, s5] = secrets;
        // Two flows each, on buckets of 12 that are filled to 85 %.
        let buckets = (u64::from(capacity) * 2 * 100).div_ceil(12 * 85) + 16;
        Self { secrets, buckets, spread: fold(fold(1 ^ s4, s5) ^ s3, s4) as u32 }
    }

    /// The two buckets of a UDP flow that arrives on the first LIF, and its tag.
    fn of(&self, tuple: &Tuple) -> ([u64; 2], u8) {
        let word = |ip| if let IpAddr::V4(ip) = ip { Ipv4Addr::to_bits(ip).swap_bytes() } else { 0 };
        let addresses = u64::from(word(tuple.source)) | u64::from(word(tuple.destination)) << 32;
        let ports = [tuple.source_port, tuple.destination_port].map(|port| u64::from(port.swap_bytes()));
        let rest = ports[0] | ports[1] << 16 | 17 << 48;
        let [s0, s1, s2, s3, ..] = self.secrets;
        let hash = fold(fold(addresses ^ s0, rest ^ s1) ^ s2, s3);
        let tag = ((hash >> 56) as u8).max(1);
        let first = ((hash & 0xffff_ffff) * self.buckets) >> 32;
        let spread = u32::from(tag).wrapping_mul(0x9e37_79b9).wrapping_add(self.spread);
        let sum = (u64::from(spread) * self.buckets) >> 32;
        let other = (sum + self.buckets - first) % self.buckets;
        ([first.min(other), first.max(other)], tag)
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// splitmix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
