//! Where a thread's memory comes from.

use std::{fs, io, thread};

use dpdk::{Error, SocketId, prefer_memory};

#[test]
fn memory_is_preferred_by_thread() {
    let Ok(before) = policies() else {
        eprintln!("SKIPPED: this kernel knows no NUMA");
        return;
    };
    assert!(!before.contains(" prefer"), "{before}");
    thread::spawn(|| {
        // The node that every machine has.
        match prefer_memory(SocketId(0)) {
            Ok(()) => {}
            Err(Error::MemoryPolicy { source, .. }) if source.raw_os_error() == Some(libc::EPERM) => {
                eprintln!("SKIPPED: this container forbids memory policies");
                return;
            }
            Err(other) => panic!("{other}"),
        }
        let own = policies().unwrap();
        assert!(own.contains(" prefer:0 ") || own.contains(" prefer (many):0 "), "{own}");
        let inherited = thread::spawn(|| policies().unwrap()).join().unwrap();
        assert!(inherited.contains(" prefer"), "{inherited}");
    })
    .join()
    .unwrap();
    assert!(!policies().unwrap().contains(" prefer"), "other threads keep theirs");

    for absent in [SocketId(63), SocketId(64), SocketId::ANY] {
        let error = prefer_memory(absent).unwrap_err();
        assert!(matches!(error, Error::MemoryPolicy { socket, .. } if socket == absent), "{error}");
    }
}

/// This thread's mappings with the policy of each.
fn policies() -> io::Result<String> {
    fs::read_to_string("/proc/thread-self/numa_maps")
}
