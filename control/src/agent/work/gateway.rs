//! What the agent asks of the gateway.

use super::super::counters::Counters;
use super::super::link::{self, Client, LinkError};
use super::{Agent, AgentError, Done, LIST_SHARE, List};
use proto::gateway::v1;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Sessions in a call.
const BATCH: usize = 512;
/// Deletions in a call: what the gateway takes.
const DELETES: usize = 10_000;
/// Additions on their way at once.
const ADDS_AT_ONCE: usize = 4;
/// So many are worth a call beside those on their way.
const WORTH_A_CALL: usize = 64;
/// Fewer wait so long for others while a call is on its way, and no longer.
const FLUSH_DELAY: Duration = Duration::from_millis(2);
const EXIT_LIMIT: Duration = Duration::from_secs(3);

impl Agent {
    pub(super) fn start_deletes(&mut self, client: &Client) {
        if self.delete_running {
            return;
        }
        let ids = self.tracker.take_deletes(DELETES);
        if !ids.is_empty() {
            self.delete_running = true;
            let client = client.clone();
            self.running.spawn(async move { Done::Deleted(ids.clone(), link::delete(client, ids).await) });
        }
    }

    /// At once if nothing is on its way; else when a call is worth it, or the first has waited long enough.
    pub(super) async fn start_adds(&mut self, client: &Client, now: Instant) -> Result<(), AgentError> {
        loop {
            let waiting = if self.has_device() { self.tracker.waiting_adds() } else { 0 };
            if waiting == 0 || self.adds_running >= ADDS_AT_ONCE {
                // What ends will ask again.
                self.flush_at = None;
                return Ok(());
            }
            let flush_at = *self.flush_at.get_or_insert(now + FLUSH_DELAY);
            if self.adds_running > 0 && waiting < WORTH_A_CALL && now < flush_at {
                return Ok(());
            }
            self.flush_at = None;
            let adds = self.tracker.take_adds(BATCH, now);
            let adds = self.prepare(adds, now).await?;
            if !adds.is_empty() {
                self.adds_running += 1;
                let (ids, sessions) = adds.into_iter().map(|add| (add.id, add.session)).unzip();
                let client = client.clone();
                self.running.spawn(async move { Done::Added(ids, link::add(client, sessions).await) });
            }
        }
    }

    /// Asks for the next page of a list.
    pub(super) fn start_list(&mut self, mut client: Client, mut list: List) {
        self.running.spawn(async move {
            let result = link::list_page(&mut client, list.cursor).await;
            let result = result.map(|(page, next)| {
                list.cursor = next;
                page
            });
            Done::Listed(list, result)
        });
    }

    pub(super) fn listed(
        &mut self,
        list: List,
        result: Result<Vec<v1::SessionInfo>, LinkError>,
        now: Instant,
    ) {
        match (result, self.client.clone()) {
            (Ok(page), Some(client)) => {
                self.tracker.listed(page);
                if list.cursor != 0 {
                    return self.start_list(client, list);
                }
                self.list_running = false;
                self.tracker.list_complete(list.started, now);
                self.list_at = now + self.config.refresh.max(LIST_SHARE * list.started.elapsed());
            }
            (Err(error), _) => self.broken(&error),
            (Ok(_), None) => self.list_running = false,
        }
    }

    /// Takes our sessions back, unless they are to stay.
    pub(in super::super) async fn finish(mut self) -> Counters {
        if let Some(client) = self.client.take()
            && !self.config.keep_on_exit
        {
            let running = std::mem::take(&mut self.running);
            self.tracker.counters.deleted += remove(client, running, self.tracker.installed_ids()).await;
        }
        if let Some(activation) = self.activation.take() {
            activation.shutdown().await;
        }
        self.write_rest().await;
        tracing::info!(counters = %self.tracker.counters, "agent ends");
        self.tracker.counters
    }
}

/// Removes sessions as far as the gateway lets, after additions that are on their way; how many.
pub(super) async fn remove(client: Client, mut running: JoinSet<Done>, ids: Vec<u64>) -> u64 {
    let mut removed = 0;
    let removal = async {
        while running.join_next().await.is_some() {}
        for chunk in ids.chunks(DELETES) {
            removed += link::delete(client.clone(), chunk.to_vec()).await?.closed.len() as u64;
        }
        Ok::<(), LinkError>(())
    };
    match tokio::time::timeout(EXIT_LIMIT, removal).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "sessions stay in the gateway until they time out"),
        Err(_) => tracing::warn!("sessions stay in the gateway until they time out: it is too slow"),
    }
    removed
}
