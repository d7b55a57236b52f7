//! The agent's loop: tells the tracker what happens, and does what it wants done.

use super::config::AgentConfig;
use super::counters::Counters;
use super::entry::{Entry, protocol};
use super::kernel::{ConntrackSocket, KernelEvent, KernelTimeouts};
use super::link::{self, Client, Link, LinkError, LinkEvent};
use super::path::{Path, PathError, PathsChanged, Resolver};
use super::session::session_id;
use super::tracker::{Add, Batch, Tracker};
use super::{AgentError, READY_LIMIT};
use nix::errno::Errno;
use proto::gateway::v1;
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

/// Wanted receive buffer of the event socket: some 100,000 events.
const EVENT_BUFFER: usize = 64 << 20;
const EVENT_QUEUE: usize = 16_384;
const EVENT_BURST: usize = 1024;
const LOOKUPS_AT_ONCE: usize = 64;
const BATCH: usize = 512;
const REFRESH_BURST: usize = 256;
/// How long the first of a batch waits for others.
const FLUSH_DELAY: Duration = Duration::from_millis(2);
/// Several changes of routes and neighbours in a row are taken together.
const RECHECK_DELAY: Duration = Duration::from_millis(100);
/// At least this long between whole comparisons after lost events.
const OVERRUN_PAUSE: Duration = Duration::from_millis(200);
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
const EXIT_LIMIT: Duration = Duration::from_secs(3);
/// The agent spends at most one part in so many of its time on lists of the gateway.
const LIST_SHARE: u32 = 20;

type Lookup = (u64, Result<Path, PathError>);

/// What tasks beside the loop come back with.
enum Done {
    Batch(Result<link::BatchAnswer, LinkError>),
    Dump(Instant, std::io::Result<Vec<Entry>>),
    List(Instant, Result<Vec<v1::SessionInfo>, LinkError>),
}

/// The agent at work: one loop over what the kernel, the gateway and the clock say.
pub(super) struct Agent {
    config: AgentConfig,
    tracker: Tracker,
    requests: ConntrackSocket,
    resolver: Resolver,
    paths_changed: mpsc::Receiver<PathsChanged>,
    events: mpsc::Receiver<Vec<KernelEvent>>,
    readers: JoinSet<(std::io::Error, u64)>,
    link: Link,
    client: Option<Client>,
    lookups: JoinSet<Lookup>,
    /// At most one each of batch, dump and list, and only of the present connection to the gateway.
    running: JoinSet<Done>,
    batch_running: bool,
    dump_running: bool,
    list_running: bool,
    flush_at: Option<Instant>,
    recheck_at: Option<Instant>,
    dump_at: Instant,
    list_at: Instant,
    report_at: Instant,
    reported: Counters,
    ready: Option<Box<dyn FnOnce() + Send>>,
    ready_at: Instant,
}

impl Agent {
    /// Opens the sockets and starts the tasks beside the loop.
    pub(super) async fn start(
        config: AgentConfig,
        ready: Box<dyn FnOnce() + Send>,
    ) -> Result<Self, AgentError> {
        // Events first: what happens while the rest starts is not missed.
        let socket = ConntrackSocket::events(EVENT_BUFFER)?;
        let (event_sender, events) = mpsc::channel(EVENT_QUEUE / EVENT_BURST);
        let mut readers = JoinSet::new();
        readers.spawn(read_events(socket, event_sender));
        let (changed_sender, paths_changed) = mpsc::channel(1);
        let resolver = Resolver::new(config.interfaces.clone(), changed_sender).await?;
        let tracker = Tracker::new(config.policy.clone(), KernelTimeouts::read(), config.tag);
        let link = Link::start(&config.gateway)?;
        let now = Instant::now();
        Ok(Self {
            tracker,
            requests: ConntrackSocket::requests()?,
            resolver,
            paths_changed,
            events,
            readers,
            link,
            client: None,
            lookups: JoinSet::new(),
            running: JoinSet::new(),
            batch_running: false,
            dump_running: false,
            list_running: false,
            flush_at: None,
            recheck_at: None,
            dump_at: now,
            list_at: now + config.refresh,
            report_at: now + REPORT_INTERVAL,
            reported: Counters::default(),
            ready: Some(ready),
            ready_at: now + READY_LIMIT,
            config,
        })
    }

    /// Works until `shutdown`.
    pub(super) async fn work(&mut self, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
        let mut shutdown = pin!(shutdown);
        loop {
            self.start_due().await?;
            let wake = tokio::time::Instant::from_std(self.next_wake());
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                Some(events) = self.events.recv() => self.kernel_events(events),
                Some(result) = self.readers.join_next() => {
                    let (error, _) = result.map_err(std::io::Error::other)?;
                    return Err(error.into());
                }
                Some(event) = self.link.events.recv() => self.link_event(event),
                Some(result) = self.lookups.join_next() => self.looked_up(result),
                Some(result) = self.running.join_next() => {
                    if let Ok(done) = result {
                        self.done(done);
                    }
                }
                Some(PathsChanged) = self.paths_changed.recv() => {
                    self.recheck_at.get_or_insert(Instant::now() + RECHECK_DELAY);
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    fn looked_up(&mut self, first: Result<Lookup, JoinError>) {
        let now = Instant::now();
        let mut next = Some(first);
        while let Some(result) = next {
            if let Ok((id, path)) = result {
                self.tracker.looked_up(id, path, now);
            }
            next = self.lookups.try_join_next();
        }
    }

    fn kernel_events(&mut self, events: Vec<KernelEvent>) {
        let now = Instant::now();
        for event in events {
            match event {
                KernelEvent::Changed(entry) => self.tracker.changed(entry, now),
                KernelEvent::Destroyed(entry) => self.tracker.destroyed(&entry),
                KernelEvent::Overrun => {
                    self.tracker.counters.overruns += 1;
                    self.dump_at = self.dump_at.min(now + OVERRUN_PAUSE);
                }
                KernelEvent::Undecodable(count) => self.tracker.counters.undecodable += count,
            }
        }
    }

    fn link_event(&mut self, event: LinkEvent) {
        let now = Instant::now();
        match event {
            LinkEvent::Up { client, sessions } => {
                self.forget_running();
                self.tracker.online(sessions);
                self.client = Some(client);
                self.dump_at = now;
                self.list_at = now + self.config.refresh;
            }
            LinkEvent::Closed(session) => self.tracker.closed(&session, now),
            LinkEvent::Lost(count) => self.tracker.closed_lost(count),
            LinkEvent::Down => self.go_offline(),
        }
    }

    fn go_offline(&mut self) {
        self.client = None;
        self.forget_running();
        self.tracker.offline();
    }

    fn forget_running(&mut self) {
        self.running = JoinSet::new();
        self.lookups = JoinSet::new();
        (self.batch_running, self.dump_running, self.list_running) = (false, false, false);
    }

    fn done(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Batch(result) => {
                self.batch_running = false;
                match result {
                    Ok(answer) => {
                        self.tracker.deleted(&answer.deleted);
                        self.tracker.added(&answer.ids, &answer.added, now);
                    }
                    Err(error) => self.broken(&error),
                }
            }
            Done::Dump(started, result) => {
                self.dump_running = false;
                match result {
                    Ok(entries) => {
                        self.tracker.compare(entries, started, now);
                        self.is_ready();
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot read the connection table; trying again");
                        self.dump_at = self.dump_at.min(now + OVERRUN_PAUSE);
                    }
                }
            }
            Done::List(started, result) => {
                self.list_running = false;
                match result {
                    Ok(sessions) => {
                        self.tracker.listed(sessions);
                        self.tracker.list_complete(started, now);
                        self.list_at = now + self.config.refresh.max(LIST_SHARE * started.elapsed());
                    }
                    Err(error) => self.broken(&error),
                }
            }
        }
    }

    fn broken(&mut self, error: &LinkError) {
        tracing::warn!(%error, "the gateway does not answer; connecting again");
        self.go_offline();
        self.link.restart();
    }

    /// Starts whatever is due and can run now.
    async fn start_due(&mut self) -> Result<(), AgentError> {
        let now = Instant::now();
        self.tracker.tick(now);
        if self.report_at <= now {
            self.report();
        }
        if self.ready_at <= now {
            self.is_ready();
        }
        let Some(client) = self.client.clone() else { return Ok(()) };
        if self.recheck_at.is_some_and(|at| at <= now) {
            self.recheck_at = None;
            self.tracker.recheck_paths(now);
        }
        self.start_lookups();
        if self.dump_at <= now && !self.dump_running {
            self.dump_running = true;
            self.dump_at = now + self.config.resync;
            self.running.spawn(async move { Done::Dump(now, dump().await) });
        }
        if (self.list_at <= now || self.tracker.take_list_wanted()) && !self.list_running {
            self.list_running = true;
            self.list_at = now + self.config.refresh;
            let mut client = client.clone();
            self.running.spawn(async move {
                let mut sessions = Vec::new();
                let result = link::list(&mut client, |page| sessions.extend(page)).await;
                Done::List(now, result.map(|()| sessions))
            });
        }
        self.keep_alive(now).await?;
        self.start_batch(client, now).await
    }

    fn start_lookups(&mut self) {
        let room = LOOKUPS_AT_ONCE.saturating_sub(self.lookups.len());
        for (id, entry) in self.tracker.take_lookups(room) {
            let resolver = self.resolver.clone();
            self.lookups.spawn(async move { (id, resolver.path(&entry).await) });
        }
    }

    async fn start_batch(&mut self, client: Client, now: Instant) -> Result<(), AgentError> {
        let (deletes, adds) = self.tracker.pending();
        if adds > 0 {
            self.flush_at.get_or_insert(now + FLUSH_DELAY);
        }
        let due = deletes || adds >= BATCH || (adds > 0 && self.flush_at.is_some_and(|at| at <= now));
        if !due || self.batch_running {
            return Ok(());
        }
        self.flush_at = None;
        let mut batch = self.tracker.take_batch(BATCH, now);
        batch.adds = self.prepare(batch.adds, now).await?;
        if !batch.deletes.is_empty() || !batch.adds.is_empty() {
            self.batch_running = true;
            self.running.spawn(async move { Done::Batch(link::apply(client, batch).await) });
        }
        Ok(())
    }

    /// Makes sure that each entry still is as it must be, and that the kernel will bear to miss most of its packets.
    async fn prepare(&mut self, adds: Vec<Add>, now: Instant) -> Result<Vec<Add>, AgentError> {
        if adds.is_empty() {
            return Ok(adds);
        }
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
        let tcp = confirmed.iter().filter(|add| add.entry.protocol == protocol::TCP);
        let (ids, liberal): (Vec<u64>, Vec<_>) =
            tcp.map(|add| (add.id, add.entry.make_liberal(add.kernel_timeout))).unzip();
        for (id, result) in ids.into_iter().zip(self.requests.execute(liberal).await?) {
            if let Err(error) = result {
                if error != Errno::ENOENT {
                    tracing::warn!(session_id = id, %error, "cannot make the kernel's entry liberal: not offloaded");
                }
                self.tracker.abandon(id);
                confirmed.retain(|add| add.id != id);
            }
        }
        Ok(confirmed)
    }

    /// Gives the kernel's entries of busy sessions more life.
    async fn keep_alive(&mut self, now: Instant) -> Result<(), AgentError> {
        let due = self.tracker.take_refreshes(REFRESH_BURST);
        if due.is_empty() {
            return Ok(());
        }
        let requests = due.iter().map(|(_, entry, timeout)| entry.set_timeout(*timeout)).collect();
        for ((id, _, timeout), result) in due.into_iter().zip(self.requests.execute(requests).await?) {
            match result {
                Ok(_) => self.tracker.refreshed(id, timeout, now),
                Err(Errno::ENOENT) => self.tracker.gone(id),
                Err(error) => tracing::warn!(session_id = id, %error, "cannot keep the kernel's entry alive"),
            }
        }
        Ok(())
    }

    fn next_wake(&self) -> Instant {
        let mut wake = if self.ready.is_some() { self.report_at.min(self.ready_at) } else { self.report_at };
        if self.client.is_some() {
            if self.tracker.has_refreshes() {
                return Instant::now();
            }
            let dump = (!self.dump_running).then_some(self.dump_at);
            let list = (!self.list_running).then_some(self.list_at);
            let flush = if self.batch_running { None } else { self.flush_at };
            let times = [dump, list, flush, self.recheck_at, self.tracker.next_tick()];
            wake = times.into_iter().flatten().fold(wake, Instant::min);
        }
        wake
    }

    fn is_ready(&mut self) {
        if let Some(ready) = self.ready.take() {
            ready();
        }
    }

    fn report(&mut self) {
        self.report_at = Instant::now() + REPORT_INTERVAL;
        if self.tracker.counters != self.reported {
            self.reported = self.tracker.counters.clone();
            tracing::info!(counters = %self.reported, "agent");
        }
    }

    /// Takes our sessions back, unless they are to stay.
    pub(super) async fn finish(&mut self) {
        if let Some(client) = self.client.take()
            && !self.config.keep_on_exit
        {
            self.forget_running();
            let ids = self.tracker.installed_ids();
            let removal = async {
                for chunk in ids.chunks(BATCH) {
                    let batch = Batch { deletes: chunk.to_vec(), adds: Vec::new() };
                    let answer = link::apply(client.clone(), batch).await?;
                    self.tracker.deleted(&answer.deleted);
                }
                Ok::<(), LinkError>(())
            };
            match tokio::time::timeout(EXIT_LIMIT, removal).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "sessions stay in the gateway until they time out"),
                Err(_) => tracing::warn!("sessions stay in the gateway until they time out: it is too slow"),
            }
        }
        tracing::info!(counters = %self.tracker.counters, "agent ends");
    }
}

/// Reads events until the socket breaks. A slow agent makes the kernel drop events, which it tells.
async fn read_events(
    mut socket: ConntrackSocket,
    sender: mpsc::Sender<Vec<KernelEvent>>,
) -> (std::io::Error, u64) {
    let mut total = 0;
    loop {
        let mut events = Vec::new();
        if let Err(error) = socket.next_events(&mut events, EVENT_BURST).await {
            return (error, total);
        }
        total += events.len() as u64;
        if !events.is_empty() && sender.send(events).await.is_err() {
            return (std::io::Error::other("the agent has ended"), total);
        }
    }
}

async fn dump() -> std::io::Result<Vec<Entry>> {
    ConntrackSocket::requests()?.dump().await
}
