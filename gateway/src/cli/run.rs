//! `gateway run`.

use super::{Code, Failure, log};
use crate::config::{Config, LoadError};
use crate::numa::Machine;
use std::path::Path;

/// Nothing is opened before the configuration, TLS files included, is good.
pub(super) fn run(file: &Path, eal_arguments: &[String]) -> Result<(), Failure> {
    let config = Config::load(file)?;
    let unreadable = config.check_tls(file)?;
    if !unreadable.is_empty() {
        return Err(LoadError::Problems(unreadable).into());
    }
    let memory = Machine::this().memory(&config.eal).map_err(|error| error.at(file, config.numa_line))?;
    log::start(config.log.level);
    crate::run::run(file, config, memory, eal_arguments, log::set_level)
        .map_err(|error| Failure::new(Code::Failed, format!("{error:#}")))
}
