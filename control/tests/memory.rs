//! Memory that a client can make the server hold. Alone in its process, since it looks at the whole of it.

mod common;

use common::{Gateway, Setup, add, http2, session};
use proto::gateway::v1::ListSessionsRequest;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

const SESSIONS: u32 = 10_000;
const CONNECTIONS: usize = 5;
/// What a connection may have open (ADR 5).
const CALLS: u32 = 128;

/// Resident memory of this process, in MiB.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages: u64 = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("statm");
    (pages * 4096) >> 20
}

/// Asks for lists of everything, and reads nothing.
async fn ask_and_never_read(gateway: &Gateway) -> UnixStream {
    let request = ListSessionsRequest { limit: u32::MAX, ..Default::default() };
    let mut bytes = http2::preface();
    for call in 0..CALLS {
        bytes.extend(http2::call(call, "/gateway.v1.Gateway/ListSessions"));
        bytes.extend(http2::message(call, &request, true));
    }
    let mut stream = UnixStream::connect(gateway.dir.path().join("control.sock")).await.expect("connection");
    stream.write_all(&bytes).await.expect("sent");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_nobody_reads_are_few_and_those_that_are_read_all_come() {
    let gateway = Setup { capacity: SESSIONS, ..Default::default() }.start().await;
    add(&mut gateway.v2().await, (1..=SESSIONS).map(session)).await;
    let before = resident();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(ask_and_never_read(&gateway).await);
    }
    // All answers together have some 400 MB.
    for _ in 0..40 {
        let held = resident().saturating_sub(before);
        assert!(held < 100, "{held} MiB are held for clients that do not read");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let client = gateway.v1().await;
    let lists: Vec<_> = (0..20)
        .map(|_| {
            let mut client = client.clone();
            let request = ListSessionsRequest { limit: u32::MAX, ..Default::default() };
            tokio::spawn(async move { client.list_sessions(request).await })
        })
        .collect();
    for list in lists {
        let list = list.await.expect("task").expect("under 4 MiB").into_inner();
        assert_eq!(list.sessions.len(), SESSIONS as usize);
    }
    drop(connections);
}
