//! The agent's loop: tells the tracker what happens, and does what it wants done.

mod device;
mod gateway;
mod kernel;

use super::activation;
use super::config::{AgentConfig, Endpoint};
use super::counters::Counters;
use super::entry::Entry;
use super::kernel::{ConntrackSocket, KernelEvent, KernelTimeouts};
use super::ledger::{Ledger, Record};
use super::link::{Client, Link, LinkError, LinkEvent};
use super::path::{Path, PathError, PathsChanged, Resolver};
use super::tracker::Tracker;
use super::{AgentError, READY_LIMIT};
use proto::gateway::v1;
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

const EVENT_QUEUE: usize = 16_384;
const EVENT_BURST: usize = 256;
/// Several changes of routes and neighbours in a row are taken together.
const RECHECK_DELAY: Duration = Duration::from_millis(100);
/// At least this long between whole comparisons after lost events.
const OVERRUN_PAUSE: Duration = Duration::from_millis(200);
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// The agent spends at most one part in so many of its time on lists of the gateway.
const LIST_SHARE: u32 = 20;

type Lookup = (u64, Result<Path, PathError>);

/// What tasks beside the loop come back with.
enum Done {
    Added(Vec<u64>, Result<v1::AddSessionsResponse, LinkError>),
    Deleted(Vec<u64>, Result<v1::DeleteSessionsResponse, LinkError>),
    Dumped(Dump, std::io::Result<Vec<Entry>>),
    Listed(List, Result<Vec<v1::SessionInfo>, LinkError>),
    Wrote(usize, Result<(), (std::io::Error, Vec<Record>)>),
}

/// A comparison of the whole table under way.
struct Dump {
    socket: ConntrackSocket,
    started: Instant,
    more: bool,
}

/// A list of the gateway under way.
struct List {
    started: Instant,
    cursor: u64,
}

/// The agent at work: one loop over what the kernel, the gateway and the clock say.
pub(super) struct Agent {
    config: AgentConfig,
    tracker: Tracker,
    requests: ConntrackSocket,
    resolver: Resolver,
    paths_changed: mpsc::Receiver<PathsChanged>,
    events: mpsc::Receiver<Vec<KernelEvent>>,
    readers: JoinSet<std::io::Error>,
    link: Link,
    /// Where `link` leads.
    endpoint: Endpoint,
    client: Option<Client>,
    /// Where devices register; without, the gateway is used as it is.
    activation: Option<activation::Service>,
    lookups: JoinSet<Lookup>,
    /// Only of the present connection to the gateway.
    running: JoinSet<Done>,
    adds_running: usize,
    delete_running: bool,
    dump_running: bool,
    list_running: bool,
    /// Writes records; not bound to a connection.
    writer: JoinSet<Done>,
    flush_at: Option<Instant>,
    recheck_at: Option<Instant>,
    dump_at: Instant,
    list_at: Instant,
    write_at: Instant,
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
        let requests = ConntrackSocket::requests()?;
        // Events first: what happens while the rest starts is not missed.
        let socket = ConntrackSocket::events(config.event_buffer, &requests)?;
        let (event_sender, events) = mpsc::channel(EVENT_QUEUE / EVENT_BURST);
        let mut readers = JoinSet::new();
        readers.spawn(read_events(socket, event_sender));
        let (changed_sender, paths_changed) = mpsc::channel(1);
        let resolver = Resolver::new(config.interfaces.clone(), changed_sender).await?;
        for interface in resolver.missing() {
            tracing::warn!(
                "interface {interface} is not there: its connections stay in the kernel until it is; \
                 is the name right, and the agent in the network function's namespace?"
            );
        }
        let ledger = Ledger::new(config.records.is_some());
        let tracker = Tracker::new(config.policy.clone(), KernelTimeouts::read(), config.tag, ledger);
        let link = Link::start(&config.gateway)?;
        let activation = config.activation.as_ref().map(activation::Service::start).transpose()?;
        let now = Instant::now();
        Ok(Self {
            tracker,
            requests,
            resolver,
            paths_changed,
            events,
            readers,
            link,
            endpoint: config.gateway.clone(),
            client: None,
            activation,
            lookups: JoinSet::new(),
            running: JoinSet::new(),
            adds_running: 0,
            delete_running: false,
            dump_running: false,
            list_running: false,
            writer: JoinSet::new(),
            flush_at: None,
            recheck_at: None,
            dump_at: now,
            list_at: now + config.refresh,
            write_at: now,
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
                    return Err(result.unwrap_or_else(std::io::Error::other).into());
                }
                Some(event) = self.link.events.recv() => self.link_event(event),
                Some(result) = self.lookups.join_next() => self.looked_up(result),
                Some(result) = self.running.join_next() => self.ended(result),
                Some(result) = self.writer.join_next() => self.ended(result),
                () = device::changed(&mut self.activation) => self.device_changed()?,
                Some(PathsChanged) = self.paths_changed.recv() => {
                    self.recheck_at.get_or_insert(Instant::now() + RECHECK_DELAY);
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    fn kernel_events(&mut self, events: Vec<KernelEvent>) {
        let now = Instant::now();
        for event in events {
            match event {
                KernelEvent::Changed(entry) => self.tracker.changed(entry, now),
                KernelEvent::Destroyed(entry) => self.tracker.destroyed(&entry, now),
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
        self.adds_running = 0;
        (self.delete_running, self.dump_running, self.list_running) = (false, false, false);
    }

    fn ended(&mut self, result: Result<Done, JoinError>) {
        let now = Instant::now();
        match result {
            Ok(Done::Added(ids, result)) => {
                self.adds_running -= 1;
                match result {
                    Ok(answer) => self.tracker.added(&ids, &answer, now),
                    Err(error) => self.broken(&error),
                }
            }
            Ok(Done::Deleted(ids, result)) => {
                self.delete_running = false;
                match result {
                    Ok(answer) => self.tracker.deleted(&ids, &answer),
                    Err(error) => self.broken(&error),
                }
            }
            Ok(Done::Dumped(dump, result)) => self.dumped(dump, result, now),
            Ok(Done::Listed(list, result)) => self.listed(list, result, now),
            Ok(Done::Wrote(count, result)) => self.wrote(count, result, now),
            // Cancelled with its connection to the gateway.
            Err(error) => tracing::debug!(%error, "a task ended"),
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
        self.start_write(now);
        let Some(client) = self.client.clone() else { return Ok(()) };
        if self.recheck_at.is_some_and(|at| at <= now) && !self.tracker.rechecks_paths() {
            self.recheck_at = None;
            self.tracker.recheck_paths(now);
        }
        self.start_lookups(now);
        self.start_deletes(&client);
        self.start_adds(&client, now).await?;
        if self.dump_at <= now && !self.dump_running {
            self.start_dump(now)?;
        }
        if (self.list_at <= now || self.tracker.take_list_wanted()) && !self.list_running {
            self.list_running = true;
            self.start_list(client, List { started: now, cursor: 0 });
        }
        self.keep_alive(now).await?;
        self.settle(now).await
    }

    fn next_wake(&self) -> Instant {
        let mut wake = if self.ready.is_some() { self.report_at.min(self.ready_at) } else { self.report_at };
        if self.writer.is_empty() && self.tracker.ledger.has_records() {
            wake = wake.min(self.write_at);
        }
        if self.client.is_some() {
            if self.tracker.has_refreshes() || (self.tracker.has_lookups() && self.may_look_up()) {
                return Instant::now();
            }
            let dump = (!self.dump_running).then_some(self.dump_at);
            let list = (!self.list_running).then_some(self.list_at);
            let recheck = self.recheck_at.filter(|_| !self.tracker.rechecks_paths());
            let times =
                [dump, list, self.flush_at, recheck, self.tracker.next_tick(), self.tracker.next_settling()];
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
        self.tracker.counters.record_lost = self.tracker.ledger.lost();
        if self.tracker.counters != self.reported {
            self.reported = self.tracker.counters.clone();
            tracing::info!(counters = %self.reported, "agent");
        }
    }
}

/// Reads events until the socket breaks. A slow agent makes the kernel drop events, which it tells.
async fn read_events(mut socket: ConntrackSocket, sender: mpsc::Sender<Vec<KernelEvent>>) -> std::io::Error {
    loop {
        let mut events = Vec::new();
        if let Err(error) = socket.next_events(&mut events, EVENT_BURST).await {
            return error;
        }
        if !events.is_empty() && sender.send(events).await.is_err() {
            return std::io::Error::other("the agent has ended");
        }
    }
}
