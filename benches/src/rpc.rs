//! The control side: the server's threads on core 0, a client in a process of its own on core 1, over a unix socket. Where the
//! hot path runs too, it has core 1 for itself, and server and client share core 0.

mod client;

use crate::Stand;
use crate::hotpath::{Bed, Collect, Frames};
use crate::report::median;
use crate::traffic;
use anyhow::{Context, Result, ensure};
use arrayvec::ArrayVec;
use conntrack::table::Timeouts;
use conntrack::{SessionTable, TableConfig};
use control::{Clock, ClosedLog, Handles, Housekeeper, Server, ServerConfig};
use gateway::frame::Frame;
use pipeline::{BURST, Burst, Snapshot};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use client::{CHILD, main as child};

const MILLION: u32 = 1_000_000;
/// Sessions of the hot path while the control side is loaded.
const HOT: u32 = 65_536;
/// What one look at the hot path takes.
const WINDOW: Duration = Duration::from_millis(1500);

/// All figures.
pub fn bench(stand: &mut Stand) -> Result<()> {
    let table = SessionTable::new(TableConfig {
        capacity: MILLION + 1024,
        timeouts: Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 },
        readers: 1,
        hugepages: stand.hugepages,
        hash_secret: [3, 4],
    })?;
    let service = Service::start(table.clone())?;
    let alone = "unix socket, server on core 0, client process on core 1";
    let (mut v2, mut v1, mut lists) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    for turn in 0..stand.runs {
        v2.push(f64::from(MILLION) / service.ask(1, &["add-v2", &MILLION.to_string()])?);
        service.empty()?;
        v1.push(f64::from(MILLION) / service.ask(1, &["add-v1", &MILLION.to_string()])?);
        // A million sessions are there now.
        for (api, runs) in ["list-v1", "list-v2"].iter().zip(&mut lists) {
            runs.push(service.ask(1, &[api, &MILLION.to_string()]).with_context(|| format!("turn {turn}"))?);
        }
        service.empty()?;
    }
    let [list_v1, list_v2] = lists;
    let report = &mut stand.report;
    report.add(
        "rpc.openoffload_v2.sessions_per_second",
        "1/s",
        v2,
        format!("1 M sessions in one stream, {alone}"),
    );
    report.add(
        "rpc.gateway_v1.sessions_per_second",
        "1/s",
        v1,
        format!("1 M translated sessions in one stream of batches of {}, {alone}", client::BATCH),
    );
    report.add("rpc.list_million_seconds", "s", list_v2, format!("openoffload.v2 by cursor, {alone}"));
    report.add("rpc.gateway_v1.list_million_seconds", "s", list_v1, format!("gateway.v1 by cursor, {alone}"));
    let (mut gets, mut idle) = (Vec::new(), Vec::new());
    for _ in 0..stand.runs {
        idle.push(service.ask(1, &["get", "0", "3"])?);
        gets.push(service.ask(1, &["get", "100000", "3"])?);
        service.empty()?;
    }
    stand.report.add(
        "rpc.get_idle_p99_ms",
        "ms",
        idle,
        format!("GetSession while nothing is added, in turn with rpc.get_p99_ms: the machine's share of it, {alone}"),
    );
    stand.report.add(
        "rpc.get_p99_ms",
        "ms",
        gets,
        format!("GetSession while openoffload.v2 adds 100000 sessions/s, {alone}"),
    );
    drop((service, table));
    hotpath_loss(stand)
}

/// Packets per second of the hot path on core 1, without and with control load, in turns.
fn hotpath_loss(stand: &mut Stand) -> Result<()> {
    let Some(lcore) = stand.eal.worker_lcores().first().copied() else { return Ok(()) };
    let mut bed = Bed::with_room(&stand.eal, HOT, 400_000, stand.hugepages, &stand.pool)?;
    let service = Service::start(bed.table.clone())?;
    let (stop, packets) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let worker = {
        let (stop, packets, pool) = (stop.clone(), packets.clone(), stand.pool.clone());
        let mut frames = Frames::new(HOT);
        stand.eal.launch(lcore, move || -> Result<()> {
            let mut io = Collect { pool: &pool, sent: ArrayVec::new() };
            let mut burst: Burst<Frame> = ArrayVec::new();
            while !stop.load(Ordering::Relaxed) {
                frames.fill(&pool, &mut burst)?;
                let now = bed.uptime.nanos();
                bed.worker.process(traffic::UPLINK, &mut burst, now, &mut io);
                packets.fetch_add(io.sent.len() as u64, Ordering::Relaxed);
                ensure!(io.sent.len() == BURST, "{} of {BURST} packets left", io.sent.len());
                io.sent.clear();
            }
            Ok(())
        })?
    };
    let rate = || {
        let (from, start) = (packets.load(Ordering::Relaxed), Instant::now());
        std::thread::sleep(WINDOW);
        let done = packets.load(Ordering::Relaxed) - from;
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = done as f64 / start.elapsed().as_secs_f64();
        rate
    };
    let measured = (|| {
        let (mut losses, mut rates, mut loads) = (Vec::new(), Vec::new(), Vec::new());
        for api in ["load-v1", "load-v2"].iter().cycle().take(2 * stand.runs) {
            let alone = rate();
            let load = service.load(api)?;
            let loaded = rate();
            loads.push((*api, load.finish()?));
            // What is there before and after the load: the machine's own ups and downs cancel out.
            let again = rate();
            losses.push(1.0 - 2.0 * loaded / (alone + again));
            rates.push(alone);
        }
        Ok::<_, anyhow::Error>((losses, rates, loads))
    })();
    stop.store(true, Ordering::Relaxed);
    worker.join()??;
    let (losses, rates, loads) = measured?;
    let of = |wanted: &str| {
        median(&loads.iter().filter(|(api, _)| *api == wanted).map(|(_, n)| *n).collect::<Vec<_>>())
    };
    let conditions = format!(
        "{HOT} sessions, {:.2} Mpps in process on core 1; server and client on core 0 add and flush {:.0} sessions/s \
         (gateway.v1) and {:.0} (openoffload.v2), in turns",
        median(&rates) / 1e6,
        of("load-v1"),
        of("load-v2"),
    );
    stand.report.add("rpc.hotpath_loss", "share", losses, conditions);
    Ok(())
}

/// A server on core 0.
struct Service {
    // In the order of their ends.
    _server: Server,
    _housekeeper: Housekeeper,
    _runtime: tokio::runtime::Runtime,
    clock: Clock,
    socket: PathBuf,
    table: Arc<SessionTable>,
}

impl Service {
    fn start(table: Arc<SessionTable>) -> Result<Self> {
        // Threads inherit it.
        crate::cores::pin(0)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let socket = std::env::temp_dir().join(format!("gateway-bench-{}.sock", std::process::id()));
        let endpoint = format!("unix:{}", socket.display()).parse().map_err(anyhow::Error::msg)?;
        let (clock, closed) = (Clock::start(), ClosedLog::new(262_144, 16_384));
        let handles = Handles {
            table: table.clone(),
            config: Arc::new(traffic::config()),
            snapshot: Arc::new(Snapshot::default),
            clock,
            closed: closed.clone(),
        };
        let config = ServerConfig {
            listen: vec![endpoint],
            tls: None,
            admins: Vec::new(),
            plaintext: false,
            limits: control::Limits::default(),
            activation: None,
        };
        let server = runtime.block_on(Server::start(config, handles))?;
        let housekeeper = Housekeeper::start(table.clone(), clock, closed)?;
        Ok(Self { _server: server, _housekeeper: housekeeper, _runtime: runtime, clock, socket, table })
    }

    fn spawn(&self, core: usize, arguments: &[&str]) -> Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([CHILD, &core.to_string()]).arg(&self.socket).args(arguments);
        Ok(command.stdout(Stdio::piped()).spawn()?)
    }

    /// The number that a client on `core` ends with.
    fn ask(&self, core: usize, arguments: &[&str]) -> Result<f64> {
        let output = self.spawn(core, arguments)?.wait_with_output()?;
        ensure!(output.status.success(), "the client failed: {arguments:?}");
        let text = String::from_utf8(output.stdout)?;
        text.trim().parse().with_context(|| format!("{arguments:?}: {text}"))
    }

    /// A client on core 0 that adds and flushes until it is finished, from now on.
    fn load(&self, api: &str) -> Result<Load> {
        let mut child = self.spawn(0, &[api])?;
        let mut out = BufReader::new(child.stdout.take().context("stdout")?);
        let mut ready = String::new();
        out.read_line(&mut ready)?;
        Ok(Load { child, out })
    }

    /// Waits until no session is left and their memory is free.
    fn empty(&self) -> Result<()> {
        self.table.flush(self.clock.now());
        let end = Instant::now() + Duration::from_secs(60);
        while self.table.stats().closed < self.table.stats().installed {
            ensure!(Instant::now() < end, "sessions are not given back");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Killed when dropped.
struct Load {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Load {
    /// Sessions per second that it added.
    fn finish(mut self) -> Result<f64> {
        // The client ends when its standard input does; SIGTERM would lose its figure.
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.child.id().cast_signed()),
            nix::sys::signal::Signal::SIGINT,
        )?;
        let mut text = String::new();
        self.out.read_line(&mut text)?;
        ensure!(self.child.wait()?.success(), "the client failed");
        Ok(text.trim().parse()?)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
