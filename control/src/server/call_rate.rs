//! How many calls a connection may begin in a second.

use super::connection::Peer;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use tonic::{Request, Status};

const SECOND: u64 = 1_000_000_000;

/// One connection's token bucket: it holds a second's worth and is full at first. Its state is the time at which it would be
/// full again, in nanoseconds since the connection began.
#[derive(Debug)]
pub(super) struct Bucket {
    since: Instant,
    full_at: AtomicU64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { since: Instant::now(), full_at: AtomicU64::new(0) }
    }
}

impl Bucket {
    fn take(&self, per_second: u32) -> bool {
        self.take_at(u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX / 2), per_second)
    }

    fn take_at(&self, now: u64, per_second: u32) -> bool {
        let interval = SECOND / u64::from(per_second.max(1));
        let next = |full_at: u64| Some(full_at.max(now) + interval).filter(|&next| next <= now + SECOND);
        self.full_at.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

/// Lets a call begin, or not.
#[derive(Clone)]
pub(super) struct CallRate {
    pub(super) per_second: u32,
    pub(super) refused: Arc<AtomicU64>,
}

impl tonic::service::Interceptor for CallRate {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let peer = request.extensions().get::<Peer>();
        if peer.is_none_or(|peer| peer.calls().take(self.per_second)) {
            return Ok(request);
        }
        self.refused.fetch_add(1, Relaxed);
        Err(Status::resource_exhausted(format!(
            "more than {} calls a second: put more into each, or wait",
            self.per_second
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_saved_up_and_no_more() {
        let bucket = Bucket::default();
        let passed = |now| (0..100).filter(|_| bucket.take_at(now, 10)).count();
        assert_eq!((passed(5), passed(5 + SECOND / 2), passed(9 * SECOND)), (10, 5, 10));
    }
}
