//! A network namespace as a guard.

use std::fs::{self, File};
use std::process::Output;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::cleanup;
use crate::command::{self, SETUP_LIMIT, run};
use crate::error::{Error, Result};

/// A network namespace, removed with everything in it when dropped.
#[derive(Debug)]
pub struct Netns {
    role: String,
    name: String,
    kept: bool,
}

impl Netns {
    /// Makes the namespace of `role` in `lab`, with its loopback up.
    pub(crate) fn create(lab: &str, role: &str) -> Result<Self> {
        let name = format!("{}{lab}-{role}", cleanup::PREFIX);
        run(&["ip", "netns", "add", &name], SETUP_LIMIT)?;
        let netns = Netns { role: role.to_owned(), name, kept: false };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The namespace of a lab that another process made; not removed when dropped.
    pub(crate) fn open(name: &str, role: &str) -> Self {
        Netns { role: role.to_owned(), name: name.to_owned(), kept: true }
    }

    /// Leaves the namespace in place when dropped.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    /// What it is in the lab: `gw`, `red1`, `A`, ...
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Its name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip -n NAME ARGS`; `args` are separated by white space.
    ///
    /// # Errors
    /// As [`command::run`].
    pub fn ip(&self, args: &str) -> Result<String> {
        let argv: Vec<&str> = ["ip", "-n", &self.name].into_iter().chain(args.split_whitespace()).collect();
        run(&argv, SETUP_LIMIT)
    }

    /// Runs a program inside and returns its stdout.
    ///
    /// # Errors
    /// As [`command::run`].
    pub fn run(&self, argv: &[&str], limit: Duration) -> Result<String> {
        run(&self.argv(argv), limit)
    }

    /// Runs a program inside and returns its status and output, whatever the status.
    ///
    /// # Errors
    /// As [`command::output`].
    pub fn output(&self, argv: &[&str], limit: Duration) -> Result<Output> {
        command::output(&self.argv(argv), limit)
    }

    /// Runs `inside` on a thread in the namespace. Sockets it makes stay there.
    ///
    /// # Errors
    /// [`Error::Io`] if the namespace cannot be entered.
    ///
    /// # Panics
    /// If `inside` does.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).map_err(Error::io(&path))?;
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET)?;
                Ok(inside())
            });
            match thread.join() {
                Ok(result) => {
                    result.map_err(|errno: nix::Error| Error::io(format!("setns {path}"))(errno.into()))
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Sets entries of `/proc/sys/net`, given as `("ipv4/ip_forward", "1")`.
    ///
    /// # Errors
    /// [`Error::Io`] with the entry's name.
    pub fn sysctl(&self, entries: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (key, value) in entries {
                let path = format!("/proc/sys/net/{key}");
                fs::write(&path, value).map_err(Error::io(format!("write {value} to {path}")))?;
            }
            Ok(())
        })?
    }

    /// Takes an interface's segmentation, aggregation, checksum and tag offloads away, so that what is on the wire
    /// is what a NIC would put there.
    ///
    /// # Errors
    /// As [`command::run`].
    pub fn no_offloads(&self, device: &str) -> Result<()> {
        let features = ["tx", "tso", "gso", "gro", "rxvlan", "txvlan"];
        let mut argv = vec!["ethtool", "-K", device];
        argv.extend(features.iter().flat_map(|feature| [*feature, "off"]));
        // ethtool fails if a feature cannot be changed, after changing the others.
        let output = self.output(&argv, SETUP_LIMIT)?;
        let text = String::from_utf8_lossy(&output.stderr);
        if output.status.success() || text.contains("Could not change any device features") {
            return Ok(());
        }
        Err(Error::Command {
            command: argv.join(" "),
            status: command::describe(output.status),
            output: text.trim().to_owned(),
        })
    }

    /// The command line that runs `argv` inside.
    pub(crate) fn argv<'a>(&'a self, argv: &[&'a str]) -> Vec<&'a str> {
        ["ip", "netns", "exec", &self.name].into_iter().chain(argv.iter().copied()).collect()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        cleanup::kill_all(&self.name);
        if let Err(error) = command::remove(&["ip", "netns", "del", &self.name]) {
            eprintln!("{error}");
        }
    }
}
