//! The demonstration as users run it: it passes, and leaves nothing behind, also when it is interrupted.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netns_lab::cleanup;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::{one_at_a_time, wait};

/// The whole of it takes about 30 s with transfers of 1 s on an idle machine.
const DEMO_LIMIT: Duration = Duration::from_secs(240);

fn start(log: &Path) -> Child {
    let program = netns_lab::gateway::find_program().unwrap();
    Command::new(env!("CARGO_BIN_EXE_netns-lab"))
        .args(["demo", "--seconds", "1", "--bin"])
        .arg(program)
        .stdin(Stdio::null())
        .stdout(File::create(log).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn log(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("netns-lab-{name}-{}.log", std::process::id()))
}

fn labs_of(child: &Child) -> Vec<String> {
    let owner = format!("{}.", child.id());
    cleanup::labs().into_iter().filter(|lab| lab.starts_with(&owner)).collect()
}

#[test]
fn the_demonstration_passes() {
    let _serial = one_at_a_time();
    let log = log("demo");
    let mut demo = start(&log);
    let end = Instant::now() + DEMO_LIMIT;
    let status = loop {
        match demo.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if Instant::now() > end => break None,
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    if status.is_none() {
        kill(Pid::from_raw(demo.id().cast_signed()), Signal::SIGTERM).unwrap();
        demo.wait().unwrap();
    }
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    assert!(status.is_some_and(|status| status.success()), "{status:?}\n{text}");
    assert!(
        ["PASSED", "closed sessions: ", "mirrored as received", "snooped as sent"]
            .iter()
            .all(|part| text.contains(part)),
        "{text}"
    );
    assert!(labs_of(&demo).is_empty());
}

#[test]
fn an_interrupted_demonstration_leaves_nothing_behind() {
    let _serial = one_at_a_time();
    let log = log("interrupted");
    let mut demo = start(&log);
    let running = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("kernel  "));
    wait("the first flow is through", || running() || demo.try_wait().unwrap().is_some());
    assert!(running(), "{}", std::fs::read_to_string(&log).unwrap_or_default());
    std::fs::remove_file(&log).unwrap();
    let lab = labs_of(&demo).pop().unwrap();
    let pids: Vec<i32> = cleanup::namespaces(&lab).iter().flat_map(|name| cleanup::pids(name)).collect();
    assert!(pids.len() >= 2, "the gateway and servers run: {pids:?}");

    kill(Pid::from_raw(demo.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    assert!(labs_of(&demo).is_empty());
    wait("its processes are gone", || pids.iter().all(|pid| gone(*pid)));
}

/// Whether a process has ended, if not been reaped: whoever inherits it does that.
fn gone(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z") || rest.starts_with(" X"))
}
