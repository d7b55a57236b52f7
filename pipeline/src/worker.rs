//! The graph: what all workers share, and one worker's run over a burst.

use crate::packet::{Burst, Io, Packet};
use crate::{Config, ConfigError, PortIndex, Snapshot};
use conntrack::SessionTable;
use std::marker::PhantomData;
use std::sync::Arc;

/// What all workers share: LIFs, neighbours, the forwarding database, the session table, counters.
pub struct Pipeline {}

impl Pipeline {
    /// Checks the configuration and takes all memory. `secret` keys hashes of tables that strangers can fill.
    pub fn new(
        _config: Config,
        _sessions: Arc<SessionTable>,
        _workers: usize,
        _secret: [u64; 2],
    ) -> Result<Arc<Self>, Vec<ConfigError>> {
        unimplemented!()
    }

    /// Worker `index`'s half, to be moved to its thread; each index once.
    pub fn worker<P: Packet>(self: &Arc<Self>, _index: usize) -> Option<Worker<P>> {
        unimplemented!()
    }

    /// All workers' counters.
    pub fn snapshot(&self) -> Snapshot {
        unimplemented!()
    }

    /// As given.
    pub fn config(&self) -> &Config {
        unimplemented!()
    }
}

/// One worker's run through the stages. Times are nanoseconds since an origin common to all workers.
pub struct Worker<P> {
    _packets: PhantomData<P>,
}

impl<P: Packet> Worker<P> {
    /// Takes a burst received on `port` all the way; `packets` is empty afterwards, every packet sent, trapped or dropped
    /// under a reason.
    pub fn process(&mut self, _port: PortIndex, _packets: &mut Burst<P>, _now: u64, _io: &mut impl Io<P>) {
        unimplemented!()
    }

    /// What is due by time (ARP and ND of the gateway's own, ageing): bounded work, to be called every millisecond or so,
    /// also when nothing arrives.
    pub fn tick(&mut self, _now: u64, _io: &mut impl Io<P>) {
        unimplemented!()
    }
}
