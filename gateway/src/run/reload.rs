//! SIGHUP: what can change while the gateway runs, and a word about what cannot.

use super::{notify, tls_files};
use crate::config::{Config, LoadError};
use control::Server;
use sd_notify::NotifyState;
use std::path::Path;

/// Reads the configuration again. TLS files, admins and the log level change at once; all else is named, and stays. A configuration
/// that is wrong changes nothing.
pub(super) fn reload(file: &Path, running: &mut Config, server: &Server, set_level: fn(tracing::Level)) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot notify systemd"),
    }
    match Config::load(file) {
        Ok(config) => apply(config, running, server, set_level),
        Err(LoadError::Problems(problems)) => {
            for problem in &problems {
                tracing::error!("{problem}");
            }
            tracing::error!("not reloaded: {} problems in the configuration", problems.len());
        }
        Err(error) => tracing::error!("not reloaded: {error}"),
    }
    notify(&[NotifyState::Ready]);
}

fn apply(config: Config, running: &mut Config, server: &Server, set_level: fn(tracing::Level)) {
    if let Some(tls) = &config.control.tls {
        match server.reload_tls(&tls_files(tls)) {
            Ok(()) => running.control.tls = config.control.tls.clone(),
            Err(error) => tracing::error!("TLS stays as it was: {error}"),
        }
    }
    if config.control.admins != running.control.admins {
        server.set_admins(config.control.admins.clone());
        running.control.admins = config.control.admins.clone();
    }
    if config.log != running.log {
        set_level(config.log.level);
        running.log = config.log;
    }
    let changed = changed(&config, running);
    match changed.is_empty() {
        true => tracing::info!("reloaded"),
        false => tracing::warn!("reloaded; to take effect, a restart is needed for: {}", changed.join(", ")),
    }
}

/// Sections that differ from those that run.
fn changed(new: &Config, running: &Config) -> Vec<&'static str> {
    let (a, b) = (&new.pipeline, &running.pipeline);
    let same_ports = new.ports == running.ports && same(&a.ports, &b.ports);
    let (tls_on, tls_was_on) = (new.control.tls.is_some(), running.control.tls.is_some());
    let same_control = new.control.listen == running.control.listen
        && new.control.plaintext == running.control.plaintext
        && tls_on == tls_was_on;
    let sections = [
        ("[eal]", new.eal == running.eal),
        ("[[port]]", same_ports),
        ("[underlay]", same(&a.underlay, &b.underlay)),
        ("[[lif]]", same(&a.lifs, &b.lifs)),
        ("[trap]", same(&a.trap, &b.trap)),
        ("[sessions]", new.sessions == running.sessions),
        ("[control]", same_control),
        ("[activation]", same(&new.activation, &running.activation)),
    ];
    sections.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
}

/// The pipeline's types compare by what they print.
fn same(a: &impl std::fmt::Debug, b: &impl std::fmt::Debug) -> bool {
    format!("{a:?}") == format!("{b:?}")
}
