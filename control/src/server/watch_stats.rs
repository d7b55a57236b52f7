//! The stream of statistics.

use super::admission::Shared;
use proto::gateway::v1::{Stats, StatsEvent};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// If the client does not say, in milliseconds.
const DEFAULT: u32 = 1000;

/// The interval of a request.
pub(super) fn interval(milliseconds: u32) -> Result<Duration, Status> {
    match milliseconds {
        0 => Ok(Duration::from_millis(DEFAULT.into())),
        100..=3_600_000 => Ok(Duration::from_millis(milliseconds.into())),
        _ => Err(Status::invalid_argument("interval_ms: 100 to 3600000 milliseconds, or 0 for 1000")),
    }
}

/// Sends statistics each `interval` until the reader goes, or the server stops. One that finds the last still waiting is
/// left out and counted.
pub(super) async fn watch(shared: Arc<Shared>, interval: Duration, to: Sender<Result<StatsEvent, Status>>) {
    each(interval, &to, &shared.stop, || shared.stats()).await;
}

async fn each(
    interval: Duration,
    to: &Sender<Result<StatsEvent, Status>>,
    stop: &CancellationToken,
    stats: impl Fn() -> Stats,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut missed = 0;
    loop {
        tokio::select! {
            () = to.closed() => return,
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        match to.try_reserve() {
            Ok(slot) => {
                slot.send(Ok(StatsEvent { stats: Some(stats()), missed }));
                missed = 0;
            }
            Err(TrySendError::Full(())) => missed += 1,
            Err(TrySendError::Closed(())) => return,
        }
    }
    // A reader that does not take even this one finds the connection closed.
    let _ = to.try_send(Err(Status::unavailable("the gateway shuts down")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn a_slow_reader_gets_the_newest_and_is_told_what_it_missed() {
        let (to, mut from) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let period = Duration::from_millis(5);
        let end = stop.clone();
        let task = tokio::spawn(async move { each(period, &to, &end, Stats::default).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        let next = |event: Option<Result<StatsEvent, Status>>| event.expect("open").expect("event");
        assert_eq!(next(from.recv().await).missed, 0, "made before any was missed");
        let missed = next(from.recv().await).missed;
        assert!((1..=40).contains(&missed), "{missed} of about 39");
        stop.cancel();
        task.await.expect("ends");
    }
}
