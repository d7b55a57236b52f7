//! DPDK's control threads are ordinary ones under a caller with a real-time priority: they would wait for ever for cores on which
//! others poll with the same.

mod common;

use dpdk::Eal;
use std::{fs, io};

#[test]
#[expect(unsafe_code, reason = "the scheduling class has no safe interface")]
fn control_threads_are_ordinary() {
    let parameters = libc::sched_param { sched_priority: 10 };
    // SAFETY: 0 is the calling thread; the parameters live for the call.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) } != 0 {
        eprintln!("left out: no right to a real-time priority: {}", io::Error::last_os_error());
        return;
    }
    let before: Vec<_> = threads().into_iter().map(|(id, ..)| id).collect();
    let _eal = Eal::init(&common::options()).expect("the EAL starts");
    // SAFETY: 0 is the calling thread.
    assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_FIFO, "the caller has lost its priority");
    let new: Vec<_> = threads().into_iter().filter(|(id, ..)| !before.contains(id)).collect();
    assert!(new.iter().any(|(_, name, _)| name == "eal-intr-thread"), "{new:?}");
    for (_, name, policy) in new {
        assert_eq!(policy, libc::SCHED_OTHER, "{name}");
    }
}

/// Id, name and scheduling policy (field 41 of proc_pid_stat(5)) of each thread.
fn threads() -> Vec<(u32, String, i32)> {
    let thread = |entry: fs::DirEntry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (start, rest) = stat.rsplit_once(") ")?;
        let name = start.split_once(" (")?.1.to_owned();
        let policy = rest.split(' ').nth(38)?.parse().ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, name, policy))
    };
    fs::read_dir("/proc/self/task").unwrap().flatten().filter_map(thread).collect()
}
