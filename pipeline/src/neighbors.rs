//! The gateway's own neighbours: MACs of VTEPs on the underlay and of the kernel on the trap link.
//!
//! One table for all workers, of atomics only. An entry is found by address when packets bring news of it, and by its index
//! everywhere else (the FDB keeps indices). What the table asks for is a solicitation: it says when, at most once a second
//! for an entry, and only for entries that packets want to use.
//!
//! States after RFC 4861 section 7.3.2: permanent (configured), incomplete (no MAC), valid. A valid entry is confirmed for
//! [`REACHABLE`] after an answer; then it stays usable, and its use is followed, after [`DELAY`], by probes. It becomes
//! incomplete only when [`PROBES`] were not answered and nothing was heard from it for [`HEARD`] either.

use crate::wire::ethernet::is_group;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::*};

/// Milliseconds that an answer counts.
pub const REACHABLE: u64 = 30_000;
/// Milliseconds from the use of an unconfirmed entry to its first probe.
pub const DELAY: u64 = 5_000;
/// Milliseconds between solicitations.
pub const RETRY: u64 = 1_000;
/// Unanswered probes after which an entry is in doubt.
pub const PROBES: u64 = 3;
/// Milliseconds that hearing from a neighbour counts when probes fail.
pub const HEARD: u64 = 60_000;
/// Milliseconds after which an entry nobody used or heard is forgotten: longer than the FDB keeps pointing at it.
pub const FORGET: u64 = 900_000;
/// Milliseconds that a use keeps retries going.
const WANTED: u64 = 3_000;
const ENTRIES: usize = 2048;
const WINDOW: usize = 32;

/// Which of the gateway's two links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Link {
    /// To other VTEPs.
    Underlay,
    /// To the kernel.
    Trap,
}

/// Position of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NeighborIndex(pub u16);

/// An address, IPv4 as IPv4-mapped IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(u128);

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self(ip.to_ipv6_mapped().to_bits()),
            IpAddr::V6(ip) => Self(ip.to_bits()),
        }
    }
}

impl Address {
    /// As a number; of IPv4, the last 32 bits.
    #[inline]
    pub fn bits(self) -> u128 {
        self.0
    }

    /// The last four bytes.
    #[inline]
    pub fn v4(self) -> [u8; 4] {
        (self.0 as u32).to_be_bytes()
    }

    /// All of it.
    #[inline]
    pub fn v6(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

/// What a packet to a neighbour finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its MAC; None while it is not known.
    pub mac: Option<[u8; 6]>,
    /// Its address.
    pub address: Address,
    /// Whether to solicit it now.
    pub solicit: bool,
}

/// A solicitation to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicit {
    /// Where.
    pub link: Link,
    /// Whom.
    pub address: Address,
    /// Its last known MAC, to ask it alone.
    pub mac: Option<[u8; 6]>,
}

/// The word of an entry: MAC, link, pinned, state.
#[derive(Clone, Copy)]
struct Word(u64);

const FREE: u64 = 0;
const CLAIMED: u64 = 1;
const INCOMPLETE: u64 = 2;
const VALID: u64 = 3;
const PERMANENT: u64 = 4;
const PINNED: u64 = 1 << 9;

impl Word {
    fn new(state: u64, link: Link, pinned: bool, mac: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = mac;
        let mac = u64::from_be_bytes([a, b, c, d, e, f, 0, 0]);
        Self(mac | (u64::from(pinned) * PINNED) | u64::from(link as u8) << 8 | state)
    }

    fn state(self) -> u64 {
        self.0 & 0xff
    }

    fn link(self) -> Link {
        if self.0 >> 8 & 1 == 0 { Link::Underlay } else { Link::Trap }
    }

    fn pinned(self) -> bool {
        self.0 & PINNED != 0
    }

    fn mac(self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }

    fn is_live(self) -> bool {
        self.state() >= INCOMPLETE
    }
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    word: AtomicU64,
    high: AtomicU64,
    low: AtomicU64,
    confirmed: AtomicU64,
    heard: AtomicU64,
    used: AtomicU64,
    /// 0: not planned.
    next_solicit: AtomicU64,
    probes: AtomicU64,
}

impl Slot {
    fn word(&self) -> Word {
        Word(self.word.load(Acquire))
    }

    fn address(&self) -> Address {
        Address(u128::from(self.high.load(Relaxed)) << 64 | u128::from(self.low.load(Relaxed)))
    }

    /// Whether a solicitation is due; plans the next one if so.
    fn due(&self, now: u64, first: u64) -> bool {
        let planned = self.next_solicit.load(Relaxed);
        if planned == 0 && first > 0 {
            self.next_solicit.store(now + first, Relaxed);
            return false;
        }
        now >= planned && self.next_solicit.compare_exchange(planned, now + RETRY, Relaxed, Relaxed).is_ok()
    }

    /// Whether to solicit an entry that is not confirmed.
    #[cold]
    fn solicit(&self, word: Word, now: u64) -> bool {
        if word.state() == INCOMPLETE {
            return self.due(now, 0);
        }
        if !self.due(now, DELAY) {
            return false;
        }
        if self.probes.fetch_add(1, Relaxed) < PROBES {
            return true;
        }
        self.probes.store(0, Relaxed);
        if now.saturating_sub(self.heard.load(Relaxed)) <= HEARD {
            self.next_solicit.store(now + REACHABLE, Relaxed);
            return false;
        }
        let incomplete = Word::new(INCOMPLETE, word.link(), word.pinned(), [0; 6]);
        self.word.compare_exchange(word.0, incomplete.0, AcqRel, Relaxed).is_ok()
    }

    /// Notes a MAC; `confirmed` if it was an answer.
    fn update(&self, word: Word, mac: [u8; 6], confirmed: bool, now: u64) {
        if word.state() == PERMANENT {
            return;
        }
        if now.saturating_sub(self.heard.load(Relaxed)) >= RETRY {
            self.heard.store(now, Relaxed);
        }
        if word.state() == INCOMPLETE || word.mac() != mac {
            let valid = Word::new(VALID, word.link(), word.pinned(), mac);
            if self.word.compare_exchange(word.0, valid.0, AcqRel, Relaxed).is_err() {
                return;
            }
            self.confirmed.store(0, Relaxed);
            self.next_solicit.store(0, Relaxed);
            self.probes.store(0, Relaxed);
        }
        if confirmed {
            self.confirmed.store(now.max(1), Relaxed);
            self.next_solicit.store(0, Relaxed);
            self.probes.store(0, Relaxed);
        }
    }
}

/// The table.
#[derive(Debug)]
pub struct Neighbors {
    slots: Box<[Slot]>,
    secret: u64,
    changes: AtomicU64,
}

impl Neighbors {
    /// Empty.
    pub fn new(secret: u64) -> Self {
        Self { slots: (0..ENTRIES).map(|_| Slot::default()).collect(), secret, changes: AtomicU64::new(0) }
    }

    /// An entry that is never forgotten, with a MAC if it is configured; None if there is no room.
    pub fn pin(&self, link: Link, address: Address, mac: Option<[u8; 6]>) -> Option<NeighborIndex> {
        let index = match self.find(link, address) {
            Some(index) => index,
            None => self.claim(link, address, 0)?,
        };
        let slot = self.slots.get(usize::from(index.0))?;
        match mac {
            Some(mac) => slot.word.store(Word::new(PERMANENT, link, true, mac).0, Release),
            None => drop(slot.word.fetch_or(PINNED, AcqRel)),
        }
        Some(index)
    }

    /// The entry of an address.
    pub fn find(&self, link: Link, address: Address) -> Option<NeighborIndex> {
        self.window(link, address).find(|(_, slot)| slot.is(link, address)).map(|(index, _)| index)
    }

    /// The entry of an address, made if there is none; None if there is no room.
    pub fn find_or_claim(&self, link: Link, address: Address, now: u64) -> Option<NeighborIndex> {
        self.find(link, address).or_else(|| self.claim(link, address, now))
    }

    /// Whether `index` is the entry of that address.
    #[inline]
    pub fn is(&self, index: NeighborIndex, link: Link, address: Address) -> bool {
        self.slots.get(usize::from(index.0)).is_some_and(|slot| slot.is(link, address))
    }

    /// The address of an entry.
    pub fn address(&self, index: NeighborIndex) -> Option<Address> {
        let slot = self.slots.get(usize::from(index.0))?;
        slot.word().is_live().then(|| slot.address())
    }

    /// What a packet to the entry needs; `now` in milliseconds. Marks it used.
    #[inline(always)]
    pub fn resolve(&self, index: NeighborIndex, now: u64) -> Option<Found> {
        let slot = self.slots.get(usize::from(index.0))?;
        let word = slot.word();
        if now.saturating_sub(slot.used.load(Relaxed)) >= RETRY {
            slot.used.store(now, Relaxed);
        }
        let address = slot.address();
        match word.state() {
            PERMANENT => Some(Found { mac: Some(word.mac()), address, solicit: false }),
            VALID => {
                let confirmed = slot.confirmed.load(Relaxed);
                let fresh = confirmed != 0 && now.saturating_sub(confirmed) < REACHABLE;
                let solicit = !fresh && slot.solicit(word, now);
                self.note(slot, word);
                Some(Found { mac: Some(word.mac()), address, solicit })
            }
            INCOMPLETE => Some(Found { mac: None, address, solicit: slot.solicit(word, now) }),
            _ => None,
        }
    }

    /// A packet from the entry was received, from `mac`.
    #[inline]
    pub fn heard(&self, index: NeighborIndex, mac: [u8; 6], now: u64) {
        if let Some(slot) = self.slots.get(usize::from(index.0)) {
            let word = slot.word();
            let known = word.state() == PERMANENT
                || word.mac() == mac && now.saturating_sub(slot.heard.load(Relaxed)) < RETRY;
            if !known && word.is_live() && !is_group(&mac) {
                slot.update(word, mac, false, now);
                self.note(slot, word);
            }
        }
    }

    /// An ARP or ND message said that `address` is at `mac`; `confirmed` if in answer to a solicitation. Entries are made
    /// only if `create`. False if there was no room.
    pub fn learn(
        &self,
        link: Link,
        address: Address,
        mac: [u8; 6],
        confirmed: bool,
        create: bool,
        now: u64,
    ) -> bool {
        if is_group(&mac) || mac == [0; 6] {
            return true;
        }
        if create && self.find_or_claim(link, address, now).is_none() {
            return false;
        }
        for (_, slot) in self.window(link, address) {
            if slot.is(link, address) {
                let word = slot.word();
                slot.update(word, mac, confirmed, now);
                self.note(slot, word);
            }
        }
        true
    }

    /// Looks after `count` entries from `cursor` on: forgets what is out of use, and says what to solicit. The next cursor.
    pub fn maintain(
        &self,
        cursor: usize,
        count: usize,
        now: u64,
        mut solicit: impl FnMut(NeighborIndex),
    ) -> usize {
        for offset in 0..count {
            let index = (cursor + offset) % ENTRIES;
            let Some(slot) = self.slots.get(index) else { continue };
            let word = slot.word();
            if !word.is_live() || word.state() == PERMANENT {
                continue;
            }
            let used = slot.used.load(Relaxed);
            let idle = now.saturating_sub(used.max(slot.heard.load(Relaxed)));
            if idle > FORGET && !word.pinned() {
                let _ = slot.word.compare_exchange(word.0, FREE, AcqRel, Relaxed);
                self.note(slot, word);
                continue;
            }
            let confirmed = slot.confirmed.load(Relaxed);
            let fresh = confirmed != 0 && now.saturating_sub(confirmed) < REACHABLE;
            let asked = slot.next_solicit.load(Relaxed) != 0;
            let wanted = asked && now.saturating_sub(used) <= WANTED.max(DELAY + WANTED);
            if wanted && !(word.state() == VALID && fresh) {
                if slot.solicit(word, now) {
                    solicit(NeighborIndex(index as u16));
                }
                self.note(slot, word);
            }
        }
        (cursor + count) % ENTRIES
    }

    /// How often an entry's MAC or state changed: what was resolved before may be wrong after.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes.load(Acquire)
    }

    /// Counts a change if `slot` is not as it was.
    #[inline]
    fn note(&self, slot: &Slot, before: Word) {
        if slot.word().0 != before.0 {
            self.changes.fetch_add(1, Release);
        }
    }

    /// What to send to solicit the entry.
    pub fn solicitation(&self, index: NeighborIndex) -> Option<Solicit> {
        let slot = self.slots.get(usize::from(index.0))?;
        let word = slot.word();
        let mac = (word.state() == VALID).then(|| word.mac());
        word.is_live().then(|| Solicit { link: word.link(), address: slot.address(), mac })
    }

    fn claim(&self, link: Link, address: Address, now: u64) -> Option<NeighborIndex> {
        for (index, slot) in self.window(link, address) {
            if slot.word.compare_exchange(FREE, CLAIMED, AcqRel, Relaxed).is_ok() {
                slot.high.store((address.0 >> 64) as u64, Relaxed);
                slot.low.store(address.0 as u64, Relaxed);
                slot.confirmed.store(0, Relaxed);
                slot.heard.store(0, Relaxed);
                slot.used.store(now, Relaxed);
                slot.next_solicit.store(0, Relaxed);
                slot.probes.store(0, Relaxed);
                slot.word.store(Word::new(INCOMPLETE, link, false, [0; 6]).0, Release);
                return Some(index);
            }
        }
        None
    }

    /// The slots an address may be in.
    fn window(&self, link: Link, address: Address) -> impl Iterator<Item = (NeighborIndex, &Slot)> {
        let mixed = (address.0 as u64 ^ (address.0 >> 64) as u64 ^ self.secret ^ link as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let start = (mixed >> 32) as usize;
        (start..start + WINDOW).filter_map(|at| {
            let index = at % ENTRIES;
            self.slots.get(index).map(|slot| (NeighborIndex(index as u16), slot))
        })
    }
}

impl Slot {
    #[inline]
    fn is(&self, link: Link, address: Address) -> bool {
        let word = self.word();
        word.is_live() && word.link() == link && self.address() == address
    }
}
