//! The command line.

use super::generator::{Generator, Traffic};
use super::link::{Link, Ports};
use super::options::{self, Rate};
use super::profile::Profile;
use super::search::{Bounds, Goal, LEAST_TRIALS, Measured, Search};
use super::trial::{Counts, Load, Outcome, Trial};
use super::{flows, sessions};
use crate::output::{check_file, say};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use control::session_manager::MAX_TIMEOUT;
use dpdk::{Eal, EalOptions, MemifOptions, Mempool, PoolOptions, Port, PortOptions};
use serde::Serialize;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Buffers of ports, what each takes beside its data, and what DPDK needs in any case, MiB.
const BUFFERS: u32 = 8191;
const OVERHEAD: u32 = 512;
const LEAST_MEMORY: u32 = 16;

/// Sends frames of many sessions over DPDK ports, and checks every frame that comes back.
#[derive(Parser)]
#[command(name = "pktgen", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print a profile's sessions as lines of JSON, for `gateway sessions add` and `gateway replay`
    Sessions {
        /// What is sent
        #[arg(long, value_name = "FILE")]
        profile: PathBuf,
        /// Idle timeout of each, seconds; 0 is the gateway's default
        #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_TIMEOUT)))]
        timeout: u32,
    },
    /// Send at a rate, or as fast as frames come back, and tell what came back
    Run {
        #[command(flatten)]
        common: Common,
        /// Packets a second, or "max": as fast as they come back
        #[arg(long, default_value = "max", value_parser = options::rate)]
        rate: Rate,
        /// With "max": packets on their way
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
        window: u32,
        /// Seconds to send
        #[arg(long, default_value = "10", value_parser = options::seconds)]
        seconds: Duration,
        /// Seconds left out of the rates at the beginning
        #[arg(long, default_value = "0.5", value_parser = options::warm_up)]
        warm_up: Duration,
    },
    /// Search for the highest load that loses no more than each goal says
    Search {
        #[command(flatten)]
        common: Common,
        /// Shares that may be lost: 0 is NDR
        #[arg(long, value_delimiter = ',', default_values_t = [0.0, 0.005], value_parser = options::goal)]
        goals: Vec<f64>,
        /// Highest load, packets a second
        #[arg(long, default_value_t = 30e6, value_parser = options::packets_a_second)]
        most: f64,
        /// Lowest load, packets a second
        #[arg(long, default_value_t = 1e3, value_parser = options::packets_a_second)]
        least: f64,
        /// How near the bounds are in the end
        #[arg(long, default_value_t = 0.01, value_parser = options::width)]
        width: f64,
        /// Seconds of the first trials
        #[arg(long, default_value = "0.2", value_parser = options::seconds)]
        first: Duration,
        /// Seconds of the last trials; RFC 2544 has 60
        #[arg(long, default_value = "2", value_parser = options::seconds)]
        last: Duration,
        /// Trials for each goal; two more at most, to decide the load that is tried then
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(i64::from(LEAST_TRIALS)..))]
        trials: u32,
    },
}

#[derive(Args)]
struct Common {
    /// What is sent and what is expected
    #[arg(long, value_name = "FILE")]
    profile: PathBuf,
    /// Sessions to use instead of the profile's: lines of JSON, as the gateway has them
    #[arg(long, value_name = "FILE")]
    sessions: Option<PathBuf>,
    /// Where to send: a PCI address, a virtual device such as net_af_packet0,iface=eth0, or memif,socket=/run/x.sock: the
    /// generator's own client of a memif, without a driver that copies
    #[arg(long, value_name = "DEVICE")]
    port: String,
    /// Where frames come back [default: the same port]
    #[arg(long, value_name = "DEVICE")]
    rx_port: Option<String>,
    /// The core to run on
    #[arg(long, default_value_t = 0)]
    core: u32,
    /// Ordinary pages instead of hugepages
    #[arg(long)]
    no_huge: bool,
    /// Memory for buffers, MiB
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(i64::from(LEAST_MEMORY)..))]
    memory: u32,
    /// Packets a second of the first packets of flows, before anything is measured; 0: no such phase
    #[arg(long, default_value_t = 100_000.0, value_parser = options::fill, allow_negative_numbers = true)]
    fill: f64,
    /// Write the result here too, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Further arguments for DPDK's EAL
    #[arg(last = true, value_name = "EAL ARGS")]
    eal: Vec<String>,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Printed {
    profile: Profile,
    flows: usize,
    fill: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trial: Option<Outcome>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bounds: Vec<Bounds>,
}

/// Runs the command that the process was started with. Fails too if a packet came back wrong, or none does.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pktgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    match Cli::parse().command {
        Command::Sessions { profile, timeout } => {
            let profile = Profile::load(&profile)?;
            let mut out = BufWriter::new(std::io::stdout().lock());
            let written = sessions::write(&mut out, &profile, &flows::sessions(&profile)?, timeout);
            unless_closed(written.and_then(|()| Ok(out.flush()?)))
        }
        Command::Run { common, rate, window, seconds, warm_up } => {
            let load = match rate {
                Rate::Max => Load::Window(window as usize),
                Rate::Packets(rate) => Load::Rate(rate),
            };
            let trial = Trial { warm_up, ..Trial::new(load, seconds + warm_up) };
            common.with(|bed| {
                let outcome = bed.generator.run(&mut bed.traffic, &trial)?;
                say(outcome.table().trim_end());
                bed.result.trial = Some(outcome);
                Ok(())
            })
        }
        Command::Search { common, goals, most, least, width, first, last, trials } => {
            ensure!(least < most, "--least {least} must be below --most {most}");
            ensure!(first <= last, "--first must not be longer than --last: trials get longer");
            common.with(|bed| {
                for loss_ratio in goals {
                    let goal = Goal { loss_ratio, width, first, last, trials };
                    let bounds = bed.search(goal, (least, most))?;
                    say(describe(&bounds));
                    bed.result.bounds.push(bounds);
                }
                Ok(())
            })
        }
    }
}

/// Whoever reads may stop reading: `pktgen sessions … | head` is no failure.
fn unless_closed(written: Result<()>) -> Result<()> {
    let closed = |error: &anyhow::Error| {
        let kind = |error: &serde_json::Error| error.io_error_kind();
        let kind =
            error.downcast_ref().map(std::io::Error::kind).or_else(|| error.downcast_ref().and_then(kind));
        kind == Some(std::io::ErrorKind::BrokenPipe)
    };
    written.or_else(|error| if closed(&error) { Ok(()) } else { Err(error) })
}

fn describe(bounds: &Bounds) -> String {
    let mpps = |bound: Option<f64>| bound.map_or("-".into(), |pps| format!("{:.4}", pps / 1e6));
    format!(
        "loss up to {} %: {} Mpps is good, {} is not ({} trials{})",
        100.0 * bounds.loss_ratio,
        mpps(bounds.lower),
        mpps(bounds.upper),
        bounds.trials,
        if bounds.cut_short { ": too few to be sure of more" } else { "" }
    )
}

/// A generator with its traffic, filled.
struct Bed {
    generator: Generator,
    traffic: Traffic,
    result: Printed,
}

/// Fails if the device is dead, or makes mistakes.
fn judge(outcome: &Outcome) -> Result<()> {
    let Counts { wrong, samples, .. } = &outcome.counts;
    let first = samples.first().map(String::as_str).unwrap_or_default();
    ensure!(*wrong == 0, "{wrong} packets came back wrong, the first: {first}");
    outcome.verdict().map_or(Ok(()), |why| bail!(why))
}

impl Bed {
    /// The first packets of all flows, at so many a second.
    fn fill(&mut self, rate: f64) -> Result<()> {
        if rate == 0.0 {
            return Ok(());
        }
        let filled = self.generator.fill(&mut self.traffic, rate, 3)?;
        say(format_args!("filled: {} flows, {} came back", filled.sent, filled.counts.unique()));
        judge(self.result.fill.insert(filled)).context("filling")
    }

    fn search(&mut self, goal: Goal, range: (f64, f64)) -> Result<Bounds> {
        let mut measure = |rate: f64, duration: Duration| -> Result<Measured> {
            let outcome = self.generator.run(&mut self.traffic, &Trial::new(Load::Rate(rate), duration))?;
            judge(&outcome).with_context(|| format!("at {rate:.0} packets a second"))?;
            Ok(Measured { loss_ratio: outcome.loss_ratio(), forwarded: outcome.rx_pps })
        };
        Search::new(goal, range, &mut measure).run()
    }
}

impl Common {
    /// Opens the ports, fills, does `work`, and prints.
    fn with(self, work: impl FnOnce(&mut Bed) -> Result<()>) -> Result<()> {
        if let Some(file) = &self.json {
            check_file("--json", file)?;
        }
        let memif = options::memif_arguments(&self.port).map(options::memif).transpose()?;
        ensure!(
            memif.is_none() || self.rx_port.is_none(),
            "--rx-port: frames come back over the memif that they are sent to; leave it out"
        );
        let profile = Profile::load(&self.profile)?;
        let sessions = match &self.sessions {
            Some(file) => sessions::read(file, &profile)?,
            None => flows::sessions(&profile)?,
        };
        let longest = profile.frame.turns().iter().max().copied().unwrap_or_default();
        // Tags and tunnel, both ways; and never less than what ports without a mind for it want.
        let room = (longest + 128).max(2048);
        let buffers = if memif.is_some() { 0 } else { (BUFFERS * (u32::from(room) + OVERHEAD)) >> 20 };
        ensure!(
            self.memory >= LEAST_MEMORY + buffers,
            "--memory {}: frames of up to {longest} bytes need {} MiB",
            self.memory,
            LEAST_MEMORY + buffers
        );
        let eal = self.eal()?;
        let mut _ports = Vec::new();
        let link: Link = match memif {
            Some(memif) => options::connect(&MemifOptions { buffer: room, ..memif })?.into(),
            None => self.open_ports(&eal, longest, room, &mut _ports)?.into(),
        };
        let traffic = Traffic::with_sessions(&eal, &profile, sessions);
        let generator = Generator::new(&eal, link);
        let result = Printed { flows: traffic.flows(), profile, fill: None, trial: None, bounds: Vec::new() };
        let mut bed = Bed { generator, traffic, result };
        let done = bed.fill(self.fill).and_then(|()| work(&mut bed));
        if let Some(file) = &self.json {
            std::fs::write(file, serde_json::to_string_pretty(&bed.result)? + "\n")
                .with_context(|| file.display().to_string())?;
        }
        done?;
        bed.result.trial.as_ref().map_or(Ok(()), judge)
    }

    /// Queues of the ports to send and to receive by; the ports themselves go to `opened`.
    fn open_ports(&self, eal: &Eal, longest: u16, room: u16, opened: &mut Vec<Port>) -> Result<Ports> {
        let pool = PoolOptions {
            name: "pktgen",
            count: BUFFERS,
            cache: 512,
            data_room: room,
            ..PoolOptions::default()
        };
        let pool = Mempool::new(eal, &pool)?;
        let mut open = |device: &str| -> Result<_> {
            let mut port = Port::open(eal, device)?;
            // net_memif of DPDK 22.11 takes frames of any size, and refuses any MTU that says so.
            let sized = longest > 1518 && port.capabilities()?.driver != "net_memif";
            let mtu = sized.then_some(longest - 18);
            port.configure(&PortOptions { mtu, ..PortOptions::default() }, &pool)?;
            let (rx, mut tx) = port.start()?;
            wait_for_link(&port)?;
            opened.push(port);
            Ok((rx, tx.pop().context("no transmit queue")?))
        };
        let (mut rx, tx) = open(&self.port)?;
        if let Some(device) = &self.rx_port {
            rx = open(device)?.0;
        }
        Ok(Ports::new(tx, rx, pool))
    }

    fn eal(&self) -> Result<Eal> {
        let mut extra = self.eal.clone();
        // Both hand all memory to the other process, in as few pieces as it takes.
        let shared = self.port.contains("zero-copy=yes") || self.port.starts_with("net_virtio_user");
        if shared && !self.no_huge && !extra.iter().any(|argument| argument == "--single-file-segments") {
            extra.push("--single-file-segments".into());
        }
        let ports = [Some(&self.port), self.rx_port.as_ref()];
        let names = ports.into_iter().flatten().filter_map(|device| device.split(',').next());
        let options = EalOptions {
            main_lcore: self.core,
            hugepages: !self.no_huge,
            memory_mib: self.memory,
            pci: names.filter(|name| name.contains(':')).map(Into::into).collect(),
            pin_main: true,
            extra,
            ..EalOptions::default()
        };
        Ok(Eal::init(&options)?)
    }
}

/// Ports over memif, or with cables, need a moment.
fn wait_for_link(port: &Port) -> Result<()> {
    for _ in 0..100 {
        if port.link()?.up {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("{}: no link after 10 s: is the other end there?", port.device())
}
