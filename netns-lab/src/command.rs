//! Programs that run to their end, with a time limit.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::cleanup;
use crate::error::{Error, Result};

/// Time limit of the commands that set the lab up.
pub const SETUP_LIMIT: Duration = Duration::from_secs(30);

/// Runs `argv` and returns its stdout.
///
/// # Errors
/// [`Error::Command`] if it does not exit with 0, [`Error::Timeout`] if it takes longer than `limit` (it is killed,
/// with its process group), [`Error::Io`] if it cannot be started.
pub fn run<S: AsRef<str>>(argv: &[S], limit: Duration) -> Result<String> {
    checked(argv, output(argv, limit)?)
}

/// Runs a command that takes the lab down, which goes on when this process is being taken down.
pub(crate) fn remove(argv: &[&str]) -> Result<String> {
    checked(argv, collect(argv, SETUP_LIMIT)?)
}

fn checked<S: AsRef<str>>(argv: &[S], output: Output) -> Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = text(&output.stderr);
    Err(Error::Command {
        command: line(argv),
        status: describe(output.status),
        output: if stderr.is_empty() { text(&output.stdout) } else { stderr },
    })
}

/// Runs `argv` and returns its status, stdout and stderr, whatever the status.
///
/// # Errors
/// As [`run`], without [`Error::Command`].
pub fn output<S: AsRef<str>>(argv: &[S], limit: Duration) -> Result<Output> {
    let gate = cleanup::gate();
    let output = collect(argv, limit);
    drop(gate);
    // Clean-up may have ended the command.
    drop(cleanup::gate());
    output
}

fn collect<S: AsRef<str>>(argv: &[S], limit: Duration) -> Result<Output> {
    let mut command = command(argv);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command, &line(argv))?;
    let _running = cleanup::Running::new(child.id());
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    let end = Instant::now() + limit;
    let status = wait_until(&mut child, end);
    if status.is_none() {
        kill_group(&mut child);
    }
    // A grandchild may hold the pipes open: the readers get no longer than a slow machine needs.
    let collect = |reader: Option<mpsc::Receiver<Vec<u8>>>| reader?.recv_timeout(SETUP_LIMIT).ok();
    match (status, collect(stdout), collect(stderr)) {
        (Some(status), Some(stdout), Some(stderr)) => Ok(Output { status, stdout, stderr }),
        (ended, _, stderr) => Err(Error::Timeout {
            what: format!("{}`{}`", if ended.is_some() { "output of " } else { "" }, line(argv)),
            limit: if ended.is_some() { SETUP_LIMIT } else { limit },
            detail: format!(": {}", String::from_utf8_lossy(&stderr.unwrap_or_default()).trim()),
        }),
    }
}

/// Whether `program` is in the PATH.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Fails with the package to install if `program` is not in the PATH.
///
/// # Errors
/// [`Error::Missing`].
pub fn need_program(program: &'static str, package: &'static str) -> Result<()> {
    if installed(program) { Ok(()) } else { Err(Error::Missing { program, package }) }
}

/// A command of its own process group, killed by the kernel if this process dies.
pub(crate) fn command<S: AsRef<str>>(argv: &[S]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).args(argv.iter().map(AsRef::as_ref)).process_group(0);
    command
}

/// Starts `command` from a thread that lives as long as the process: the kernel's parent-death signal is bound to the
/// thread that forked.
pub(crate) fn spawn(command: Command, name: &str) -> Result<Child> {
    type Request = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: std::sync::OnceLock<mpsc::Sender<Request>> = std::sync::OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for (mut command, reply) in requests {
                // A caller that is gone leaves a child nobody waits for.
                if let Err(mpsc::SendError(Ok(mut child))) = reply.send(command.spawn()) {
                    kill_group(&mut child);
                }
            }
        });
        sender
    });
    let (reply, child) = mpsc::channel();
    let gone = || Error::io(name)(std::io::Error::other("the thread that starts programs is gone"));
    spawner.send((command, reply)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?.map_err(Error::io(name))
}

/// Waits for `child` until `end`; `None` if it still runs.
pub(crate) fn wait_until(child: &mut Child, end: Instant) -> Option<ExitStatus> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Kills the group of `child` and reaps it.
pub(crate) fn kill_group(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        signal_group(child, Signal::SIGKILL);
        let _ = child.wait();
    }
}

/// Sends `signal` to the process group of `child`. The caller has not reaped it, so the id is still its own.
pub(crate) fn signal_group(child: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), signal);
    }
}

/// "exit 1", "signal 9".
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown status".to_owned(),
    }
}

fn line<S: AsRef<str>>(argv: &[S]) -> String {
    argv.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ")
}

fn drain(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_status_are_passed_on() {
        assert_eq!(run(&["echo", "hello"], SETUP_LIMIT).unwrap(), "hello\n");
        let error = run(&["sh", "-c", "echo why >&2; exit 3"], SETUP_LIMIT).unwrap_err().to_string();
        assert!(error.contains("exit 3") && error.contains("why"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_its_children() {
        let start = Instant::now();
        let error = run(&["sh", "-c", "sleep 60 & sleep 60"], Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
