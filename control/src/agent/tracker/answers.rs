//! What the gateway answers, and what it closes.

use super::super::session::is_own;
use super::{FULL_RETRY, Stage, Tracker};
use proto::gateway::v1;
use std::collections::HashMap;
use std::time::{Duration, Instant};

const LONGEST_FULL_RETRY: Duration = Duration::from_secs(30);

impl Tracker {
    /// The gateway's answer to the additions `ids`.
    pub fn added(&mut self, ids: &[u64], answer: &v1::AddSessionsResponse, now: Instant) {
        let errors: HashMap<u64, &v1::AddError> =
            answer.errors.iter().map(|error| (error.session_id, error)).collect();
        if errors.is_empty() && !ids.is_empty() {
            self.full_retry = FULL_RETRY;
        }
        for id in ids {
            match errors.get(id) {
                Some(error) => self.refused(*id, error, now),
                None => {
                    self.counters.installed += 1;
                    if let Some(connection) = self.connections.get_mut(id)
                        && connection.stage == Stage::Adding
                    {
                        connection.attempts = 0;
                        connection.packets = 0;
                        connection.enter(Stage::Installed, now);
                    }
                }
            }
        }
    }

    fn refused(&mut self, id: u64, error: &v1::AddError, now: Instant) {
        let status = error.status();
        self.counters.refuse(status_name(status));
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.enter(Stage::Ready, now);
        match status {
            v1::AddStatus::TableFull | v1::AddStatus::Unavailable => {
                if self.hold_adds.is_none() {
                    tracing::warn!(reason = status_name(status), pause = ?self.full_retry, "the gateway takes no sessions");
                    self.hold_adds = Some(now + self.full_retry);
                    self.full_retry = (self.full_retry * 2).min(LONGEST_FULL_RETRY);
                }
                self.adds.push_back(id);
            }
            v1::AddStatus::Exists => {
                self.list_wanted = true;
                self.retry(id, "exists", now);
            }
            _ => {
                tracing::warn!(session_id = id, reason = status_name(status), message = %error.message, "refused");
                self.withdraw(id, Stage::Skipped { by_path: true }, now);
            }
        }
    }

    /// The gateway deleted what we asked it to.
    pub fn deleted(&mut self, ids: &[u64], answer: &v1::DeleteSessionsResponse) {
        self.counters.deleted += answer.closed.len() as u64;
        if let Some(id) = answer.refused.first() {
            tracing::warn!(
                session_id = id,
                count = answer.refused.len(),
                "not ours to delete: another agent with this tag?"
            );
            for _ in &answer.refused {
                self.counters.refuse("delete");
            }
        }
        let released = self.leaving.gone(ids.iter().copied());
        self.adds.extend(released);
    }

    /// The gateway closed a session.
    pub fn closed(&mut self, session: &v1::ClosedSession, now: Instant) {
        let Some(id) = session.session.as_ref().map(|session| session.session_id) else { return };
        if is_own(id, self.tag) {
            self.ledger.closed(id, &session.counters.unwrap_or_default());
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !connection.in_gateway() {
            return;
        }
        self.counters.closed += 1;
        let ended = matches!(session.close_code(), v1::CloseCode::Finack | v1::CloseCode::Rst);
        connection.enter(if ended { Stage::Ended } else { Stage::Resting }, now);
        self.settle_later(id, session, now);
    }

    /// The gateway lost records of closed sessions.
    pub fn closed_lost(&mut self, count: u64) {
        self.counters.closed_lost += count;
        self.list_wanted = true;
    }
}

fn status_name(status: v1::AddStatus) -> &'static str {
    match status {
        v1::AddStatus::Accepted => "accepted",
        v1::AddStatus::Invalid => "invalid",
        v1::AddStatus::TableFull => "table_full",
        v1::AddStatus::Unavailable => "unavailable",
        v1::AddStatus::Exists => "exists",
        v1::AddStatus::UnknownLif => "unknown_lif",
        v1::AddStatus::Unsupported => "unsupported",
    }
}
