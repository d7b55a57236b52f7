//! Listing: bounded pieces of the table, by cursor or by page.

use crate::session_manager::Filter;
use conntrack::{SessionInfo, SessionTable};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Sessions taken from the table between two pauses.
const CHUNK: usize = 1024;
/// Sessions looked at for one answer that is filtered: a fraction of a second's work.
const MOST_SEARCHED: usize = 1 << 18;
/// Pages a connection remembers.
const REMEMBERED: usize = 16;

/// Where the pages start that a connection is likely to ask for next: its walk over the pages is then as steady as one by
/// cursor, and costs no more.
#[derive(Default)]
pub(super) struct Pages(Mutex<VecDeque<Page>>);

#[derive(Clone, Copy)]
struct Page {
    size: u32,
    number: u32,
    /// 0: behind the last session.
    cursor: u64,
}

impl Pages {
    /// The cursor of a page; 0 if it lies behind the end.
    pub(super) fn find(&self, size: u32, number: u32) -> Option<u64> {
        let pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pages.iter().find(|page| (page.size, page.number) == (size, number)).map(|page| page.cursor)
    }

    pub(super) fn remember(&self, size: u32, number: u32, cursor: u64) {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pages.retain(|page| (page.size, page.number) != (size, number));
        if pages.len() >= REMEMBERED {
            pages.pop_front();
        }
        pages.push_back(Page { size, number, cursor });
    }
}

/// At most `limit` sessions from `cursor` on, and the cursor to go on from: 0 if there are no more.
pub(super) async fn list(table: &SessionTable, mut cursor: u64, limit: usize) -> (Vec<SessionInfo>, u64) {
    let mut sessions = Vec::new();
    while sessions.len() < limit {
        let want = CHUNK.min(limit - sessions.len());
        cursor = table.list(cursor, want, &mut sessions);
        if cursor == 0 {
            return (sessions, 0);
        }
        tokio::task::yield_now().await;
    }
    if has_more(table, cursor).await { (sessions, cursor) } else { (sessions, 0) }
}

/// At most `limit` sessions that pass `filter`, of a bounded number from `cursor` on, and the cursor to go on from.
pub(super) async fn search(
    table: &SessionTable,
    mut cursor: u64,
    limit: usize,
    filter: &Filter,
) -> (Vec<SessionInfo>, u64) {
    let (mut found, mut searched) = (Vec::new(), 0);
    while found.len() < limit && searched < MOST_SEARCHED {
        let (want, from) = (CHUNK.min(limit - found.len()), found.len());
        cursor = table.list(cursor, want, &mut found);
        searched += found.len() - from;
        let mut at = 0;
        found.retain(|info| {
            at += 1;
            at <= from || filter.passes(info)
        });
        if cursor == 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    (found, cursor)
}

/// The cursor behind the first `count` sessions; 0 if there are no more.
pub(super) async fn skip(table: &SessionTable, mut count: u64) -> u64 {
    let mut cursor = 0;
    let mut sessions = Vec::new();
    while count > 0 {
        let want = usize::try_from(count).unwrap_or(CHUNK).min(CHUNK);
        cursor = table.list(cursor, want, &mut sessions);
        count -= sessions.len() as u64;
        sessions.clear();
        if cursor == 0 {
            return 0;
        }
        tokio::task::yield_now().await;
    }
    cursor
}

async fn has_more(table: &SessionTable, mut cursor: u64) -> bool {
    let mut probe = Vec::new();
    while cursor != 0 && probe.is_empty() {
        cursor = table.list(cursor, 1, &mut probe);
        tokio::task::yield_now().await;
    }
    !probe.is_empty()
}
