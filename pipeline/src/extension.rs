//! IPv6 extension headers (RFC 8200 section 4), as far as they can be stepped over.

use crate::wire::ipv6::Extension;
use crate::wire::{protocol, view_at};

/// More than any sane packet has.
const MOST: usize = 8;

/// Where the chain leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// To this protocol at this offset.
    Upper(u8, usize),
    /// Nowhere: a header is cut short.
    Malformed,
    /// To something only a full stack can treat: a fragment, a source route, options out of place, too many headers.
    Exception,
}

/// Walks the chain that begins with header `next` at `offset`; the packet ends at `end`.
#[inline]
pub fn walk(head: &[u8], mut next: u8, mut offset: usize, end: usize) -> Walk {
    let first = offset;
    for _ in 0..MOST {
        match next {
            protocol::FRAGMENT => return Walk::Exception,
            protocol::HOP_BY_HOP if offset != first => return Walk::Exception,
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {}
            upper => return Walk::Upper(upper, offset),
        }
        let Some(header) = view_at::<Extension>(head, offset) else { return Walk::Malformed };
        if next == protocol::ROUTING && header.segments_left != 0 {
            return Walk::Exception;
        }
        offset += (usize::from(header.len) + 1) * 8;
        if offset > end {
            return Walk::Malformed;
        }
        next = header.next_header;
    }
    Walk::Exception
}
