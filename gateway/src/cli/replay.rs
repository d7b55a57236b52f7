//! `gateway replay`.

use super::{Code, Failure};
use crate::capture::Frames;
use crate::config::{Config, read};
use crate::replay::{self, Environment, Files, Report, Setup};
use crate::session;
use crate::stats::Stats;
use conntrack::SessionSpec;
use control::session_manager::Context;
use pipeline::PortIndex;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The configuration; devices are not opened
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Sessions to install first, one JSON object per line
    #[arg(long, value_name = "FILE")]
    sessions: Option<PathBuf>,
    /// A pcap or pcapng file and the port its frames enter; may be given several times
    #[arg(long = "input", value_name = "PORT=FILE", value_parser = input, required = true)]
    inputs: Vec<(String, PathBuf)>,
    /// End so long after the first frame [default: with the last frame]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    until: Option<Duration>,
    /// Where PORT.pcap goes for each port
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
    /// Where sessions that closed go, one JSON object per line
    #[arg(long, value_name = "FILE")]
    closed: Option<PathBuf>,
    /// Print counters as one JSON object
    #[arg(long)]
    json: bool,
    /// Frames of one port and millisecond handled at once, 1 to 32
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    burst: u8,
}

fn input(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((port, file)) if !port.is_empty() && !file.is_empty() => Ok((port.to_owned(), file.into())),
        _ => Err("write PORT=FILE".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Everything is read and checked before DPDK starts and before any file is made.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = Config::load(&args.config)?;
    let specs = match &args.sessions {
        Some(file) => sessions(file, &config.pipeline)?,
        None => Vec::new(),
    };
    let frames = frames(&args.inputs, &config.pipeline)?;
    if frames.cut() > 0 {
        eprintln!("warning: {} frames were cut short by whoever captured them", frames.cut());
    }
    let failed = |error: &dyn std::fmt::Display| Failure::new(Code::Failed, error.to_string());
    let environment = Environment::start().map_err(|error| failed(&error))?;
    let ports = &config.pipeline.ports;
    let mut files =
        Files::create(&args.output_dir, ports, args.closed.as_deref()).map_err(|error| failed(&error))?;
    let specs_only = specs.iter().map(|(_, spec)| *spec).collect::<Vec<_>>();
    let setup = Setup {
        pipeline: &config.pipeline,
        sessions: config.sessions,
        specs: &specs_only,
        until: args.until,
        burst: args.burst.into(),
    };
    let report = replay::run(&environment, &setup, &frames, &mut files).map_err(|error| failed(&error))?;
    files.finish().map_err(|error| failed(&error))?;
    for (position, error) in &report.rejected {
        if let (Some(file), Some((line, spec))) = (&args.sessions, specs.get(*position)) {
            eprintln!("warning: {}:{line}: session {} is not installed: {error}", file.display(), spec.id.0);
        }
    }
    print(&report, &config, args.json)?;
    match report.leaked {
        0 => Ok(()),
        leaked => {
            Err(Failure::new(Code::Failed, format!("{leaked} packet buffers were lost: this is a defect")))
        }
    }
}

/// Sessions with their lines.
fn sessions(file: &Path, config: &pipeline::Config) -> Result<Vec<(usize, SessionSpec)>, Failure> {
    let bad = |error: session::BadLines| Failure::new(Code::Config, error.to_string());
    let lines = session::read_lines(file, &read(file)?).map_err(bad)?;
    let context = Context::new(config);
    let (mut specs, mut wrong) = (Vec::with_capacity(lines.len()), Vec::new());
    for (line, session) in lines {
        match session::spec(&session, &context) {
            Ok(spec) => specs.push((line, spec)),
            Err(message) => wrong.push(session::BadLine { file: file.to_owned(), line, message }),
        }
    }
    if wrong.is_empty() { Ok(specs) } else { Err(bad(session::BadLines(wrong))) }
}

fn frames(inputs: &[(String, PathBuf)], config: &pipeline::Config) -> Result<Frames, Failure> {
    let mut frames = Frames::default();
    let mut ports = Vec::new();
    for (name, _) in inputs {
        let Some(position) = config.ports.iter().position(|port| port.name == *name) else {
            let names = config.ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>().join(", ");
            let message =
                format!("--input {name}=…: the configuration has no port {name:?}; it has: {names}");
            return Err(Failure::new(Code::Usage, message));
        };
        ports.push(PortIndex(u8::try_from(position).unwrap_or(u8::MAX)));
    }
    for ((_, file), port) in inputs.iter().zip(ports) {
        frames.read(file, port).map_err(|error| Failure::new(Code::Failed, error.to_string()))?;
    }
    Ok(frames)
}

fn print(report: &Report, config: &Config, json: bool) -> Result<(), Failure> {
    let stats = Stats(control::stats::stats(&config.pipeline, &report.counters, &report.table));
    if json {
        let text = serde_json::to_string(&stats).map_err(anyhow::Error::from)?;
        println!("{text}");
        return Ok(());
    }
    print!("{stats}");
    let seconds = report.elapsed.as_secs_f64();
    let rate = if seconds > 0.0 { report.frames as f64 / seconds / 1e6 } else { 0.0 };
    println!("{} frames in {seconds:.6} s, files left out: {rate:.3} Mpps", report.frames);
    Ok(())
}
