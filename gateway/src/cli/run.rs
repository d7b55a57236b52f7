//! `gateway run`.

use super::{Failure, log};
use crate::config::{Config, LoadError};
use crate::numa::Machine;
use crate::preflight;
use dpdk::EalOptions;
use std::path::Path;

/// Nothing is opened before the configuration, TLS files included, is good.
pub(super) fn run(file: &Path, eal_arguments: &[String]) -> Result<(), Failure> {
    let config = Config::load(file)?;
    let machine = Machine::this();
    let mut problems = config.check_tls(file)?;
    problems.extend(preflight::refused(&config, file, &machine, !EalOptions::has_core_list(eal_arguments)));
    if !problems.is_empty() {
        return Err(LoadError::Problems(problems).into());
    }
    let memory = machine.memory(&config.eal).map_err(|error| error.at(file, config.lines.numa.max(1)))?;
    log::start(config.log.level);
    for problem in preflight::small_mtus(&config, file) {
        tracing::warn!("{problem}");
    }
    Ok(crate::run::run(file, config, memory, eal_arguments, log::set_level)?)
}
