//! `gateway agent`.

use super::{Code, Failure, log};
use crate::config::read;
use control::agent::AgentConfig;
use std::path::Path;
use tokio::signal::unix::{SignalKind, signal};

/// Runs until SIGTERM or SIGINT.
pub(super) fn run(file: &Path) -> Result<(), Failure> {
    let text = read(file)?;
    let config = AgentConfig::from_toml(&text, &file.display().to_string())
        .map_err(|errors| Failure::new(Code::Config, errors.to_string()))?;
    log::start(tracing::Level::INFO);
    let failed = |error: String| Failure::new(Code::Failed, error);
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
        control::agent::run(config, shutdown).await.map_err(|error| failed(error.to_string()))
    })
}
