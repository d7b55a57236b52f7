//! A running program as a guard.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::cleanup;
use crate::command;
use crate::error::{Error, Result};
use crate::netns::Netns;

/// How long a program gets to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(30);

/// A program running in a namespace, in a process group of its own. Dropped: SIGTERM, then SIGKILL, and reaped. If this
/// process dies, the kernel kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `argv` in `netns`; its stdout and stderr go to `log`, which is appended to.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be started.
    pub fn spawn(netns: &Netns, argv: &[&str], log: &Path) -> Result<Self> {
        let open = || {
            File::options().create(true).append(true).open(log).map_err(Error::io(log.display().to_string()))
        };
        let mut command = command::command(&netns.argv(argv));
        command.stdin(Stdio::null()).stdout(open()?).stderr(open()?);
        let program = argv.iter().find(|word| **word != "env" && !word.contains('='));
        let name = program.map_or("", |program| program.rsplit('/').next().unwrap_or(program)).to_owned();
        let _alive = cleanup::gate();
        let child = command::spawn(command, &name)?;
        Ok(Process { name, child, log: log.to_owned() })
    }

    /// Its process id, which is its process group's too.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its output so far.
    pub fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        command::wait_until(&mut self.child, Instant::now() + limit)
            .ok_or_else(|| self.timeout(format!("end of {}", self.name), limit))
    }

    /// Waits until `ready` holds; fails early if the program ends.
    ///
    /// # Errors
    /// [`Error::Timeout`] or [`Error::Command`], with the end of its log.
    pub fn wait_until(&mut self, what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let end = Instant::now() + limit;
        while !ready() {
            if let Some(status) = self.ended() {
                return Err(Error::Command {
                    command: self.name.clone(),
                    status: command::describe(status),
                    output: self.tail(),
                });
            }
            if Instant::now() >= end {
                return Err(self.timeout(format!("{}: {what}", self.name), limit));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// SIGTERM, then SIGKILL if it does not end; returns its status.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it had to be killed.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        self.wait(GRACE)
    }

    /// SIGKILL; returns once it is gone.
    pub fn kill(mut self) {
        command::kill_group(&mut self.child);
    }

    /// Sends a signal to its process group, if it still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            command::signal_group(&self.child, signal);
        }
    }

    fn timeout(&self, what: String, limit: Duration) -> Error {
        Error::Timeout { what, limit, detail: format!("\n{}", self.tail()) }
    }

    /// The last lines of its log.
    fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGTERM);
        if command::wait_until(&mut self.child, Instant::now() + GRACE).is_none() {
            command::kill_group(&mut self.child);
        }
    }
}
