//! `gateway run`: ports, workers, the control side, and their orderly end.

mod claim;
mod ports;
mod reload;
mod worker;
mod worker_clock;

use crate::config::Config;
use crate::numa;
use anyhow::{Context as _, anyhow};
use claim::Claims;
use conntrack::{SessionTable, TableConfig};
use control::{Clock, ClosedLog, Handles, Housekeeper, Limits, Server, ServerConfig, TlsFiles};
use dpdk::{Eal, EalOptions, LcoreHandle, LcoreId, SocketId};
use pipeline::Pipeline;
use ports::Ports;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use worker::Io;
use worker_clock::WorkerClock;

/// Closed sessions kept for openoffload.v2 clients to fetch.
const CLOSED_KEPT: usize = 262_144;
/// Closed sessions that a listener may be late by.
const CLOSED_LATE: usize = 16_384;
/// Time that clients get to end their calls when the gateway stops.
const GRACE: Duration = Duration::from_millis(500);
/// How often the workers' health is looked at.
const CHECKUP: Duration = Duration::from_millis(100);

/// Runs until SIGTERM or SIGINT, with packets and sessions on the NUMA node `memory`. `file` is read again on SIGHUP.
pub(crate) fn run(
    file: &Path,
    config: Config,
    memory: Option<u16>,
    eal_arguments: &[String],
    set_level: fn(tracing::Level),
) -> anyhow::Result<()> {
    // Held until ports and EAL are gone.
    let _claims = Claims::new(&config)?;
    let eal = start_eal(&config, memory, eal_arguments)?;
    // Before the control side's threads start, which are the first to write to the session table, and inherit it.
    if let Some(Err(error)) = memory.map(|node| dpdk::prefer_memory(SocketId(node.into()))) {
        tracing::warn!(%error, "sessions are where the kernel puts them");
    }
    let ports = Ports::open(&eal, &config, memory)?;
    if let Some(memory) = memory {
        let worker = |lcore: u16| node(eal.lcore_socket(LcoreId(lcore.into())));
        for far in numa::far(&config, memory, worker, |position| ports.node(&config, position)) {
            tracing::warn!("{far}");
        }
    }
    // All threads of the control side inherit the main lcore's CPU.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let outcome = runtime.block_on(async {
        let signals = Signals::new()?;
        let gateway = Gateway::start(&eal, ports, &config).await?;
        let outcome = gateway.serve(signals, file, config, set_level).await;
        gateway.stop().await.and(outcome)
    });
    runtime.shutdown_timeout(GRACE);
    outcome
}

/// None where nobody knows.
fn node(socket: SocketId) -> Option<u16> {
    socket.0.try_into().ok()
}

fn start_eal(config: &Config, memory: Option<u16>, arguments: &[String]) -> anyhow::Result<Eal> {
    dpdk::set_log_sink(|line| tracing::warn!(target: "dpdk", "{line}"));
    let options = EalOptions {
        main_lcore: config.eal.main_lcore.into(),
        workers: config.eal.workers.iter().map(|lcore| u32::from(*lcore)).collect(),
        hugepages: config.eal.hugepages,
        memory_mib: config.eal.memory_mib,
        numa: memory,
        pci: ports::pci_addresses(config),
        pin_main: true,
        extra: arguments.to_vec(),
        ..EalOptions::default()
    };
    Ok(Eal::init(&options)?)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// All that runs. The order of fields is that of the end: control first, so that nobody changes what no worker sees.
struct Gateway {
    server: Server,
    workers: Workers,
    housekeeper: Housekeeper,
    ports: Ports,
}

/// The workers' lcores. They end when this is dropped, before the ports they use.
#[derive(Default)]
struct Workers {
    stop: Arc<AtomicBool>,
    handles: Vec<LcoreHandle<()>>,
}

impl Workers {
    /// Ends all, and says if one had ended in another way.
    fn join(mut self) -> Result<(), dpdk::Error> {
        self.stop.store(true, Ordering::Release);
        let joined = std::mem::take(&mut self.handles).into_iter().map(LcoreHandle::join);
        // All are joined, whatever the first one says.
        joined.collect::<Vec<_>>().into_iter().collect()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

impl Gateway {
    async fn start(eal: &Eal, mut ports: Ports, config: &Config) -> anyhow::Result<Self> {
        let workers = config.eal.workers.len();
        let table = SessionTable::new(TableConfig {
            capacity: config.sessions.capacity,
            timeouts: config.sessions.timeouts,
            readers: workers,
            hugepages: config.eal.hugepages,
            hash_secret: secret(),
        })?;
        let pipeline = Pipeline::new(ports.pipeline_config(config)?, table.clone(), workers, secret())
            .map_err(|errors| {
                anyhow!(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
            })?;
        let clock = Clock::start();
        let closed = ClosedLog::new(CLOSED_KEPT, CLOSED_LATE);
        let snapshot = pipeline.clone();
        let handles = Handles {
            table: table.clone(),
            config: Arc::new(pipeline.config().clone()),
            snapshot: Arc::new(move || snapshot.snapshot()),
            clock,
            closed: closed.clone(),
        };
        // Before packets flow: an address in use ends the start while nothing has happened yet.
        let server = Server::start(server_config(config), handles).await?;
        let housekeeper = Housekeeper::start(table, clock, closed).context("housekeeper thread")?;
        let mut gateway = Self { server, workers: Workers::default(), housekeeper, ports };
        gateway.launch(eal, &pipeline, clock, config)?;
        Ok(gateway)
    }

    fn launch(
        &mut self,
        eal: &Eal,
        pipeline: &Arc<Pipeline>,
        clock: Clock,
        config: &Config,
    ) -> anyhow::Result<()> {
        let queues = self.ports.start(config.eal.workers.len())?;
        for ((index, lcore), queues) in config.eal.workers.iter().enumerate().zip(queues) {
            let worker =
                pipeline.worker(index).ok_or_else(|| anyhow!("no reader of the session table is left"))?;
            let io = Io::new(self.ports.pool().clone(), queues.tx);
            let idle = Duration::from_micros(config.eal.idle_sleep_us.into());
            let (stop, rx) = (self.workers.stop.clone(), queues.rx);
            let hz = dpdk::tsc_hz(eal);
            let work = move || worker::poll(worker, rx, io, WorkerClock::new(clock, hz), idle, &stop);
            self.workers.handles.push(eal.launch(LcoreId((*lcore).into()), work)?);
        }
        Ok(())
    }

    /// Until a signal says stop, or a worker ends by itself.
    async fn serve(
        &self,
        mut signals: Signals,
        file: &Path,
        mut config: Config,
        set_level: fn(tracing::Level),
    ) -> anyhow::Result<()> {
        self.ready();
        let mut checkup = tokio::time::interval(CHECKUP);
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                _ = signals.hangup.recv() => reload::reload(file, &mut config, &self.server, set_level),
                _ = checkup.tick() => {
                    if let Some(dead) = self.workers.handles.iter().find(|worker| worker.is_finished()) {
                        return Err(anyhow!("the worker on {} has ended by itself", dead.lcore()));
                    }
                }
            }
        }
        tracing::info!("stopping");
        notify(&[sd_notify::NotifyState::Stopping]);
        Ok(())
    }

    fn ready(&self) {
        let endpoints =
            self.server.endpoints().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tracing::info!(ports = %self.ports, workers = self.workers.handles.len(), control = %endpoints, "ready");
        notify(&[sd_notify::NotifyState::Ready]);
    }

    /// Everything in order: control, workers, what looks after the sessions, ports.
    async fn stop(self) -> anyhow::Result<()> {
        let Self { server, workers, housekeeper, ports } = self;
        server.shutdown().await;
        let joined = workers.join();
        drop(housekeeper);
        ports.stop()?;
        Ok(joined?)
    }
}

fn server_config(config: &Config) -> ServerConfig {
    ServerConfig {
        listen: config.control.listen.clone(),
        tls: config.control.tls.as_ref().map(tls_files),
        plaintext: config.control.plaintext,
        admins: config.control.admins.clone(),
        limits: Limits { shutdown: GRACE, ..Limits::default() },
        activation: config.activation.clone(),
    }
}

fn tls_files(tls: &crate::config::Tls) -> TlsFiles {
    TlsFiles { cert: tls.cert.clone(), key: tls.key.clone(), client_ca: tls.client_ca.clone() }
}

/// Random numbers that nobody outside can know: the standard library's hash keys come from the system's generator.
fn secret() -> [u64; 2] {
    [0_u64, 1].map(|i| {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(i);
        hasher.finish()
    })
}

fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
