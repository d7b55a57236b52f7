//! Where destination MACs are, resolved: a worker's own cache of outer headers, so that a packet does not ask the forwarding
//! database and the neighbour table anew.
//!
//! What is cached holds for the second it was resolved in, and only while no MAC moved and no neighbour changed meanwhile.
//! So ages, uses and solicitations go on as if every packet asked.

use crate::tunnel::Outer;
use std::array;

/// Destinations a worker remembers.
const ENTRIES: usize = 1024;

#[derive(Debug, Default)]
#[repr(align(128))]
struct Adjacency {
    /// The FDB's key; 0 = none.
    key: u64,
    validity: u64,
    outer: Outer,
}

/// See the module.
#[derive(Debug)]
pub struct Adjacencies {
    entries: Box<[Adjacency; ENTRIES]>,
}

impl Adjacencies {
    /// Empty.
    pub fn new() -> Self {
        Self { entries: Box::new(array::from_fn(|_| Adjacency::default())) }
    }

    /// The headers kept under `key`, if they still hold.
    #[inline(always)]
    pub fn get(&self, key: u64, validity: u64) -> Option<&Outer> {
        let entry = self.entries.get(position(key))?;
        (entry.key == key && entry.validity == validity).then_some(&entry.outer)
    }

    /// Keeps headers.
    pub fn put(&mut self, key: u64, validity: u64, outer: &Outer) {
        if let Some(entry) = self.entries.get_mut(position(key)) {
            *entry = Adjacency { key, validity, outer: outer.clone() };
        }
    }
}

#[inline(always)]
fn position(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize % ENTRIES
}
