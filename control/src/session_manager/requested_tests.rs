use super::*;
use prost::Message;
use proto::gateway::v1;

/// A small generator (splitmix64), so that a failure can be repeated by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Of any size, so that varints of all lengths come.
    fn number(&mut self) -> u64 {
        let bits = self.below(64);
        self.next() >> bits
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = [0, 1, 4, 6, 16, 200][self.below(6) as usize];
        (0..length).map(|_| self.next() as u8).collect()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(4) > 0).then(|| make(self))
    }

    fn tuple(&mut self) -> v1::Tuple {
        v1::Tuple {
            source: self.bytes().into(),
            destination: self.bytes().into(),
            source_port: self.number() as u32,
            destination_port: self.number() as u32,
        }
    }

    fn macs(&mut self) -> v1::MacPair {
        v1::MacPair { source: self.bytes().into(), destination: self.bytes().into() }
    }

    fn session(&mut self) -> v1::Session {
        v1::Session {
            session_id: self.number(),
            in_lif: self.number() as u32,
            out_lif: self.number() as u32,
            protocol: self.number() as u32,
            original: self.maybe(Self::tuple),
            translated: self.maybe(Self::tuple),
            l2: self.maybe(|random| v1::L2 {
                forward: random.maybe(Self::macs),
                reverse: random.maybe(Self::macs),
            }),
            action: self.number() as i32,
            collector: self.bytes().into(),
            idle_timeout: self.number() as u32,
            hard_timeout: self.number() as u32,
            limit: self.maybe(|random| v1::RateLimit {
                packets: random.number() as u32,
                bytes: random.number(),
                burst_ms: random.number() as u32,
            }),
            owner: ["", "unix", "größe"][self.below(3) as usize].to_owned(),
        }
    }
}

/// What is read is what prost decodes; whether anything was.
fn agrees(wire: &[u8]) -> bool {
    let Some(session) = Requested::read(wire) else { return false };
    let decoded = v1::Session::decode(wire).unwrap_or_else(|error| panic!("{wire:02x?}: {error}"));
    assert_eq!(session, Requested::from(&decoded), "{wire:02x?}");
    true
}

#[test]
fn what_encoders_write_is_read_as_prost_reads_it() {
    for seed in 0..20_000 {
        let session = Random(seed).session();
        let read = agrees(&session.encode_to_vec());
        // A negative enum value is left to prost.
        assert!(read || session.action < 0, "seed {seed}: {session:?}");
    }
}

#[test]
fn what_is_damaged_is_read_as_prost_reads_it_or_left_to_it() {
    let mut read = 0;
    for seed in 0..200_000 {
        let mut random = Random(seed);
        let mut wire = random.session().encode_to_vec();
        for _ in 0..=random.below(3) {
            let at = random.below(wire.len() as u64 + 1) as usize;
            match random.below(4) {
                0 => wire.truncate(at),
                1 => wire.insert(at, random.next() as u8),
                2 if at < wire.len() => drop(wire.remove(at)),
                _ if at < wire.len() => wire[at] = random.next() as u8,
                _ => {}
            }
        }
        read += u32::from(agrees(&wire));
    }
    assert!(read > 10_000, "only {read} could be read: this tests little");
}

#[test]
fn what_encoders_do_not_write_is_left_to_prost() {
    let valid = v1::Session { session_id: 7, in_lif: 1, ..Default::default() }.encode_to_vec();
    assert!(agrees(&valid));
    let with = |more: &[u8]| [&valid[..], more].concat();
    for (what, wire) in [
        ("a field twice", with(&[0x10, 2])),
        ("fields out of order", with(&[0x08, 2])),
        ("a field not known here", with(&[0x70, 1])),
        ("a field number above 15", with(&[0x80, 0x01, 1])),
        ("a varint of eleven bytes", with(&[0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1])),
        ("a varint beyond 64 bits", with(&[0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2])),
        ("a LIF beyond 32 bits", with(&[0x18, 255, 255, 255, 255, 255, 1])),
        ("another wire type", with(&[0x1d, 0, 0, 0, 0])),
        ("a length beyond the end", with(&[0x2a, 5, 0])),
        ("an owner that is no UTF-8", with(&[0x6a, 1, 0xff])),
        ("a key without a value", with(&[0x18])),
    ] {
        assert_eq!(Requested::read(&wire), None, "{what}");
    }
}
