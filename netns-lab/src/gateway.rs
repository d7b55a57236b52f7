//! The gateway and the agents, running in a lab.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

use crate::command::run;
use crate::config::{AgentConfig, GatewayConfig, endpoint};
use crate::control::{Control, Session};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::plan::Vnf;
use crate::process::Process;

/// How long a program gets to become ready, on a machine that is busy with other things.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a client command may take.
const CLIENT_LIMIT: Duration = Duration::from_secs(20);

/// The gateway's program: `GATEWAY_BIN`, or `gateway` beside this program or in the directory above.
///
/// # Errors
/// [`Error::NoGateway`] if there is none.
pub fn find_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("GATEWAY_BIN") {
        let path = PathBuf::from(path);
        return if path.is_file() { Ok(path) } else { Err(Error::NoGateway(path)) };
    }
    let own = std::env::current_exe().map_err(Error::io("find this program"))?;
    let beside = own.with_file_name("gateway");
    let above = own.parent().and_then(Path::parent).map(|directory| directory.join("gateway"));
    [Some(beside.clone()), above]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
        .ok_or(Error::NoGateway(beside))
}

/// A gateway running in the lab's namespace `gw`.
#[derive(Debug)]
pub struct Gateway {
    program: PathBuf,
    endpoint: String,
    process: Process,
    control: Control,
}

impl Gateway {
    /// Starts `program` with `config` and waits until it is ready.
    ///
    /// # Errors
    /// As [`Process::wait_until`], with the end of its log.
    pub fn start(lab: &Lab, program: &Path, config: &GatewayConfig) -> Result<Self> {
        let file = config.write(lab)?;
        let log = lab.directory().join("gateway.log");
        let file = file.to_string_lossy();
        let mut argv = vec!["run", "--config", &file, "--"];
        argv.extend(&config.eal_args);
        let process = start(lab, "gw", program, &argv, &log)?;
        let endpoint = endpoint(lab);
        let control = Control::connect(&endpoint)?;
        Ok(Gateway { program: program.to_owned(), endpoint, process, control })
    }

    /// Its control interface.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// Its status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// What `gateway ARGS --connect ENDPOINT` prints.
    ///
    /// # Errors
    /// As [`run`].
    pub fn client(&self, args: &[&str]) -> Result<String> {
        let program = self.program.to_string_lossy();
        let mut argv: Vec<&str> = vec![&program];
        argv.extend(args);
        argv.extend(["--connect", &self.endpoint]);
        run(&argv, CLIENT_LIMIT)
    }

    /// Its statistics, from `gateway stats --json`.
    ///
    /// # Errors
    /// As [`run`]; [`Error::Output`] if that is not JSON.
    pub fn stats(&self) -> Result<Stats> {
        let text = self.client(&["stats", "--json"])?;
        let json = serde_json::from_str(&text);
        json.map(Stats)
            .map_err(|_| Error::Output { program: "gateway stats --json".to_owned(), output: text })
    }

    /// SIGTERM, and its status.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it had to be killed.
    pub fn stop(self) -> Result<ExitStatus> {
        let Gateway { process, control, .. } = self;
        drop(control);
        process.stop()
    }

    /// SIGKILL; what closed until then is returned.
    pub fn kill(self) -> Vec<Session> {
        let Gateway { process, control, .. } = self;
        process.kill();
        control.closed()
    }
}

/// The object that `gateway stats --json` prints.
#[derive(Debug, Clone)]
pub struct Stats(pub Value);

impl Stats {
    /// The counter at `path`, such as `/traps/new`.
    ///
    /// # Errors
    /// [`Error::Output`] if there is none.
    pub fn get(&self, path: &str) -> Result<u64> {
        let output =
            || Error::Output { program: format!("gateway stats --json, {path}"), output: self.0.to_string() };
        self.0.pointer(path).and_then(Value::as_u64).ok_or_else(output)
    }
}

/// Starts the agent beside `vnf` and waits until it is ready.
///
/// # Errors
/// As [`Process::wait_until`], with the end of its log.
pub fn start_agent(lab: &Lab, program: &Path, vnf: &Vnf, config: &AgentConfig) -> Result<Process> {
    let config = config.write(lab, vnf)?;
    let log = lab.directory().join(format!("agent-{}.log", vnf.name));
    start(lab, vnf.name, program, &["agent", "--config", &config.to_string_lossy()], &log)
}

/// Starts the gateway's program in the namespace of `role`, and waits for its sd_notify READY.
fn start(lab: &Lab, role: &str, program: &Path, args: &[&str], log: &Path) -> Result<Process> {
    let path = lab.directory().join(format!("notify-{role}.sock"));
    let _ = fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).map_err(Error::io(format!("bind {}", path.display())))?;
    socket.set_nonblocking(true).map_err(Error::io("notify socket"))?;
    let environment = format!("NOTIFY_SOCKET={}", path.display());
    let program = program.to_string_lossy();
    let mut argv = vec!["env", &environment, &program];
    argv.extend(args);
    let mut process = Process::spawn(lab.ns(role)?, &argv, log)?;
    let mut buffer = [0; 4096];
    process.wait_until("sd_notify READY", READY_LIMIT, || match socket.recv(&mut buffer) {
        Ok(length) => buffer[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1"),
        Err(error) => error.kind() != ErrorKind::WouldBlock && error.kind() != ErrorKind::Interrupted,
    })?;
    Ok(process)
}
