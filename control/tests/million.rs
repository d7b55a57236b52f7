//! As many sessions as a gateway holds: streamed in, then listed while others come and go.
//!
//! `OPENOFFLOAD_TEST_SESSIONS=1000000` makes it a million.

mod common;

use common::{Gateway, Setup, add, session};
use proto::gateway::v1::{DeleteSessionsRequest, ListSessionsRequest};
use proto::openoffload::v2::{AddSessionStatus, SessionRequestArgs, SessionResponses};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Sessions of one round of coming and going.
const ROUND: u32 = 500;

fn sessions() -> u32 {
    let set = std::env::var("OPENOFFLOAD_TEST_SESSIONS");
    set.map_or(200_000, |n| n.parse().expect("OPENOFFLOAD_TEST_SESSIONS is a number"))
}

/// Sessions behind the first `stay` that come and go until this is stopped.
struct Churn {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Churn {
    async fn start(gateway: &Gateway, stay: u32) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (mut v2, mut v1) = (gateway.v2().await, gateway.v1().await);
        let (stopped, count) = (stop.clone(), rounds.clone());
        let task = tokio::spawn(async move {
            let mut first = stay + 1;
            while !stopped.load(Ordering::Relaxed) {
                let added = add(&mut v2, (first..first + ROUND).map(session)).await;
                assert_eq!(added.request_status(), AddSessionStatus::SessionAccepted);
                let session_ids = (first..first + ROUND).map(u64::from).collect();
                let deleted = v1.delete_sessions(DeleteSessionsRequest { session_ids }).await.expect("call");
                assert_eq!(deleted.get_ref().closed.len(), ROUND as usize);
                first += ROUND;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, rounds, task }
    }

    /// Stops; something must have come and gone, or nothing was tested.
    async fn end(self) {
        while self.rounds.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("comes and goes");
    }
}

/// Which of the sessions that stay were seen, and that none was twice.
struct Seen(Vec<bool>);

impl Seen {
    fn new(stay: u32) -> Self {
        Self(vec![false; stay as usize])
    }

    fn see(&mut self, id: u64) {
        if let Some(seen) = self.0.get_mut(id as usize - 1) {
            assert!(!std::mem::replace(seen, true), "session {id} was listed twice");
        }
    }

    fn page(&mut self, page: &SessionResponses) {
        page.session_info.iter().for_each(|info| self.see(info.session_id));
    }

    fn complete(self, by: &str) {
        let missing = self.0.iter().filter(|seen| !**seen).count();
        assert_eq!(missing, 0, "sessions not listed by {by}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stream_then_listed_while_others_come_and_go() {
    let stay = sessions();
    let gateway = Setup { capacity: stay + 4 * ROUND, log: 1000, ..Default::default() }.start().await;
    let mut client = gateway.v2().await;
    let begun = Instant::now();
    let added = add(&mut client, (1..=stay).map(session)).await;
    println!("{stay} sessions in one stream: {:?}", begun.elapsed());
    assert_eq!(added.request_status(), AddSessionStatus::SessionAccepted);
    assert_eq!((added.error_status, added.response_error.len()), (0, 0));
    assert_eq!(gateway.handles.table.stats().active, u64::from(stay));

    // The client takes messages of 4 MiB at most, so that a longer one fails the call.
    let churn = Churn::start(&gateway, stay).await;
    let (mut seen, mut start_session) = (Seen::new(stay), 0);
    let begun = Instant::now();
    loop {
        let args = SessionRequestArgs { start_session, ..Default::default() };
        let page = client.get_all_sessions(args).await.expect("under 4 MiB").into_inner();
        seen.page(&page);
        start_session = page.next_key;
        if start_session == 0 {
            break;
        }
    }
    println!("listed by cursor while others come and go: {:?}", begun.elapsed());
    seen.complete("cursor");

    let mut seen = Seen::new(stay);
    for page in 1.. {
        let args = SessionRequestArgs { page_size: 10_000, page, start_session: 0 };
        let page = client.get_all_sessions(args).await.expect("under 4 MiB").into_inner();
        seen.page(&page);
        if page.next_key == 0 {
            break;
        }
    }
    seen.complete("page");

    let (mut seen, mut cursor, mut v1) = (Seen::new(stay), 0, gateway.v1().await);
    loop {
        let request = ListSessionsRequest { cursor, limit: u32::MAX, filter: None };
        let page = v1.list_sessions(request).await.expect("under 4 MiB").into_inner();
        page.sessions.iter().filter_map(|info| info.session.as_ref()).for_each(|s| seen.see(s.session_id));
        cursor = page.next_cursor;
        if cursor == 0 {
            break;
        }
    }
    seen.complete("gateway.v1 cursor");
    churn.end().await;
}

/// The last session fits, the next does not, and the call succeeds all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_at_exactly_the_capacity() {
    let capacity = sessions() / 2;
    let gateway = Setup { capacity, ..Default::default() }.start().await;
    let added = add(&mut gateway.v2().await, (1..=capacity + 65).map(session)).await;
    assert_eq!(added.request_status(), AddSessionStatus::SessionTableFull);
    let refused: Vec<_> = added.response_error.iter().map(|error| error.session_id).collect();
    assert_eq!(refused, (u64::from(capacity) + 1..=u64::from(capacity) + 65).collect::<Vec<_>>());
    let full = i32::from(AddSessionStatus::SessionTableFull);
    assert!(added.response_error.iter().all(|error| error.error_status == full));
    assert_eq!(gateway.handles.table.stats().active, u64::from(capacity));
}
