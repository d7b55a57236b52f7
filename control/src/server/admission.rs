//! What the services share: sessions come in by streams, and go out with their final counters.

use super::add_streams::{AddStreams, Slot};
use super::identity::{Caller, Identity, Rights};
use super::listen::TurnedAway;
use super::rejected::Rejected;
use super::{Handles, Limits};
use crate::activation::Activation;
use crate::session_manager::{Context, SpecError};
use crate::stats;
use conntrack::{CloseCode, Closed, InsertError, SessionId, SessionInfo, SessionSpec};
use hashbrown::HashMap;
use proto::gateway::v1::{Counter, Stats};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// How long a removal waits for the housekeeper's report, which comes within milliseconds.
const REPORT: Duration = Duration::from_secs(1);

pub(super) struct Shared {
    pub(super) handles: Handles,
    pub(super) context: Context,
    pub(super) limits: Limits,
    pub(super) stop: CancellationToken,
    pub(super) add_streams: AddStreams,
    pub(super) activation: Activation,
    /// Sessions refused before the table saw them.
    pub(super) refused: AtomicU64,
    /// Calls beyond a connection's rate.
    pub(super) calls_refused: Arc<AtomicU64>,
    pub(super) rights: Arc<Rights>,
    pub(super) turned_away: Arc<TurnedAway>,
    pub(super) rejected: Rejected,
    /// When sessions were last asked for, in seconds.
    pub(super) last_add: AtomicU64,
}

/// What became of a removal.
#[derive(Default)]
pub(super) struct Removal {
    /// Final records.
    pub(super) closed: Vec<Closed>,
    /// Ids of no session.
    pub(super) unknown: Vec<u64>,
    /// Ids of other clients' sessions, which stay.
    pub(super) foreign: Vec<u64>,
}

/// Why a session was not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// The request is wrong in itself.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The table does not take it.
    #[error(transparent)]
    Table(#[from] InsertError),
    /// No VNF has activated this device.
    #[error("this device is not activated: activate it at one of the VNFs it is registered with")]
    Inactive,
}

impl Shared {
    /// A slot for one stream of new sessions.
    pub(super) fn add_stream<T>(&self, request: &Request<T>) -> Result<Slot<'_>, Status> {
        self.add_streams.begin(Identity::of(request))
    }

    /// Whom a request comes from.
    pub(super) fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        self.rights.caller(self.context.owners(), request)
    }

    /// Installs sessions of `owner`; what became of each, in order, is appended to `outcomes`.
    pub(super) fn install(
        &self,
        owner: u16,
        requested: impl Iterator<Item = Result<SessionSpec, SpecError>>,
        outcomes: &mut Vec<Result<(), Refusal>>,
    ) {
        let from = outcomes.len();
        self.last_add.store(self.handles.clock.now_nanos() / SECOND, Ordering::Relaxed);
        self.try_install(owner, requested, outcomes);
        outcomes[from..]
            .iter()
            .filter_map(|outcome| outcome.as_ref().err())
            .for_each(|r| self.rejected.count(r));
    }

    fn try_install(
        &self,
        owner: u16,
        requested: impl Iterator<Item = Result<SessionSpec, SpecError>>,
        outcomes: &mut Vec<Result<(), Refusal>>,
    ) {
        let from = outcomes.len();
        if !self.activation.is_active() {
            outcomes.extend(requested.map(|_| Err(Refusal::Inactive)));
            self.refused.fetch_add((outcomes.len() - from) as u64, Ordering::Relaxed);
            return;
        }
        let mut specs = Vec::with_capacity(requested.size_hint().0);
        outcomes.extend(
            requested.map(|spec| {
                spec.map(|spec| specs.push(SessionSpec { owner, ..spec })).map_err(Refusal::from)
            }),
        );
        let mut results = Vec::with_capacity(specs.len());
        self.handles.table.insert_batch(&specs, self.handles.clock.now(), &mut results);
        self.refused.fetch_add((outcomes.len() - from - specs.len()) as u64, Ordering::Relaxed);
        let valid = outcomes[from..].iter_mut().filter(|outcome| outcome.is_ok());
        for (outcome, result) in valid.zip(results) {
            *outcome = result.map_err(Refusal::from);
        }
    }

    /// Everything counted, by now.
    pub(super) fn stats(&self) -> Stats {
        let Handles { config, snapshot, table, closed, .. } = &self.handles;
        let mut stats = stats::stats(config, &snapshot(), &table.stats());
        if let Some(sessions) = &mut stats.sessions {
            sessions.rejected += self.refused.load(Ordering::Relaxed);
        }
        let mut other = |name: &str, value| stats.other.push(Counter { name: name.to_owned(), value });
        other("closed_waiting", closed.len() as u64);
        other("closed_dropped", closed.dropped());
        other("closed_watchers", closed.watchers() as u64);
        other("add_streams", self.add_streams.count() as u64);
        other("add_streams_refused", self.add_streams.refused());
        let now = self.handles.clock.now_nanos() / SECOND;
        other("seconds_since_add", now.saturating_sub(self.last_add.load(Ordering::Relaxed)));
        other("activated_by", self.activation.count());
        other("owners", self.context.owners().len() as u64);
        other("owners_refused", self.context.owners().refused());
        other("foreign_refused", self.rights.refused());
        other("calls_refused", self.calls_refused.load(Ordering::Relaxed));
        other("connections_refused", self.turned_away.refused.load(Ordering::Relaxed));
        other("tls_handshake_failed", self.turned_away.handshake_failed.load(Ordering::Relaxed));
        self.rejected.counters().for_each(|(name, value)| other(name, value));
        stats
    }

    /// Removes sessions that are in `scope`.
    pub(super) async fn remove(&self, ids: &[u64], scope: Option<u16>) -> Removal {
        let Handles { table, clock, closed, .. } = &self.handles;
        let (to, from) = mpsc::unbounded_channel();
        let mut pending = HashMap::new();
        let mut removal = Removal::default();
        let remove = |session| match scope {
            None => table.remove(session, clock.now()),
            Some(owner) => table.remove_of(owner, session, clock.now()),
        };
        for (i, &id) in ids.iter().enumerate() {
            let session = SessionId(id);
            let before = table.get(session);
            match before {
                Some(info) if scope.is_some_and(|owner| owner != info.spec.owner) => removal.foreign.push(id),
                Some(info) if closed.removed(session, &to, || remove(session)) => {
                    pending.insert(session, info);
                }
                _ => removal.unknown.push(id),
            }
            if i % 256 == 255 {
                tokio::task::yield_now().await;
            }
        }
        drop(to);
        self.rights.count_refused(removal.foreign.len() as u64);
        removal.closed = self.reports(pending, from).await;
        removal
    }

    async fn reports(
        &self,
        mut pending: HashMap<SessionId, SessionInfo>,
        mut from: mpsc::UnboundedReceiver<Closed>,
    ) -> Vec<Closed> {
        let mut records = Vec::with_capacity(pending.len());
        let deadline = tokio::time::Instant::now() + REPORT;
        while !pending.is_empty() {
            let Ok(Some(record)) = tokio::time::timeout_at(deadline, from.recv()).await else { break };
            pending.remove(&record.info.spec.id);
            records.push(record);
        }
        if !pending.is_empty() {
            tracing::warn!(
                sessions = pending.len(),
                "removed, but the final counters are late; the last known are given"
            );
        }
        let end = self.handles.clock.now();
        records.extend(pending.into_values().map(|info| Closed { info, code: CloseCode::Deleted, end }));
        records
    }
}
