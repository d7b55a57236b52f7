//! The thread that looks after the session table.

use crate::{Clock, ClosedLog};
use conntrack::SessionTable;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Pause between turns while sessions close.
const SHORTEST: Duration = Duration::from_millis(1);
/// Pause when none has for a while. To wake up costs up to 35 µs of a core, which others have work for; and a table has slots
/// to spare for what is removed until the next turn (8192, so 1.6 million a second).
const LONGEST: Duration = Duration::from_millis(5);
/// Sessions a turn handles at most.
const BUDGET: usize = 4096;

/// Calls [`SessionTable::maintain`] each millisecond while sessions close, each five while none does, and reports what has closed. Dropping it makes a last turn and
/// ends the thread.
pub struct Housekeeper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Housekeeper {
    /// Starts the thread; the error is the system's when it gives none.
    pub fn start(table: Arc<SessionTable>, clock: Clock, closed: Arc<ClosedLog>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new()
            .name("housekeeper".to_owned())
            .spawn(move || run(&table, &clock, &closed, &stopped))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Housekeeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the housekeeper thread panicked");
            }
        }
    }
}

fn run(table: &SessionTable, clock: &Clock, log: &ClosedLog, stop: &AtomicBool) {
    let mut closed = Vec::with_capacity(BUDGET);
    let mut pause = SHORTEST;
    loop {
        let last = stop.load(Ordering::Acquire);
        // Reported after the turn, so that no lock of the log is taken under one of the table.
        let work = table.maintain(clock.now(), BUDGET, &mut |record| closed.push(*record));
        log.report(&closed);
        closed.clear();
        if work.more {
            continue;
        }
        if last {
            return;
        }
        pause = if work.closed > 0 { SHORTEST } else { LONGEST.min(pause * 2) };
        thread::park_timeout(pause);
    }
}
