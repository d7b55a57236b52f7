//! The command line.

use crate::config::{Config, LoadError};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs the command that the process was started with; the process's exit code.
pub fn main() -> ExitCode {
    let code = match Cli::parse().command.execute() {
        Ok(()) => Code::Ok,
        Err(failure) => {
            eprintln!("{}", failure.message);
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
        Self::new(Code::Failed, format!("{error:#}"))
    }
}

#[derive(Parser)]
#[command(name = "gateway", version, about = "A NAT and conntrack gateway between VLANs and VXLANs on DPDK")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Parse and validate a configuration; open nothing
    Check {
        /// The configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

impl Command {
    fn execute(self) -> Result<(), Failure> {
        match self {
            Self::Check { config } => check(&config),
        }
    }
}

fn check(file: &Path) -> Result<(), Failure> {
    let config = Config::load(file)?;
    for problem in config.check_tls(file)? {
        eprintln!("warning: {problem}");
    }
    let pipeline = &config.pipeline;
    println!("{}: good: {} ports, {} LIFs", file.display(), pipeline.ports.len(), pipeline.lifs.len());
    Ok(())
}
