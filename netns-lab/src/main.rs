//! `netns-lab`: the lab for people at a shell.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use netns_lab::config::{AgentConfig, GatewayConfig, endpoint};
use netns_lab::plan::VNFS;
use netns_lab::{Lab, cleanup, demo, gateway};

/// A gateway's surroundings in network namespaces: tenants on VLANs and VXLANs, a kernel with bridges and VTEPs, network
/// functions behind them.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Subcommand)]
enum Sub {
    /// Make a lab that stays until `down`
    Up {
        /// Its name
        #[arg(long, default_value = "lab")]
        name: String,
    },
    /// Take a lab down, with all processes in it
    Down {
        /// Its name
        #[arg(long, default_value = "lab")]
        name: String,
    },
    /// Run a program in a namespace of a lab; without one, a shell
    Exec {
        /// The lab's name
        #[arg(long, default_value = "lab")]
        name: String,
        /// gw, kernel, fabric, vtep, A, B, C, red1, red2, blue1, green1 or violet1
        role: String,
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<String>,
    },
    /// List labs, their namespaces and what runs there
    Status,
    /// Show the gateway at work: real traffic without and with offload, and a summary table
    Demo {
        /// The gateway's program
        #[arg(long = "bin", value_name = "FILE")]
        program: Option<PathBuf>,
        /// Seconds of each bulk transfer
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
        seconds: u32,
    },
    /// Remove what labs left behind whose owners were killed
    Clean,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("netns-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Sub::Up { name } => up(&name)?,
        Sub::Down { name } => Lab::down(&name)?,
        Sub::Exec { name, role, program } => exec(&name, &role, &program)?,
        Sub::Status => status()?,
        Sub::Demo { program, seconds } => return run_demo(program, seconds),
        Sub::Clean => {
            for lab in cleanup::remove_dead() {
                println!("removed {lab}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn up(name: &str) -> Result<()> {
    let lab = Lab::up_named(name)?;
    let config = GatewayConfig::default().write(&lab)?;
    // As they can be typed: neither program need be on the PATH.
    let own = std::env::current_exe().context("this program's path")?;
    let gateway = gateway::find_program().ok().and_then(|path| path.canonicalize().ok());
    let gateway = gateway.unwrap_or_else(|| "gateway".into());
    let (own, gateway) = (own.display(), gateway.display());
    println!(
        "lab {name} is up. Next, for example, the gateway and the agents each in a terminal of its own:"
    );
    println!("  {own} exec --name {name} gw {gateway} run --config {}", config.display());
    for vnf in VNFS {
        let config = AgentConfig::default().write(&lab, &vnf)?;
        println!("  {own} exec --name {name} {} {gateway} agent --config {}", vnf.name, config.display());
    }
    println!("TCP and UDP are offloaded; ping stays in the kernel:");
    println!("  {own} exec --name {name} blue1 iperf3 -s -D");
    println!("  {own} exec --name {name} red1 iperf3 -c 198.51.100.10");
    println!("  {gateway} stats --connect {}", endpoint(&lab));
    println!("  {own} down --name {name}");
    Ok(())
}

fn run_demo(program: Option<PathBuf>, seconds: u32) -> Result<ExitCode> {
    cleanup::on_signals();
    let program = program.map_or_else(gateway::find_program, Ok)?;
    let program = program.canonicalize().with_context(|| program.display().to_string())?;
    let good = demo::run(&demo::Options { program: &program, seconds })?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn exec(name: &str, role: &str, program: &[String]) -> Result<()> {
    let lab = Lab::open(name)?;
    let netns = lab.ns(role)?;
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
    let program = if program.is_empty() { &[shell][..] } else { program };
    let error = Command::new("ip").args(["netns", "exec", netns.name()]).args(program).exec();
    Err(error).context("ip netns exec")
}

fn status() -> Result<()> {
    let mut out = std::io::stdout().lock();
    for lab in cleanup::labs() {
        writeln!(out, "{lab}")?;
        for namespace in cleanup::namespaces(&lab) {
            let pids = cleanup::pids(&namespace);
            writeln!(
                out,
                "  {namespace}  {}",
                pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            )?;
        }
    }
    Ok(())
}
