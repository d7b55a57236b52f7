//! Sessions that are being removed: whoever needs their id or their flows waits until they are gone.

use proto::gateway::v1;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

/// What a session occupies in the gateway: its id and two flows, hashed. Two that hash alike only wait once too often.
type Keys = [u64; 3];

#[derive(Default)]
pub(super) struct Leaving {
    hasher: RandomState,
    sessions: HashMap<u64, Vec<Keys>>,
    occupied: HashMap<u64, u32>,
    blocked: VecDeque<u64>,
}

impl Leaving {
    /// The gateway is to remove `session`.
    pub fn enter(&mut self, id: u64, session: &v1::Session) {
        let keys = self.keys(id, session);
        for key in keys {
            *self.occupied.entry(key).or_default() += 1;
        }
        self.sessions.entry(id).or_default().push(keys);
    }

    /// Whether `id` is being removed already.
    pub fn contains(&self, id: u64) -> bool {
        self.sessions.contains_key(&id)
    }

    /// Whether the addition of `session` has to wait; then it is remembered.
    pub fn blocks(&mut self, id: u64, session: &v1::Session) -> bool {
        let blocks = !self.occupied.is_empty()
            && self.keys(id, session).iter().any(|key| self.occupied.contains_key(key));
        if blocks {
            self.blocked.push_back(id);
        }
        blocks
    }

    /// The gateway has removed these: the additions that waited.
    pub fn gone(&mut self, ids: impl IntoIterator<Item = u64>) -> VecDeque<u64> {
        for id in ids {
            for key in self.sessions.remove(&id).into_iter().flatten().flatten() {
                if let Some(count) = self.occupied.get_mut(&key) {
                    *count -= 1;
                    if *count == 0 {
                        self.occupied.remove(&key);
                    }
                }
            }
        }
        std::mem::take(&mut self.blocked)
    }

    fn keys(&self, id: u64, session: &v1::Session) -> Keys {
        let original = session.original.as_ref();
        let translated = session.translated.as_ref().or(original);
        let icmp = matches!(session.protocol, 1 | 58);
        let forward = original.map(|t| (&t.source, t.source_port, &t.destination, t.destination_port));
        let reverse = translated.map(|t| match icmp {
            true => (&t.destination, t.source_port, &t.source, t.destination_port),
            false => (&t.destination, t.destination_port, &t.source, t.source_port),
        });
        [
            self.hasher.hash_one(id),
            self.hasher.hash_one((session.in_lif, session.protocol, forward)),
            self.hasher.hash_one((session.out_lif, session.protocol, reverse)),
        ]
    }
}
