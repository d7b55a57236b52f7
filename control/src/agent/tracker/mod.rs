//! What the agent knows of each connection, and what is to be done next: no sockets, no clock, `now` is an argument.
//!
//! A connection is looked up (its path), becomes ready, is added, is installed. It rests when the gateway timed it out, until
//! the kernel sees packets of it again; it has ended when the gateway saw it end; it is skipped where it cannot be offloaded.

mod answers;
mod leaving;
mod reconcile;
mod settle;

use super::counters::Counters;
use super::entry::{Entry, protocol};
use super::kernel::KernelTimeouts;
use super::ledger::Ledger;
use super::path::{Path, PathError};
use super::session::{Ineligible, Policy, is_own, session, session_id};
use leaving::Leaving;
use netlink_packet_netfilter::conntrack::Status;
use proto::gateway::v1;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// After so many the connection is left to the next comparison of the whole table.
const ATTEMPTS: u8 = 8;
const RETRIES_LIMIT: usize = 65_536;
const FULL_RETRY: Duration = Duration::from_secs(1);
/// The kernel gave an entry this much more life than we know of: it has seen a packet.
const LIFE_SIGN: Duration = Duration::from_secs(2);
/// UDP with packets for longer than this is a stream to the kernel (nf_conntrack_proto_udp.c).
const UDP_STREAM: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Looking,
    Waiting,
    Ready,
    Adding,
    Installed,
    Resting,
    Ended,
    /// For good, or until paths change.
    Skipped {
        by_path: bool,
    },
}

#[derive(Debug)]
struct Connection {
    entry: Entry,
    session: Option<v1::Session>,
    stage: Stage,
    attempts: u8,
    /// Since when in this stage.
    since: Instant,
    /// When the kernel will drop the entry, as far as told.
    expires: Option<Instant>,
    /// The gateway's packet count when last asked.
    packets: u64,
    /// The listing it was last seen in.
    listing: u64,
    /// The comparison it was last seen in.
    comparison: u64,
}

impl Connection {
    fn in_gateway(&self) -> bool {
        matches!(self.stage, Stage::Adding | Stage::Installed)
    }

    fn enter(&mut self, stage: Stage, now: Instant) {
        self.stage = stage;
        self.since = now;
    }
}

/// A session to install.
#[derive(Clone, Debug)]
pub struct Add {
    /// Its id.
    pub id: u64,
    /// The kernel's entry.
    pub entry: Entry,
    /// What the kernel gives such an entry, seconds.
    pub kernel_timeout: u32,
    /// What to install.
    pub session: v1::Session,
}

/// A kernel entry that is to live for `timeout` seconds from now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refresh {
    /// Its session's id.
    pub id: u64,
    /// The entry.
    pub entry: Entry,
    /// Seconds.
    pub timeout: u32,
    /// It has become a stream: it must not be dropped early.
    pub assure: bool,
}

/// The connections, and the queues of what is to be done.
pub struct Tracker {
    policy: Policy,
    timeouts: KernelTimeouts,
    tag: u8,
    online: bool,
    /// Boxed: a map of 28,000 that grows would else move 20 MB, which holds every new connection up.
    connections: HashMap<u64, Box<Connection>>,
    /// Sessions of ours that the gateway had when we came, until their connections are found.
    remote: HashMap<u64, v1::Session>,
    /// Connections without a path.
    lookups: VecDeque<u64>,
    /// Connections whose path may have changed, perhaps all of them: those without one take turns with them.
    rechecks: VecDeque<u64>,
    recheck_next: bool,
    adds: VecDeque<u64>,
    deletes: Vec<u64>,
    /// Sessions on their way out, and additions that must wait for them.
    leaving: Leaving,
    refreshes: VecDeque<(u64, u32)>,
    /// Ended TCP connections whose entries are to be looked at, and when.
    settling: VecDeque<(Instant, u64, v1::CloseCode)>,
    retries: BinaryHeap<Reverse<(Instant, u64)>>,
    hold_adds: Option<Instant>,
    full_retry: Duration,
    listing: u64,
    comparison: u64,
    /// What the gateway had when we came has not been compared yet: some of it may be in the way of additions.
    reconciling: bool,
    list_wanted: bool,
    /// Interfaces of connections that are in no configuration: each is told of once.
    strangers: HashSet<String>,
    /// What the gateway forwarded.
    pub ledger: Ledger,
    /// What has been done so far.
    pub counters: Counters,
}

impl Tracker {
    /// Knows nothing yet, and is offline.
    pub fn new(policy: Policy, timeouts: KernelTimeouts, tag: u8, ledger: Ledger) -> Self {
        Self {
            policy,
            timeouts,
            tag,
            online: false,
            connections: HashMap::new(),
            remote: HashMap::new(),
            lookups: VecDeque::new(),
            rechecks: VecDeque::new(),
            recheck_next: false,
            adds: VecDeque::new(),
            deletes: Vec::new(),
            leaving: Leaving::default(),
            refreshes: VecDeque::new(),
            settling: VecDeque::new(),
            retries: BinaryHeap::new(),
            hold_adds: None,
            full_retry: FULL_RETRY,
            // A connection's 0 is in none.
            listing: 1,
            comparison: 1,
            reconciling: false,
            list_wanted: false,
            strangers: HashSet::new(),
            ledger,
            counters: Counters::default(),
        }
    }

    /// The gateway is there and has `sessions`: a dump of the kernel's table must follow.
    pub fn online(&mut self, sessions: Vec<v1::SessionInfo>) {
        self.offline();
        self.online = true;
        self.counters.connects += 1;
        let own =
            sessions.into_iter().filter_map(|info| info.session).filter(|s| is_own(s.session_id, self.tag));
        self.remote = own.map(|session| (session.session_id, as_sent(session))).collect();
        self.reconciling = !self.remote.is_empty();
    }

    /// The gateway is gone: forget everything, the next reconciliation finds it all again.
    pub fn offline(&mut self) {
        self.online = false;
        self.connections.clear();
        self.remote.clear();
        self.lookups.clear();
        self.rechecks.clear();
        self.adds.clear();
        self.deletes.clear();
        self.leaving = Leaving::default();
        self.refreshes.clear();
        self.settling.clear();
        self.retries.clear();
        self.hold_adds = None;
        self.full_retry = FULL_RETRY;
        self.list_wanted = false;
        self.reconciling = false;
    }

    /// The kernel made or changed an entry.
    pub fn changed(&mut self, entry: Entry, now: Instant) {
        self.counters.events += 1;
        if !self.online {
            return;
        }
        let id = session_id(&entry, self.tag);
        if self.connections.contains_key(&id) {
            self.update(id, entry, now);
        } else {
            self.consider(id, entry, now);
        }
    }

    /// The kernel dropped an entry.
    pub fn destroyed(&mut self, entry: &Entry, now: Instant) {
        self.counters.events += 1;
        let id = session_id(entry, self.tag);
        let installed = self.forget(id);
        self.ledger.ended(id, entry, installed, now);
    }

    /// The entry behind `id` exists no more.
    pub fn gone(&mut self, id: u64, now: Instant) {
        let entry = self.connections.get(&id).map(|connection| connection.entry.clone());
        let installed = self.forget(id);
        if let Some(entry) = entry {
            self.ledger.ended(id, &entry, installed, now);
        }
    }

    /// Whether the session of `id` may be in the gateway; then it is deleted.
    fn forget(&mut self, id: u64) -> bool {
        let installed = self.connections.remove(&id).filter(|c| c.in_gateway()).and_then(|c| c.session);
        let session = self.remote.remove(&id).or(installed);
        if let Some(session) = &session {
            self.delete(id, session);
        }
        session.is_some()
    }

    fn delete(&mut self, id: u64, session: &v1::Session) {
        self.leaving.enter(id, session);
        self.deletes.push(id);
    }

    fn consider(&mut self, id: u64, entry: Entry, now: Instant) {
        let stage = match self.policy.judge(&entry) {
            Ok(()) => Stage::Looking,
            Err(reason) if reason.is_worth_keeping() => {
                self.counters.skip(reason.name());
                Stage::Skipped { by_path: false }
            }
            Err(_) => return,
        };
        let expires = entry.timeout.map(|seconds| now + Duration::from_secs(seconds.into()));
        let connection = Connection {
            entry,
            session: None,
            stage,
            attempts: 0,
            since: now,
            expires,
            packets: 0,
            listing: 0,
            comparison: self.comparison,
        };
        self.connections.insert(id, Box::new(connection));
        if stage == Stage::Looking {
            self.lookups.push_back(id);
        }
    }

    fn update(&mut self, id: u64, news: Entry, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let known = &mut connection.entry;
        let progressed =
            known.status != news.status || news.tcp_state.is_some_and(|state| known.tcp_state != Some(state));
        let expires = news.timeout.map(|seconds| now + Duration::from_secs(seconds.into()));
        let alive = matches!((connection.expires, expires), (Some(old), Some(new)) if new > old + LIFE_SIGN);
        *known = Entry {
            tcp_state: news.tcp_state.or(known.tcp_state),
            helper: news.helper || known.helper,
            traffic: news.traffic.or(known.traffic),
            ..news
        };
        if expires.is_some() {
            connection.expires = expires;
        }
        match (connection.stage, self.policy.judge(&connection.entry)) {
            (Stage::Skipped { by_path: false } | Stage::Ended, Err(_)) => {}
            (_, Err(reason)) if reason.is_worth_keeping() => {
                self.counters.skip(reason.name());
                self.withdraw(id, Stage::Skipped { by_path: false }, now);
            }
            (Stage::Resting, Ok(())) if progressed || alive => self.look(id, now),
            (Stage::Skipped { by_path: false }, Ok(())) if progressed => self.look(id, now),
            _ => {}
        }
    }

    fn look(&mut self, id: u64, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.enter(Stage::Looking, now);
            self.lookups.push_back(id);
        }
    }

    fn withdraw(&mut self, id: u64, stage: Stage, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let installed = if connection.in_gateway() { connection.session.take() } else { None };
        connection.enter(stage, now);
        if let Some(session) = self.remote.remove(&id).or(installed) {
            self.delete(id, &session);
        }
    }

    /// The next connection whose path is wanted.
    pub fn next_lookup(&mut self) -> Option<(u64, Entry)> {
        loop {
            self.recheck_next = !self.recheck_next;
            let queues = match self.recheck_next {
                true => [&mut self.rechecks, &mut self.lookups],
                false => [&mut self.lookups, &mut self.rechecks],
            };
            let id = queues.into_iter().find_map(VecDeque::pop_front)?;
            if let Some(connection) = self.connections.get(&id) {
                return Some((id, connection.entry.clone()));
            }
        }
    }

    /// Whether paths are wanted.
    pub fn has_lookups(&self) -> bool {
        !(self.lookups.is_empty() && self.rechecks.is_empty())
    }

    /// Whether the last [`Self::recheck_paths`] is still under way.
    pub fn rechecks_paths(&self) -> bool {
        !self.rechecks.is_empty()
    }

    /// Paths may have changed: look again at all that are installed, or that had none.
    pub fn recheck_paths(&mut self, now: Instant) {
        for (id, connection) in &mut self.connections {
            match connection.stage {
                Stage::Installed => self.rechecks.push_back(*id),
                Stage::Skipped { by_path: true } => {
                    connection.enter(Stage::Looking, now);
                    connection.attempts = 0;
                    self.rechecks.push_back(*id);
                }
                _ => {}
            }
        }
    }

    /// The answer to a lookup.
    pub fn looked_up(&mut self, id: u64, result: Result<Path, PathError>, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !matches!(connection.stage, Stage::Looking | Stage::Installed) {
            return;
        }
        match result {
            Ok(path) => {
                let timeout = self.timeouts.of(&connection.entry, false);
                self.found(id, &path, timeout, now);
            }
            // What is installed keeps going on a path that is only not confirmed.
            Err(error) if error.is_transient() => {
                if connection.stage == Stage::Looking {
                    self.retry(id, error.reason(), now);
                }
            }
            Err(error) => {
                tracing::debug!(session_id = id, %error, "not offloaded");
                if let PathError::NotConfigured(interface) = &error
                    && self.strangers.insert(interface.clone())
                {
                    tracing::info!(
                        "connections over {interface} stay in the kernel: it is no [[interface]] of the configuration"
                    );
                }
                self.counters.skip(error.reason());
                self.withdraw(id, Stage::Skipped { by_path: true }, now);
            }
        }
    }

    fn found(&mut self, id: u64, path: &Path, timeout: u32, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let wanted = session(&connection.entry, path, id, timeout);
        if connection.stage == Stage::Installed {
            let installed = connection.session.as_ref();
            if installed.is_some_and(|installed| installed.l2 == wanted.l2 && same_lifs(installed, &wanted)) {
                return;
            }
            self.counters.rerouted += 1;
            let installed = connection.session.replace(wanted);
            connection.enter(Stage::Ready, now);
            self.adds.push_back(id);
            if let Some(session) = installed {
                self.delete(id, &session);
            }
            return;
        }
        let mut replaced = None;
        if let Some(remote) = self.remote.remove(&id) {
            if remote == wanted {
                connection.session = Some(wanted);
                connection.enter(Stage::Installed, now);
                self.counters.adopted += 1;
                return;
            }
            replaced = Some(remote);
        }
        connection.session = Some(wanted);
        connection.enter(Stage::Ready, now);
        self.adds.push_back(id);
        if let Some(session) = replaced {
            self.delete(id, &session);
        }
    }

    /// Tries `id` again later, with growing pauses; then leaves it to the next comparison.
    pub fn retry(&mut self, id: u64, reason: &'static str, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.attempts >= ATTEMPTS || self.retries.len() >= RETRIES_LIMIT {
            self.counters.skip(reason);
            self.forget(id);
            return;
        }
        let pause = FIRST_RETRY.saturating_mul(1 << connection.attempts).min(LONGEST_RETRY);
        connection.attempts += 1;
        connection.enter(Stage::Waiting, now);
        self.counters.retries += 1;
        self.retries.push(Reverse((now + pause, id)));
    }

    /// Moves what has waited long enough back to the lookups.
    pub fn tick(&mut self, now: Instant) {
        self.ledger.tick(now);
        while let Some(Reverse((at, id))) = self.retries.peek().copied() {
            if at > now {
                break;
            }
            self.retries.pop();
            if self.connections.get(&id).is_some_and(|connection| connection.stage == Stage::Waiting) {
                self.look(id, now);
            }
        }
        if self.hold_adds.is_some_and(|until| until <= now) {
            self.hold_adds = None;
        }
    }

    /// When `tick` has something to do next.
    pub fn next_tick(&self) -> Option<Instant> {
        let retry = self.retries.peek().map(|Reverse((at, _))| *at);
        retry.into_iter().chain(self.hold_adds).min()
    }

    /// Additions that could be made now.
    pub fn waiting_adds(&self) -> usize {
        if self.holds_adds() { 0 } else { self.adds.len() }
    }

    fn holds_adds(&self) -> bool {
        self.hold_adds.is_some() || self.reconciling
    }

    /// The next sessions to remove.
    pub fn take_deletes(&mut self, limit: usize) -> Vec<u64> {
        let count = limit.min(self.deletes.len());
        self.deletes.drain(..count).collect()
    }

    /// The next sessions to install. Those whose id or flows belong to a session that is being removed wait for its end.
    pub fn take_adds(&mut self, limit: usize, now: Instant) -> Vec<Add> {
        let mut adds = Vec::new();
        while !self.holds_adds() && adds.len() < limit {
            let Some(id) = self.adds.pop_front() else { break };
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            if connection.stage != Stage::Ready {
                continue;
            }
            let Some(session) = connection.session.clone() else { continue };
            if self.leaving.blocks(id, &session) {
                continue;
            }
            let entry = connection.entry.clone();
            if self.may_add(id, now) {
                let kernel_timeout = self.timeouts.of(&entry, false);
                adds.push(Add { id, entry, kernel_timeout, session });
            }
        }
        adds
    }

    /// Whether the entry of `id`, not in the gateway yet, still is to be offloaded; if so, it is being added.
    fn may_add(&mut self, id: u64, now: Instant) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        let verdict = self.policy.judge(&connection.entry);
        match verdict {
            Ok(()) => connection.enter(Stage::Adding, now),
            Err(reason @ (Ineligible::FewPackets | Ineligible::Unanswered)) => {
                self.retry(id, reason.name(), now);
            }
            Err(reason) => {
                self.counters.skip(reason.name());
                self.connections.remove(&id);
            }
        }
        verdict.is_ok()
    }

    /// The kernel's entry as it is just before it is added: whether to go on.
    pub fn confirm(&mut self, id: u64, entry: Entry, now: Instant) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        if connection.stage != Stage::Adding {
            return false;
        }
        connection.entry = entry;
        connection.enter(Stage::Ready, now);
        self.may_add(id, now)
    }

    /// An addition did not get as far as the gateway: the entry is gone.
    pub fn abandon(&mut self, id: u64) {
        self.connections.remove(&id);
    }

    /// The next kernel entries to give another timeout.
    pub fn take_refreshes(&mut self, limit: usize, now: Instant) -> Vec<Refresh> {
        let count = limit.min(self.refreshes.len());
        let due: Vec<(u64, u32)> = self.refreshes.drain(..count).collect();
        due.into_iter()
            .filter_map(|(id, timeout)| {
                let connection = self.connections.get(&id)?;
                let streaming = connection.stage == Stage::Installed && now >= connection.since + UDP_STREAM;
                let assured = connection.entry.status.contains(Status::Assured);
                let assure = connection.entry.protocol == protocol::UDP && streaming && !assured;
                Some(Refresh { id, entry: connection.entry.clone(), timeout, assure })
            })
            .collect()
    }

    /// The kernel did as `refresh` says.
    pub fn refreshed(&mut self, refresh: &Refresh, now: Instant) {
        self.counters.refreshed += 1;
        if let Some(connection) = self.connections.get_mut(&refresh.id) {
            connection.expires = Some(now + Duration::from_secs(refresh.timeout.into()));
            if refresh.assure {
                connection.entry.status |= Status::Assured;
            }
        }
    }

    /// Whether kernel entries wait to be kept alive.
    pub fn has_refreshes(&self) -> bool {
        !self.refreshes.is_empty()
    }

    /// Ids of all that may be in the gateway.
    pub fn installed_ids(&self) -> Vec<u64> {
        let tracked =
            self.connections.iter().filter(|(_, connection)| connection.in_gateway()).map(|(id, _)| *id);
        tracked.chain(self.remote.keys().copied()).chain(self.deletes.iter().copied()).collect()
    }
}

/// As we sent it: the gateway adds the owner.
fn as_sent(session: v1::Session) -> v1::Session {
    v1::Session { owner: String::new(), ..session }
}

fn same_lifs(a: &v1::Session, b: &v1::Session) -> bool {
    (a.in_lif, a.out_lif) == (b.in_lif, b.out_lif)
}

#[cfg(test)]
mod tests;
