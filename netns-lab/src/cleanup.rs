//! No lab outlives its owner: names say who owns a lab, so that leftovers can be found and removed.
//!
//! A namespace is called `nlab-LAB-ROLE`. LAB is `PID.START.N` for a lab that belongs to a process (START is the
//! process's start time, so that a reused pid is not mistaken for the owner), and a word for one that `netns-lab up`
//! made, which stays until `netns-lab down`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError, RwLock, RwLockReadGuard, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use crate::command;

/// First part of the name of every namespace.
pub(crate) const PREFIX: &str = "nlab-";
/// Where labs keep their files.
const RUN_DIR: &str = "/run/netns-lab";

/// Set for good once this process is being taken down.
static DOWN: AtomicBool = AtomicBool::new(false);
/// Held, for reading, while something is created that clean-up has to find.
static CREATING: RwLock<()> = RwLock::new(());
/// Process groups of the commands that are running.
static RUNNING: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// To be held while something is created that clean-up has to find. Does not return while this process is being taken
/// down: it would go on as if its lab were there.
pub(crate) fn gate() -> RwLockReadGuard<'static, ()> {
    let gate = CREATING.read().unwrap_or_else(PoisonError::into_inner);
    if !DOWN.load(Ordering::SeqCst) {
        return gate;
    }
    drop(gate);
    loop {
        thread::park();
    }
}

/// A command that clean-up ends rather than waits for.
pub(crate) struct Running(i32);

impl Running {
    pub(crate) fn new(pid: u32) -> Self {
        let pid = pid.cast_signed();
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
        Running(pid)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|pid| *pid != self.0);
    }
}

/// On SIGINT, SIGTERM and SIGHUP: takes down the labs of this process, then ends it with 128 + the signal's number.
pub fn on_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (ready, installed) = std::sync::mpsc::channel::<()>();
        thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            let number = runtime.block_on(async {
                let mut interrupt = signal(SignalKind::interrupt()).ok()?;
                let mut terminate = signal(SignalKind::terminate()).ok()?;
                let mut hangup = signal(SignalKind::hangup()).ok()?;
                drop(ready);
                tokio::select! {
                    _ = interrupt.recv() => Some(2),
                    _ = terminate.recv() => Some(15),
                    _ = hangup.recv() => Some(1),
                }
            });
            if let Some(number) = number {
                eprintln!("interrupted: taking the lab down");
                remove_own();
                process::exit(128 + number);
            }
        });
        let _ = installed.recv_timeout(Duration::from_secs(5));
    });
}

/// Takes down all labs of this process, and lets it make nothing more.
fn remove_own() {
    DOWN.store(true, Ordering::SeqCst);
    // Whoever is creating something sees its command die, and stops.
    let _nobody_creates = loop {
        for pid in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = killpg(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        match CREATING.try_write() {
            Ok(guard) => break guard,
            Err(TryLockError::Poisoned(guard)) => break guard.into_inner(),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
        }
    };
    let owner = owner();
    for lab in labs().into_iter().filter(|lab| lab.starts_with(&owner)) {
        remove(&lab);
    }
}

/// Removes the labs whose owners are gone; returns their names.
pub fn remove_dead() -> Vec<String> {
    let dead: Vec<String> = labs().into_iter().filter(|lab| is_dead(lab)).collect();
    for lab in &dead {
        remove(lab);
    }
    dead
}

/// `PID.START.` of this process.
pub(crate) fn owner() -> String {
    let pid = process::id();
    format!("{pid}.{}.", start_time(pid).unwrap_or_default())
}

/// All labs there are, dead or alive.
pub fn labs() -> Vec<String> {
    let entries = |path: &str| fs::read_dir(path).into_iter().flatten().flatten();
    let namespaces = entries("/run/netns").filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_prefix(PREFIX)?.rsplit_once('-').map(|(lab, _)| lab.to_owned())
    });
    let directories = entries(RUN_DIR).filter_map(|entry| entry.file_name().into_string().ok());
    let mut labs: Vec<String> = namespaces.chain(directories).collect();
    labs.sort();
    labs.dedup();
    labs
}

/// Names of the namespaces of `lab`.
pub fn namespaces(lab: &str) -> Vec<String> {
    let prefix = format!("{PREFIX}{lab}-");
    let mut names: Vec<String> = fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect();
    names.sort();
    names
}

/// Takes `lab` down: its processes, namespaces and files.
pub(crate) fn remove(lab: &str) {
    let names = namespaces(lab);
    for name in &names {
        kill_all(name);
    }
    for name in &names {
        let _ = command::remove(&["ip", "netns", "del", name.as_str()]);
    }
    let _ = fs::remove_dir_all(directory(lab));
}

/// Directory of the files of `lab`.
pub(crate) fn directory(lab: &str) -> PathBuf {
    Path::new(RUN_DIR).join(lab)
}

/// Processes in the namespace `name`.
pub fn pids(name: &str) -> Vec<i32> {
    let list = command::remove(&["ip", "netns", "pids", name]).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Kills what runs in a namespace, and waits until it is gone.
pub(crate) fn kill_all(name: &str) {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        // A closure run inside by a thread of ours counts this process in.
        let pids: Vec<i32> =
            pids(name).into_iter().filter(|pid| *pid != process::id().cast_signed()).collect();
        if pids.is_empty() || Instant::now() > end {
            return;
        }
        for pid in pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a lab belongs to a process that is gone.
fn is_dead(lab: &str) -> bool {
    let mut parts = lab.split('.');
    let (Some(pid), Some(start)) = (parts.next(), parts.next()) else { return false };
    let (Ok(pid), Ok(start)) = (pid.parse::<u32>(), start.parse::<u64>()) else { return false };
    start_time(pid) != Some(start)
}

/// Start time of a process in clock ticks since boot: field 22 of `/proc/PID/stat`.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_is_dead_with_its_owner_and_not_before() {
        assert!(!is_dead(&format!("{}0", owner())));
        assert!(is_dead(&format!("{}.1.0", process::id())), "the same pid, another process");
        assert!(is_dead("4194999.5.0"), "no such pid");
        assert!(!is_dead("lab0"), "a lab with a name stays");
    }
}
