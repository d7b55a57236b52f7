//! Streams of new sessions at once: how many there are, and whose.
//!
//! A client has a share of them, however many connections it makes, so that others find some open.

use super::Limits;
use super::identity::Identity;
use hashbrown::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tonic::Status;

pub(super) struct AddStreams {
    most: usize,
    most_per_client: usize,
    open: Mutex<HashMap<Identity, usize>>,
    refused: AtomicU64,
}

/// One stream's slot, free again when it is dropped.
pub(super) struct Slot<'s> {
    streams: &'s AddStreams,
    client: Identity,
}

impl AddStreams {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            most: limits.add_streams,
            most_per_client: limits.add_streams_per_client,
            open: Mutex::default(),
            refused: AtomicU64::new(0),
        }
    }

    pub(super) fn begin(&self, client: Identity) -> Result<Slot<'_>, Status> {
        let mut open = self.lock();
        let own = open.get(&client).copied().unwrap_or(0);
        if own >= self.most_per_client || open.values().sum::<usize>() >= self.most {
            self.refused.fetch_add(1, Relaxed);
            return Err(Status::resource_exhausted(format!(
                "you have {own} streams of new sessions, of at most {} at once, and of {} with all other clients: put \
                 more sessions into each and end some, or try again later",
                self.most_per_client, self.most
            )));
        }
        open.insert(client.clone(), own + 1);
        Ok(Slot { streams: self, client })
    }

    /// All clients' together.
    pub(super) fn count(&self) -> usize {
        self.lock().values().sum()
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        if let Some(own) = open.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_share_and_all_have_the_whole() {
        let streams =
            AddStreams::new(&Limits { add_streams: 3, add_streams_per_client: 2, ..Limits::default() });
        let named = |name: &str| Identity::Named(name.into());
        let begin = |client| streams.begin(client).map_err(|status| status.message().to_owned());
        let (first, _second) = (begin(named("a")).expect("room"), begin(named("a")).expect("room"));
        let refused = begin(named("a")).map(drop).expect_err("its share");
        assert!(refused.contains("you have 2 streams of new sessions, of at most 2"), "{refused}");
        let third = begin(Identity::Local).expect("another's share");
        let refused = begin(named("b")).map(drop).expect_err("the whole");
        assert!(refused.contains("you have 0 ") && refused.contains("of 3 with all"), "{refused}");
        assert_eq!((streams.count(), streams.refused()), (3, 2));
        drop((first, third));
        assert_eq!(streams.count(), 1);
        assert_eq!(streams.lock().len(), 1, "clients without streams are forgotten");
        begin(named("a")).expect("room again");
    }
}
