//! A session of gateway.v1 as a client asks for it: where its fields are, in a message or still on the wire.
//!
//! Clients send sessions by the thousand. [`Requested::read`] takes one from its bytes as encoders write it: fields in the
//! order of their numbers, each once at most, no unknown ones. Protobuf allows more than that; what is otherwise is left to
//! prost, which knows all of it, so that `read` either says what prost would say, or nothing.

use proto::gateway::v1;

/// `gateway.v1.Session`, borrowed. The owner is the gateway's to say, and not looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requested<'a> {
    pub(super) session_id: u64,
    pub(super) in_lif: u32,
    pub(super) out_lif: u32,
    pub(super) protocol: u32,
    pub(super) original: Option<Tuple<'a>>,
    pub(super) translated: Option<Tuple<'a>>,
    pub(super) l2: Option<L2<'a>>,
    pub(super) action: i32,
    pub(super) collector: &'a [u8],
    pub(super) idle_timeout: u32,
    pub(super) hard_timeout: u32,
    pub(super) limit: Option<v1::RateLimit>,
}

/// `gateway.v1.Tuple`, borrowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tuple<'a> {
    pub(super) source: &'a [u8],
    pub(super) destination: &'a [u8],
    pub(super) source_port: u32,
    pub(super) destination_port: u32,
}

/// `gateway.v1.L2`, borrowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct L2<'a> {
    pub(super) forward: Option<MacPair<'a>>,
    pub(super) reverse: Option<MacPair<'a>>,
}

/// `gateway.v1.MacPair`, borrowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MacPair<'a> {
    pub(super) source: &'a [u8],
    pub(super) destination: &'a [u8],
}

impl<'a> From<&'a v1::Session> for Requested<'a> {
    fn from(session: &'a v1::Session) -> Self {
        let tuple = |tuple: &'a v1::Tuple| Tuple {
            source: &tuple.source,
            destination: &tuple.destination,
            source_port: tuple.source_port,
            destination_port: tuple.destination_port,
        };
        let pair = |pair: &'a v1::MacPair| MacPair { source: &pair.source, destination: &pair.destination };
        Self {
            session_id: session.session_id,
            in_lif: session.in_lif,
            out_lif: session.out_lif,
            protocol: session.protocol,
            original: session.original.as_ref().map(tuple),
            translated: session.translated.as_ref().map(tuple),
            l2: session.l2.as_ref().map(|l2| L2 {
                forward: l2.forward.as_ref().map(pair),
                reverse: l2.reverse.as_ref().map(pair),
            }),
            action: session.action,
            collector: &session.collector,
            idle_timeout: session.idle_timeout,
            hard_timeout: session.hard_timeout,
            limit: session.limit,
        }
    }
}

impl<'a> Requested<'a> {
    /// From the bytes of a message; None if they are not in the common shape, or no message at all.
    pub fn read(wire: &'a [u8]) -> Option<Self> {
        let mut session = Self::default();
        let mut fields = Fields::of(wire);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Number(id)) => session.session_id = id,
                (2, Value::Number(lif)) => session.in_lif = u32::try_from(lif).ok()?,
                (3, Value::Number(lif)) => session.out_lif = u32::try_from(lif).ok()?,
                (4, Value::Number(protocol)) => session.protocol = u32::try_from(protocol).ok()?,
                (5, Value::Bytes(wire)) => session.original = Some(Tuple::read(wire)?),
                (6, Value::Bytes(wire)) => session.translated = Some(Tuple::read(wire)?),
                (7, Value::Bytes(wire)) => session.l2 = Some(L2::read(wire)?),
                (8, Value::Number(action)) => session.action = i32::try_from(action).ok()?,
                (9, Value::Bytes(collector)) => session.collector = collector,
                (10, Value::Number(seconds)) => session.idle_timeout = u32::try_from(seconds).ok()?,
                (11, Value::Number(seconds)) => session.hard_timeout = u32::try_from(seconds).ok()?,
                (12, Value::Bytes(wire)) => session.limit = Some(limit(wire)?),
                (13, Value::Bytes(owner)) => drop(std::str::from_utf8(owner).ok()?),
                _ => return None,
            }
        }
        Some(session)
    }
}

impl<'a> Tuple<'a> {
    fn read(wire: &'a [u8]) -> Option<Self> {
        let mut tuple = Self::default();
        let mut fields = Fields::of(wire);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(address)) => tuple.source = address,
                (2, Value::Bytes(address)) => tuple.destination = address,
                (3, Value::Number(port)) => tuple.source_port = u32::try_from(port).ok()?,
                (4, Value::Number(port)) => tuple.destination_port = u32::try_from(port).ok()?,
                _ => return None,
            }
        }
        Some(tuple)
    }
}

impl<'a> L2<'a> {
    fn read(wire: &'a [u8]) -> Option<Self> {
        let mut l2 = Self::default();
        let mut fields = Fields::of(wire);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(wire)) => l2.forward = Some(MacPair::read(wire)?),
                (2, Value::Bytes(wire)) => l2.reverse = Some(MacPair::read(wire)?),
                _ => return None,
            }
        }
        Some(l2)
    }
}

impl<'a> MacPair<'a> {
    fn read(wire: &'a [u8]) -> Option<Self> {
        let mut pair = Self::default();
        let mut fields = Fields::of(wire);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(mac)) => pair.source = mac,
                (2, Value::Bytes(mac)) => pair.destination = mac,
                _ => return None,
            }
        }
        Some(pair)
    }
}

fn limit(wire: &[u8]) -> Option<v1::RateLimit> {
    let mut limit = v1::RateLimit::default();
    let mut fields = Fields::of(wire);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Number(packets)) => limit.packets = u32::try_from(packets).ok()?,
            (2, Value::Number(bytes)) => limit.bytes = bytes,
            (3, Value::Number(ms)) => limit.burst_ms = u32::try_from(ms).ok()?,
            _ => return None,
        }
    }
    Some(limit)
}

/// A field's value: wire types 0 and 2, the only ones here.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in the order of their numbers, which are 1 to 15.
struct Fields<'a> {
    rest: &'a [u8],
    last: u8,
}

impl<'a> Fields<'a> {
    fn of(wire: &'a [u8]) -> Self {
        Self { rest: wire, last: 0 }
    }

    /// Number and value of the next field, `Some(None)` behind the last; None where the shape is another.
    #[expect(clippy::option_option, reason = "the end is not the same as what cannot be read")]
    fn next(&mut self) -> Option<Option<(u8, Value<'a>)>> {
        let Some((&key, rest)) = self.rest.split_first() else { return Some(None) };
        self.rest = rest;
        let number = key >> 3;
        if number <= self.last || number > 15 {
            return None;
        }
        self.last = number;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.rest.split_at_checked(length)?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            _ => return None,
        };
        Some(Some((number, value)))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (index, &byte) in self.rest.iter().enumerate().take(10) {
            // The tenth byte has room for the 64th bit only.
            if index == 9 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
#[path = "requested_tests.rs"]
mod tests;
