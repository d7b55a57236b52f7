//! Sessions that come and go under load.

use crate::common::{add, drain};
use crate::device::{Device, Flow, Segment};
use proto::gateway::v1::DeleteSessionsRequest;
use proto::openoffload::v2::{SessionCloseCode, SessionResponse};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SESSIONS: u32 = 64;
const ROUNDS: usize = 40;

/// Both workers forward while every session is removed and installed again, over and over: the reports have exactly what was
/// forwarded, each way, packets and bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_are_exact_under_load_with_two_workers() {
    let Device { gateway, pipeline, workers } = Device::start().await;
    let flows: Vec<_> =
        (1..=SESSIONS).map(|n| if n % 2 == 0 { Flow::udp(n) } else { Flow::tcp(n).v6() }).collect();
    let data = Segment::Data(b"payload");
    let frames = [
        flows.iter().map(|flow| flow.there(data)).collect::<Vec<_>>(),
        flows.iter().map(|flow| flow.back(data)).collect(),
    ];
    let stop = AtomicBool::new(false);
    let [mut first, mut second] = workers;
    let run = |worker: &mut crate::device::Lane, frames: &[Vec<u8>]| {
        let mut forwarded = 0;
        while !stop.load(Ordering::Relaxed) {
            for burst in frames.chunks(pipeline::BURST) {
                let burst: Vec<_> = burst.iter().map(Vec::as_slice).collect();
                forwarded += worker.forwarded(&burst);
            }
        }
        forwarded
    };
    let (forwarded, mut records) = std::thread::scope(|scope| {
        let threads =
            [scope.spawn(|| run(&mut first, &frames[0])), scope.spawn(|| run(&mut second, &frames[1]))];
        let records = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let (mut v1, mut v2) = (gateway.v1().await, gateway.v2().await);
                let mut records = Vec::new();
                for _ in 0..ROUNDS {
                    add(&mut v2, flows.iter().map(|flow| flow.request()).collect::<Vec<_>>()).await;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    let session_ids = flows.iter().map(|flow| flow.n.into()).collect();
                    let deleted = v1.delete_sessions(DeleteSessionsRequest { session_ids }).await;
                    assert_eq!(deleted.expect("call").into_inner().closed.len(), flows.len());
                    records.extend(drain(&mut v2).await);
                }
                stop.store(true, Ordering::Relaxed);
                records
            })
        });
        (threads.map(|thread| thread.join().expect("worker")), records)
    });
    for _ in 0..400 {
        if records.len() == ROUNDS * flows.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        records.extend(drain(&mut gateway.v2().await).await);
    }
    assert_eq!(records.len(), ROUNDS * flows.len(), "each once");
    assert!(records.iter().all(|record| record.session_close_code() == SessionCloseCode::UnknownCloseCode));
    let sum = |of: fn(&SessionResponse) -> u64| records.iter().map(of).sum::<u64>();
    assert_eq!([sum(|r| r.in_packets), sum(|r| r.out_packets)], forwarded);
    assert!(forwarded.iter().all(|&packets| packets > 1000), "{forwarded:?}");
    let snapshot = pipeline.snapshot();
    assert!(snapshot.other.contains(&("established", forwarded.iter().sum())));
    let sent: u64 = snapshot.lifs.iter().map(|lif| lif.tx_bytes).sum();
    assert_eq!(sum(|r| r.in_bytes) + sum(|r| r.out_bytes), sent, "bytes of the tenants' frames");
}
