//! What can go wrong in a lab.

use std::io;
use std::time::Duration;

/// An error of the lab. Each says what was tried and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces need root.
    #[error("the lab needs root: run it as root, or through sudo")]
    NotRoot,
    /// A program is not installed.
    #[error("{program} not found: apt install {package}")]
    Missing {
        /// The program.
        program: &'static str,
        /// Debian's package that holds it.
        package: &'static str,
    },
    /// A command failed.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// What it wrote to stderr, or to stdout if that was nothing.
        output: String,
    },
    /// A command or a condition took too long.
    #[error("{what}: not within {} s{detail}", .limit.as_secs_f32())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// What is known about the cause, if anything; starts with a separator.
        detail: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// There is no such namespace in the lab.
    #[error("the lab has no namespace {0}; see `netns-lab status`")]
    NoNamespace(String),
    /// There is no such lab.
    #[error("no lab {0} is up; see `netns-lab status`")]
    NoLab(String),
    /// A lab of this name is up already.
    #[error("a lab {0} is up already: `netns-lab down --name {0}` takes it down")]
    Exists(String),
    /// A lab's name cannot be part of namespace names.
    #[error("{0:?} is no lab name: a letter, then up to 15 letters and digits, all lower case")]
    BadName(String),
    /// The gateway refused a call, or does not answer.
    #[error("gateway, {call}: {status}")]
    Rpc {
        /// The call.
        call: &'static str,
        /// gRPC's status.
        status: Box<tonic::Status>,
    },
    /// The gateway's program is not there.
    #[error(
        "no gateway program at {0}: build it (cargo build --release -p gateway), or name it in GATEWAY_BIN"
    )]
    NoGateway(std::path::PathBuf),
    /// A program's output was not what it is documented to be.
    #[error("cannot read the output of {program}: {output}")]
    Output {
        /// The program.
        program: String,
        /// Its output, or the part in question.
        output: String,
    },
}

impl Error {
    /// For `map_err`: an [`Error::Io`] that says what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}

/// A result of the lab.
pub type Result<T> = std::result::Result<T, Error>;
