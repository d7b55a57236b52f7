//! The command line.

mod agent;
mod client;
mod list;
mod log;
mod replay;
mod run;
mod show;

use crate::config::{Config, LoadError};
use crate::numa::{self, Machine};
use crate::preflight;
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs the command that the process was started with; the process's exit code.
pub fn main() -> ExitCode {
    let code = match Cli::parse().command.execute() {
        Ok(()) => Code::Ok,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("{}", failure.message);
            }
            failure.code
        }
    };
    ExitCode::from(code as u8)
}

/// Exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Ok = 0,
    Failed = 1,
    /// As clap has it.
    Usage = 2,
    /// As EX_USAGE of sysexits.h.
    Config = 64,
}

/// What ends a command early.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self::new(Code::Config, error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Code::Failed, control::client::causes(error.as_ref()))
    }
}

#[derive(Parser)]
#[command(name = "gateway", version = crate::processor::VERSION, about = "A NAT and conntrack gateway between VLANs and VXLANs on DPDK")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or SIGINT; SIGHUP reloads
    Run {
        /// The configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Further arguments for DPDK's EAL
        #[arg(last = true, value_name = "EAL ARGS")]
        eal: Vec<String>,
    },
    /// Parse and validate a configuration; open nothing
    Check {
        /// The configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Run captures through the same pipeline
    Replay(replay::Args),
    /// Counters of a running gateway
    Stats {
        #[command(flatten)]
        connection: client::Connection,
    },
    /// Sessions of a running gateway
    Sessions {
        #[command(flatten)]
        connection: client::Connection,
        #[command(subcommand)]
        command: client::Sessions,
    },
    /// The offload agent, beside a Linux network function
    Agent {
        /// Its configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// The kernel's connections beside the agent, with what the gateway forwarded
    Connections {
        /// The agent's configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Print JSON, one connection per line
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    fn execute(self) -> Result<(), Failure> {
        match self {
            Self::Run { config, eal } => run::run(&config, &eal),
            Self::Check { config } => check(&config),
            Self::Replay(args) => replay::run(&args),
            Self::Stats { connection } => client::stats(&connection),
            Self::Sessions { connection, command } => client::sessions(&connection, &command),
            Self::Agent { config } => agent::run(&config),
            Self::Connections { config, json } => agent::connections(&config, json),
        }
    }
}

fn check(file: &Path) -> Result<(), Failure> {
    let config = Config::load(file)?;
    for problem in config.check_tls(file)? {
        eprintln!("warning: {problem}");
    }
    let machine = Machine::this();
    let refused = preflight::refused(&config, file, &machine, true);
    for problem in refused.into_iter().chain(preflight::small_mtus(&config, file)) {
        eprintln!("warning: {problem}");
    }
    match machine.memory(&config.eal) {
        // The file may be for another machine.
        Err(error) => eprintln!("warning: {}", error.at(file, config.lines.numa.max(1))),
        Ok(None) => {}
        Ok(Some(memory)) => {
            let port = |position: usize| machine.of_device(&config.ports.get(position)?.device);
            for far in numa::far(&config, memory, |lcore| machine.of_cpu(lcore), port) {
                eprintln!("warning: {}: {far}", file.display());
            }
        }
    }
    let pipeline = &config.pipeline;
    println!("{}: good: {} ports, {} LIFs", file.display(), pipeline.ports.len(), pipeline.lifs.len());
    Ok(())
}
