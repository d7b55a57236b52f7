//! `gateway agent` and `gateway connections`.

use super::{Code, Failure, log};
use crate::config::read;
use control::agent::AgentConfig;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;
use tokio::signal::unix::{SignalKind, signal};

/// Runs until SIGTERM or SIGINT.
pub(super) fn run(file: &Path) -> Result<(), Failure> {
    let config = load(file)?;
    log::start(tracing::Level::INFO);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| failed(error.to_string()))?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed(error.to_string()))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| failed(error.to_string()))?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
        };
        // Only tells systemd, where there is one, that the configuration was good; the gateway may come later.
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::warn!(%error, "cannot notify systemd");
        }
        tracing::info!("ready");
        control::agent::run(config, shutdown).await.map(drop).map_err(|error| failed(error.to_string()))
    })
}

/// Prints the kernel's connections in this network namespace, with the gateway's counts added.
pub(super) fn connections(file: &Path, json: bool) -> Result<(), Failure> {
    let config = load(file)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(error.to_string()))?;
    let connections =
        runtime.block_on(control::agent::connections(&config)).map_err(|error| failed(error.to_string()))?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut print = || {
        for connection in &connections {
            match json {
                true => writeln!(out, "{}", serde_json::to_string(connection)?)?,
                false => writeln!(out, "{connection}")?,
            }
        }
        out.flush()
    };
    match print() {
        // As of `| head`.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(failed(error.to_string())),
        _ => Ok(()),
    }
}

fn load(file: &Path) -> Result<AgentConfig, Failure> {
    let text = read(file)?;
    AgentConfig::from_toml(&text, &file.display().to_string())
        .map_err(|errors| Failure::new(Code::Config, errors.to_string()))
}

fn failed(message: String) -> Failure {
    Failure::new(Code::Failed, message)
}
