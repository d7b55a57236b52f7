//! Processes that end with their owner, and folders for what they write.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A folder of this process's own, removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one.
    pub fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("benches-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running program, killed when dropped.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in a file of `scratch`. Its standard input stays open and empty. It also ends if the
    /// calling thread does, however that ends: a gateway that nobody owns would go on polling.
    pub fn start(command: Command, scratch: &Scratch, name: &str) -> Result<Self> {
        let log = scratch.path(&format!("{name}.log"));
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        let mut command = dying_with_us(&command);
        command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
        let program = command.get_program().to_owned();
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, name: name.into(), log })
    }

    /// Waits until `ready` says so.
    pub fn wait_until(&mut self, limit: Duration, mut ready: impl FnMut(&str) -> bool) -> Result<()> {
        let start = Instant::now();
        loop {
            let log = self.log();
            if ready(&log) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} has ended ({status}):\n{log}", self.name);
            }
            ensure!(start.elapsed() < limit, "{} is not ready after {limit:?}:\n{log}", self.name);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Writes a line to its standard input.
    pub fn tell(&self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_ref().context("its standard input is closed")?;
        let mut input: &std::process::ChildStdin = input;
        writeln!(input, "{line}").with_context(|| format!("telling {} to {line}", self.name))
    }

    /// What it has written.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Stops all its threads where they are.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets them go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    /// Time that its busiest thread has run, and has waited for a core while it could have run.
    pub fn scheduled(&self) -> (Duration, Duration) {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten();
        let times = threads.flatten().filter_map(|thread| {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let mut numbers = text.split_whitespace().map(|number| number.parse().map(Duration::from_nanos));
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        });
        times.max_by_key(|(ran, _)| *ran).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.resume();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What starts the same program, to be killed when the thread that starts it is no more (`PR_SET_PDEATHSIG`).
fn dying_with_us(command: &Command) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}

/// Runs a program to its end; its output, or what it said on failing.
pub fn output<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let shown: Vec<_> = arguments.iter().map(|argument| argument.as_ref().to_string_lossy()).collect();
    ensure!(
        output.status.success(),
        "{program} {}: {text}{}",
        shown.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

/// The program of this name beside the running one, or the one that a variable names.
pub fn sibling(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    // Tests run from a folder deeper.
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!("there is no {name} beside {}: build it, or set {variable}", Path::display(&own))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ends_with_the_thread_that_started_it() {
        let scratch = Scratch::new("orphan").unwrap();
        let started = std::thread::scope(|scope| {
            let start = || {
                let mut command = Command::new("sh");
                command.args(["-c", "echo $GREETING; exec sleep 600"]).env("GREETING", "hello");
                let mut process = Process::start(command, &scratch, "sleeper").unwrap();
                process.wait_until(Duration::from_secs(60), |log| log == "hello\n").unwrap();
                // As if it ended without a chance to clean up.
                std::mem::ManuallyDrop::new(process)
            };
            scope.spawn(start).join().unwrap()
        });
        let mut process = std::mem::ManuallyDrop::into_inner(started);
        let status = process.child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }
}
