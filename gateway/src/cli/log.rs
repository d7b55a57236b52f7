//! What is logged, to stderr.

use std::sync::OnceLock;
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

type Handle = reload::Handle<EnvFilter, tracing_subscriber::Registry>;

static FILTER: OnceLock<Handle> = OnceLock::new();

/// Logs what is at least as severe as `level`, or what `RUST_LOG` says. Once per process.
pub(super) fn start(level: Level) {
    let (filter, handle) = reload::Layer::new(filter(level));
    // systemd's journal stamps lines itself.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    match journal {
        true => registry.with(lines.without_time()).init(),
        false => registry.with(lines).init(),
    }
    let _ = FILTER.set(handle);
}

/// Changes the level of a log that was started.
pub(super) fn set_level(level: Level) {
    let changed = FILTER.get().map(|handle| handle.reload(filter(level)));
    if let Some(Err(error)) = changed {
        tracing::error!(%error, "the log level stays as it is");
    }
}

fn filter(level: Level) -> EnvFilter {
    match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => EnvFilter::new(directives),
        _ => EnvFilter::new(level.as_str()),
    }
}
