//! The configuration: TOML read into sections, every problem collected with its line, and out comes either the typed
//! [`Config`] or the list of all that is wrong.

mod activation;
mod document;
mod rules;
mod sections;
mod tls;
mod value;

pub use value::{format_mac, parse_mac};
pub(crate) use value::{interface, is_pci};

use conntrack::table::Timeouts;
use control::Endpoint;
use control::activation::ActivationConfig;
use document::{Problems, Section};
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// All of `gateway run`'s and `gateway replay`'s configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[eal]`.
    pub eal: Eal,
    /// `[[port]]`s, positions as in `pipeline.ports`.
    pub ports: Vec<Port>,
    /// `[[port]]`, `[underlay]`, `[[lif]]` and `[trap]` as the pipeline wants them. The MAC of a port without `mac` is
    /// 02:00:00:00:00:01 plus its position, until its device has told its own.
    pub pipeline: pipeline::Config,
    /// `[sessions]`.
    pub sessions: Sessions,
    /// `[control]`.
    pub control: Control,
    /// `[activation]`; None: always active.
    pub activation: Option<ActivationConfig>,
    /// `[log]`.
    pub log: Log,
    /// Where things stand in the file.
    pub(crate) lines: sections::Lines,
}

/// `[eal]`: cores and memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eal {
    /// One lcore for each worker.
    pub workers: Vec<u16>,
    /// Where all the rest runs.
    pub main_lcore: u16,
    /// False: ordinary memory.
    pub hugepages: bool,
    /// DPDK's memory in MiB.
    pub memory_mib: u32,
    /// What a worker that has found nothing for a while sleeps between polls, in microseconds; 0 = it never sleeps.
    pub idle_sleep_us: u32,
    /// The NUMA node that packets and sessions are on; None: the first worker's.
    pub numa: Option<u16>,
}

/// What `[[port]]` says beside name and MAC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// PCI address or vdev arguments.
    pub device: String,
    /// Largest IP packet; None: as the device has it.
    pub mtu: Option<u16>,
    /// None: the device's own.
    pub mac: Option<[u8; 6]>,
    /// Descriptors of each receive queue.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue.
    pub tx_descriptors: u16,
}

/// `[sessions]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// Sessions the table holds.
    pub capacity: u32,
    /// Used where a session gives none.
    pub timeouts: Timeouts,
}

/// `[control]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Where the services listen.
    pub listen: Vec<Endpoint>,
    /// TLS of the TCP listeners.
    pub tls: Option<Tls>,
    /// TCP without TLS.
    pub plaintext: bool,
    /// Clients, by the names in their certificates, that may remove everybody's sessions.
    pub admins: Vec<String>,
}

/// PEM files, relative ones taken from the configuration's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Clients must show a certificate of this authority.
    pub client_ca: Option<PathBuf>,
    /// Where `tls` stands in the configuration.
    pub line: usize,
}

/// `[log]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// What is logged; the `RUST_LOG` variable overrides it.
    pub level: tracing::Level,
}

/// Something wrong in a file, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {message}", file.display())]
pub struct Problem {
    /// As named by the user.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// What is wrong: what to write instead.
    pub message: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// As named by the user.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Everything that is wrong, in the order of the file.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Problems(Vec<Problem>),
}

impl Config {
    /// Reads and checks `file`; opens nothing else.
    pub fn load(file: &Path) -> Result<Self, LoadError> {
        Self::parse(file, &read(file)?)
    }

    /// Checks the TLS files' content. Files that cannot be read are returned: a host that only checks configurations need
    /// not have the keys.
    pub fn check_tls(&self, file: &Path) -> Result<Vec<Problem>, LoadError> {
        self.control.tls.as_ref().map_or(Ok(Vec::new()), |tls| tls::check(tls, file))
    }

    /// Checks `text`, which `file` names in messages.
    pub fn parse(file: &Path, text: &str) -> Result<Self, LoadError> {
        with_document(file, text, |root, problems| sections::config(root, file, problems))
    }
}

/// Reads a file; a problem in itself if it is no text.
pub(crate) fn read(file: &Path) -> Result<String, LoadError> {
    let read = |source| LoadError::Read { file: file.to_owned(), source };
    let bytes = std::fs::read(file).map_err(read)?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count();
        let message = "not UTF-8: write the file in UTF-8".to_owned();
        LoadError::Problems(vec![Problem { file: file.to_owned(), line, message }])
    })
}

/// Parses `text` and hands its root to `make`, whose value counts only if no problem was noted.
fn with_document<T>(
    file: &Path,
    text: &str,
    make: impl FnOnce(&Section<'_>, &Problems) -> Option<T>,
) -> Result<T, LoadError> {
    let problems = Problems::new(file, text);
    let readable = without_syntax_errors(text, &problems);
    let (document, _) = DeTable::parse_recoverable(&readable);
    let root = Section::new("the file", 1, document.get_ref(), &problems);
    if root.has("gateway") && root.has("interface") && !root.has("port") {
        let message =
            "this is the offload agent's configuration: give it to `gateway agent`, and here a file as in \
                       gateway.toml(5)"
                .to_owned();
        return Err(LoadError::Problems(vec![Problem { file: file.to_owned(), line: 1, message }]));
    }
    let made = make(&root, &problems);
    root.finish();
    match (made, problems.into_list()) {
        (Some(made), list) if list.is_empty() => Ok(made),
        (_, list) => Err(LoadError::Problems(list)),
    }
}

/// Notes the syntax errors and blanks their lines: the parser reads on behind some errors only.
fn without_syntax_errors(text: &str, problems: &Problems) -> String {
    let mut text = text.to_owned();
    loop {
        let (_, errors) = DeTable::parse_recoverable(&text);
        let new = errors.iter().filter_map(|error| problems.syntax(error)).collect::<Vec<_>>();
        if new.is_empty() {
            return text;
        }
        // Spaces, byte for byte, so that whatever stands behind keeps its offset.
        let lines = text.split('\n').zip(1..);
        let lines = lines.map(|(line, number)| match new.contains(&number) {
            true => " ".repeat(line.len()),
            false => line.to_owned(),
        });
        text = lines.collect::<Vec<_>>().join("\n");
    }
}
