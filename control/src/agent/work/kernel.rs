//! What the agent asks of the kernel, and the records it writes.

use super::super::entry::{Entry, protocol};
use super::super::kernel::ConntrackSocket;
use super::super::ledger::Record;
use super::super::session::session_id;
use super::super::tracker::Add;
use super::{Agent, AgentError, Done, Dump, Lookup, OVERRUN_PAUSE};
use nix::errno::Errno;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path as FilePath;
use std::time::{Duration, Instant};
use tokio::task::JoinError;

const LOOKUPS_AT_ONCE: usize = 64;
/// Lookups between two looks at everything else.
const LOOKUP_BURST: usize = 512;
const REFRESH_BURST: usize = 256;
const SETTLE_BURST: usize = 256;
/// Entries of a dump between two looks at everything else.
const DUMP_BURST: usize = 512;
const WRITE_INTERVAL: Duration = Duration::from_millis(200);
/// After a failure.
const WRITE_PAUSE: Duration = Duration::from_secs(5);

impl Agent {
    /// Finds paths: at once where the routes are known, else by asking the kernel beside the loop.
    pub(super) fn start_lookups(&mut self, now: Instant) {
        let room = LOOKUPS_AT_ONCE.saturating_sub(self.lookups.len());
        let mut asked = 0;
        for _ in 0..LOOKUP_BURST {
            if asked == room {
                break;
            }
            let Some((id, entry)) = self.tracker.next_lookup() else { break };
            match self.resolver.known_path(&entry) {
                Some(result) => self.tracker.looked_up(id, result, now),
                None => {
                    asked += 1;
                    let (resolver, entry) = (self.resolver.clone(), entry.clone());
                    self.lookups.spawn(async move { (id, resolver.path(&entry).await) });
                }
            }
        }
    }

    /// Whether the kernel can be asked for more paths.
    pub(super) fn may_look_up(&self) -> bool {
        self.lookups.len() < LOOKUPS_AT_ONCE
    }

    pub(super) fn looked_up(&mut self, first: Result<Lookup, JoinError>) {
        let now = Instant::now();
        let mut next = Some(first);
        while let Some(result) = next {
            if let Ok((id, path)) = result {
                self.tracker.looked_up(id, path, now);
            }
            next = self.lookups.try_join_next();
        }
    }

    /// Makes sure that the kernel will bear to miss most packets of these, and, where the packets it has seen count, that
    /// there are enough. What has gone meanwhile is left out; what goes from now on is deleted by its event.
    pub(super) async fn prepare(&mut self, adds: Vec<Add>, now: Instant) -> Result<Vec<Add>, AgentError> {
        let adds = if self.config.policy.min_packets > 0 { self.confirm(adds, now).await? } else { adds };
        let tcp = adds.iter().filter(|add| add.entry.protocol == protocol::TCP);
        let (ids, liberal): (Vec<u64>, Vec<_>) =
            tcp.map(|add| (add.id, add.entry.make_liberal(add.kernel_timeout))).unzip();
        let mut refused = Vec::new();
        for (id, result) in ids.into_iter().zip(self.requests.execute(liberal).await?) {
            if let Err(error) = result {
                if error != Errno::ENOENT {
                    tracing::warn!(session_id = id, %error, "cannot make the kernel's entry liberal: not offloaded");
                }
                self.tracker.abandon(id);
                refused.push(id);
            }
        }
        let mut adds = adds;
        if !refused.is_empty() {
            adds.retain(|add| !refused.contains(&add.id));
        }
        Ok(adds)
    }

    async fn confirm(&mut self, adds: Vec<Add>, now: Instant) -> Result<Vec<Add>, AgentError> {
        let present = self.requests.execute(adds.iter().map(|add| add.entry.get()).collect()).await?;
        let mut confirmed = Vec::with_capacity(adds.len());
        for (add, result) in adds.into_iter().zip(present) {
            match result {
                Ok(Some(entry)) if session_id(&entry, self.config.tag) == add.id => {
                    if self.tracker.confirm(add.id, entry, now) {
                        confirmed.push(add);
                    }
                }
                _ => self.tracker.abandon(add.id),
            }
        }
        Ok(confirmed)
    }

    /// Gives kernel entries another timeout: more for those of busy sessions, less for those that have ended.
    pub(super) async fn keep_alive(&mut self, now: Instant) -> Result<(), AgentError> {
        let due = self.tracker.take_refreshes(REFRESH_BURST, now);
        let requests = due.iter().map(|refresh| match refresh.assure {
            true => refresh.entry.set_assured(refresh.timeout),
            false => refresh.entry.set_timeout(refresh.timeout),
        });
        let requests = requests.collect();
        for (refresh, result) in due.into_iter().zip(self.requests.execute(requests).await?) {
            match result {
                Ok(_) => self.tracker.refreshed(&refresh, now),
                Err(Errno::ENOENT) => self.tracker.gone(refresh.id, now),
                Err(error) => {
                    tracing::warn!(session_id = refresh.id, %error, "cannot keep the kernel's entry alive")
                }
            }
        }
        Ok(())
    }

    /// Gives kernel entries the TCP state in which the gateway saw their connections end.
    pub(super) async fn settle(&mut self, now: Instant) -> Result<(), AgentError> {
        let due = self.tracker.take_settling(SETTLE_BURST, now);
        let present = self.requests.execute(due.iter().map(|(_, entry, _)| entry.get()).collect()).await?;
        let mut requests = Vec::new();
        for ((id, _, code), result) in due.into_iter().zip(present) {
            if let Ok(Some(entry)) = result
                && session_id(&entry, self.config.tag) == id
                && let Some((state, timeout)) = self.tracker.settled_state(&entry, code)
            {
                requests.push(entry.set_tcp_state(state, timeout));
            }
        }
        for result in self.requests.execute(requests).await? {
            match result {
                Ok(_) => self.tracker.counters.settled += 1,
                Err(Errno::ENOENT) => {}
                Err(error) => tracing::warn!(%error, "cannot change the kernel's entry of a closed session"),
            }
        }
        Ok(())
    }

    /// Begins to compare the whole table.
    pub(super) fn start_dump(&mut self, now: Instant) -> Result<(), AgentError> {
        self.dump_running = true;
        self.dump_at = now + self.config.resync;
        let mut dump = Dump { socket: ConntrackSocket::requests()?, started: now, more: true };
        self.running.spawn(async move {
            let begun = dump.socket.start_dump().await;
            Done::Dumped(dump, begun.map(|()| Vec::new()))
        });
        Ok(())
    }

    pub(super) fn dumped(&mut self, mut dump: Dump, result: std::io::Result<Vec<Entry>>, now: Instant) {
        match result {
            Ok(entries) => {
                self.tracker.compare(entries, now);
                if dump.more {
                    self.running.spawn(async move {
                        let mut entries = Vec::new();
                        while dump.more && entries.len() < DUMP_BURST {
                            match dump.socket.dump_part(&mut entries).await {
                                Ok(more) => dump.more = more,
                                Err(error) => return Done::Dumped(dump, Err(error)),
                            }
                        }
                        Done::Dumped(dump, Ok(entries))
                    });
                    return;
                }
                self.dump_running = false;
                self.tracker.compare_complete(dump.started, now);
                self.is_ready();
            }
            Err(error) => {
                self.dump_running = false;
                tracing::warn!(%error, "cannot read the connection table; trying again");
                self.dump_at = self.dump_at.min(now + OVERRUN_PAUSE);
            }
        }
    }

    /// Writes the records of ended connections beside the loop.
    pub(super) fn start_write(&mut self, now: Instant) {
        let Some(file) = &self.config.records else { return };
        if now < self.write_at || !self.writer.is_empty() || !self.tracker.ledger.has_records() {
            return;
        }
        let (file, records) = (file.clone(), self.tracker.ledger.take());
        self.writer.spawn_blocking(move || {
            let count = records.len();
            Done::Wrote(count, append(&file, &records).map_err(|error| (error, records)))
        });
    }

    pub(super) fn wrote(
        &mut self,
        count: usize,
        result: Result<(), (std::io::Error, Vec<Record>)>,
        now: Instant,
    ) {
        match result {
            Ok(()) => {
                self.tracker.counters.recorded += count as u64;
                self.write_at = now + WRITE_INTERVAL;
            }
            Err((error, records)) => {
                tracing::warn!(%error, "cannot write accounting.file; trying again");
                self.tracker.ledger.put_back(records);
                self.write_at = now + WRITE_PAUSE;
            }
        }
    }

    /// Writes what is left.
    pub(super) async fn write_rest(&mut self) {
        while let Some(result) = self.writer.join_next().await {
            self.ended(result);
        }
        self.start_write(self.write_at);
        if let Some(result) = self.writer.join_next().await {
            self.ended(result);
        }
    }
}

/// Opened each time, so that the file may be moved away. Other users cannot read it.
fn append(file: &FilePath, records: &[Record]) -> std::io::Result<()> {
    let mut text = Vec::new();
    for record in records {
        serde_json::to_writer(&mut text, record)?;
        text.push(b'\n');
    }
    OpenOptions::new().append(true).create(true).mode(0o640).open(file)?.write_all(&text)
}
