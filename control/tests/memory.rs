//! Memory that a client can make the server hold. Alone in its process, since it looks at the whole of it.

mod common;

use common::{Gateway, Setup, add, session};
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

/// RFC 9113 section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Asks for lists of everything, and reads nothing.
async fn ask_and_never_read(gateway: &Gateway) -> UnixStream {
    let path = b"/gateway.v1.Gateway/ListSessions";
    // RFC 7541: POST, http, then literals: path, authority, content type.
    let headers = [
        &[0x83, 0x86, 0x04, path.len() as u8][..],
        path,
        b"\x01\x09localhost",
        b"\x0f\x10\x10application/grpc",
    ];
    let request = ListSessionsRequest { limit: u32::MAX, ..Default::default() };
    let request = prost::Message::encode_to_vec(&request);
    let message = [&[0][..], &(request.len() as u32).to_be_bytes(), &request].concat();
    let mut bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..]].concat();
    for call in 0..CALLS {
        let stream = 1 + 2 * call;
        bytes.extend(frame(1, 4, stream, &headers.concat()));
        bytes.extend(frame(0, 1, stream, &message));
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
