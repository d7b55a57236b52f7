//! Ownership of packet buffers and what is done to them.

mod common;

use arrayvec::ArrayVec;
use dpdk::{Mbuf, Mempool, PoolOptions, free_burst};

#[test]
fn mbufs() {
    let eal = common::eal();
    let pool = common::pool(&eal, "mbuf");
    let checks: [fn(&Mempool); 13] = [
        every_buffer_comes_back,
        a_pool_runs_dry,
        front,
        in_front,
        back,
        chains,
        trimming_a_chain,
        shared_bytes_are_protected_and_headers_are_not,
        what_cannot_be_shared_is_copied,
        shared_chains,
        buffers_come_back_in_whatever_order,
        copies_are_independent,
        metadata_is_reset,
    ];
    for check in checks {
        check(&pool);
        assert_eq!(pool.in_use(), 0, "buffers leaked");
        assert_eq!(pool.available(), pool.capacity());
    }
    let tiny = PoolOptions { name: "tiny", count: 63, cache: 0, data_room: 256, ..PoolOptions::default() };
    let tiny = Mempool::new(&eal, &tiny).unwrap();
    sharing_across_pools(&pool, &tiny);

    let same = Mempool::new(&eal, &PoolOptions { name: "mbuf", ..PoolOptions::default() });
    assert!(same.unwrap_err().to_string().contains("mempool mbuf of 8191 buffers: File exists"));
    let huge = Mempool::new(&eal, &PoolOptions { name: "huge", count: 10_000_000, ..PoolOptions::default() });
    assert!(huge.unwrap_err().to_string().contains("Cannot allocate memory"));
}

fn packet(pool: &Mempool, bytes: &[u8]) -> Mbuf {
    Mbuf::from_slice(pool, bytes).expect("the pool has buffers")
}

fn content(packet: &Mbuf) -> Vec<u8> {
    packet.segments().flatten().copied().collect()
}

fn numbers(len: usize) -> Vec<u8> {
    (0..len).map(|n| n as u8).collect()
}

/// What is known beforehand of a packet's start: bytes taken out, an array put before it or over its first bytes.
fn in_front(pool: &Mempool) {
    let bytes = numbers(1500);
    let mut packet = packet(pool, &bytes);
    assert!(packet.cut::<12, 4>());
    assert_eq!(content(&packet), [&bytes[..12], &bytes[16..]].concat());
    packet.replace_front::<1, 5>().unwrap().copy_from_slice(&[0xee, 0xee, 0xee, 0xee, 0xdd]);
    assert_eq!(content(&packet), [&[0xee; 4][..], &[0xdd], &bytes[1..12], &bytes[16..]].concat());
    packet.replace_front::<2, 2>().unwrap().fill(0xff);
    assert_eq!(content(&packet), [&[0xff, 0xff, 0xee, 0xee, 0xdd], &bytes[1..12], &bytes[16..]].concat());
    let before = content(&packet);
    assert!(packet.replace_front::<0, 129>().is_none(), "128 bytes of headroom");
    assert!(packet.replace_front::<1501, 1501>().is_none(), "1500 bytes");
    assert_eq!(content(&packet), before);

    // Also of what others share, as long as it is the packet's own.
    let copy = Mbuf::share(pool, &packet, 64).unwrap();
    let before = content(&copy);
    assert!(packet.cut::<12, 4>());
    packet.replace_front::<12, 66>().unwrap().fill(0xcc);
    assert_eq!(content(&packet), [&[0xcc; 66][..], &before[16..]].concat());
    assert_eq!(content(&copy), before);
    assert!(packet.replace_front::<320, 320>().is_none(), "of which the last are shared");
    assert!(packet.adj(400) && !packet.cut::<12, 4>() && packet.replace_front::<0, 1>().is_none(), "shared");
    assert_eq!(content(&copy), before);

    let mut short = self::packet(pool, &bytes[..15]);
    assert!(!short.cut::<12, 4>() && short.replace_front::<16, 20>().is_none());
    assert_eq!(content(&short), &bytes[..15]);
}

fn every_buffer_comes_back(pool: &Mempool) {
    let one = pool.alloc().unwrap();
    assert_eq!((one.pkt_len(), one.nb_segs(), one.headroom()), (0, 1, 128));
    assert_eq!(pool.in_use(), 1);
    let mut burst = ArrayVec::<Mbuf, 64>::new();
    assert!(pool.alloc_bulk(40, &mut burst));
    assert!(!pool.alloc_bulk(25, &mut burst), "only 24 slots are free");
    assert_eq!((burst.len(), pool.in_use()), (40, 41));
    burst.truncate(30);
    assert_eq!(pool.in_use(), 31);
    free_burst(&mut burst);
    assert_eq!((burst.len(), pool.in_use()), (0, 1));
    std::thread::spawn(move || drop(one)).join().unwrap();
}

fn a_pool_runs_dry(pool: &Mempool) {
    let mut all: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
    assert!(all.len() as u32 <= pool.capacity() && all.len() as u32 >= pool.capacity() - 32);
    assert!(pool.alloc().is_none());
    let mut burst = ArrayVec::<Mbuf, 64>::new();
    assert!(!pool.alloc_bulk(64, &mut burst) && burst.is_empty());
    assert!(Mbuf::from_slice(pool, b"x").is_none());
    let last = all.pop().unwrap();
    assert!(Mbuf::share(pool, &last, 0).is_none() && Mbuf::copy_from(pool, &last).is_none());
    drop(last);
    let mut original = packet(pool, &numbers(1000));
    drop(all.pop());
    assert!(Mbuf::share(pool, &original, 64).is_none(), "one buffer, and it takes two");
    assert!(original.refcnt() == 1 && original.data_mut().is_some(), "nothing is left of the attempt");
}

fn front(pool: &Mempool) {
    let mut packet = packet(pool, &numbers(100));
    assert!(!packet.adj(101));
    assert_eq!(packet.pkt_len(), 100);
    assert!(packet.adj(14));
    assert_eq!((packet.data()[0], packet.pkt_len(), packet.headroom()), (14, 86, 142));
    assert!(packet.prepend(143).is_none());
    packet.prepend(142).unwrap().fill(0xaa);
    assert_eq!((packet.headroom(), packet.data_len(), packet.pkt_len()), (0, 228, 228));
    assert_eq!((packet.data()[141], packet.data()[142]), (0xaa, 14));
    assert!(packet.prepend(1).is_none());
    assert_eq!(packet.prepend(0).unwrap().len(), 0);
    assert!(packet.adj(228) && packet.data().is_empty() && packet.pkt_len() == 0);
    assert!(!packet.adj(1));
}

fn back(pool: &Mempool) {
    let mut packet = packet(pool, &numbers(10));
    let room = packet.tailroom();
    assert_eq!(room, 2048 - 10);
    assert!(packet.append(room + 1).is_none());
    packet.append(room).unwrap().fill(7);
    assert_eq!((packet.tailroom(), packet.pkt_len(), packet.data()[9], packet.data()[10]), (0, 2048, 9, 7));
    assert!(packet.append(1).is_none());
    assert!(!packet.trim(2049));
    assert!(packet.trim(2043));
    assert_eq!(packet.data(), &[0, 1, 2, 3, 4]);
    assert!(packet.trim(5) && packet.pkt_len() == 0 && packet.trim(0) && !packet.trim(1));
}

fn chains(pool: &Mempool) {
    let bytes = numbers(9000);
    let mut jumbo = packet(pool, &bytes);
    assert_eq!((jumbo.nb_segs(), jumbo.pkt_len(), jumbo.data_len(), pool.in_use()), (5, 9000, 2048, 5));
    assert_eq!(content(&jumbo), bytes);
    assert!(!jumbo.adj(2049), "front operations stay in the first segment");
    assert!(jumbo.adj(2048) && jumbo.data().is_empty());
    assert_eq!(content(&jumbo), bytes[2048..]);
    jumbo.append(3).unwrap().copy_from_slice(b"end");
    assert!(content(&jumbo).ends_with(b"end"));
    assert!(!jumbo.linearize(), "6955 bytes do not fit one segment");
    assert_eq!(jumbo.nb_segs(), 5);

    let mut short = packet(pool, b"one");
    short.chain(packet(pool, b"two")).unwrap();
    short.chain(packet(pool, b"three")).unwrap();
    assert!(short.nb_segs() == 3 && short.linearize());
    assert_eq!((short.nb_segs(), short.data()), (1, b"onetwothree".as_slice()));
}

fn trimming_a_chain(pool: &Mempool) {
    let bytes = numbers(3 * 2048);
    for cut in [0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 6143, 6144] {
        let mut chain = packet(pool, &bytes);
        assert!(!chain.trim(6145));
        assert!(chain.trim(cut));
        assert_eq!(content(&chain), bytes[..6144 - cut]);
        let segments = (6144 - cut).div_ceil(2048).max(1);
        assert_eq!((chain.nb_segs(), pool.in_use() as usize), (segments, segments), "cut {cut}");
    }
}

fn shared_bytes_are_protected_and_headers_are_not(pool: &Mempool) {
    let bytes = numbers(1500);
    let mut original = packet(pool, &bytes);
    let mut copy = Mbuf::share(pool, &original, 200).unwrap();
    assert_eq!(
        (original.refcnt(), pool.in_use()),
        (2, 3),
        "the original, the copy's headers, and its link to the rest"
    );
    assert_eq!((copy.nb_segs(), copy.data_len(), copy.pkt_len()), (2, 256, 1500));
    assert_eq!(content(&copy), bytes);
    assert!(!original.is_exclusive() && copy.is_exclusive());
    assert_eq!(original.data_mut().unwrap().len(), 256, "of what both have");
    assert_eq!(copy.data_mut().unwrap().len(), 256);

    // Headers of both are rewritten, and others put before them.
    original.data_mut().unwrap().fill(0xaa);
    copy.data_mut().unwrap()[..10].fill(0xbb);
    original.prepend(50).unwrap().fill(0xcc);
    copy.prepend(8).unwrap().fill(0xdd);
    assert_eq!(original.data_mut().unwrap().len(), 306);
    let wanted = [&[0xcc; 50][..], &[0xaa; 256], &bytes[256..]].concat();
    assert_eq!(content(&original), wanted);
    assert_eq!(content(&copy), [&[0xdd; 8][..], &[0xbb; 10], &bytes[10..]].concat());

    // Not what is shared, nor what is behind it.
    assert!(original.append(1).is_none() && copy.append(1).is_none());
    assert!(original.adj(50 + 300), "into what is shared");
    assert!(original.data_mut().is_none() && original.prepend(1).is_none());
    assert!(original.trim(100), "lengths are each packet's own");
    assert_eq!((original.data(), copy.pkt_len()), (&bytes[300..1400], 1508));
    assert!(copy.linearize(), "into its own buffer");
    assert_eq!((copy.nb_segs(), &copy.data()[18..]), (1, &bytes[10..]));
    original.data_mut().unwrap().fill(0);
    assert_eq!((original.refcnt(), original.data_len()), (1, 1100));
}

fn what_cannot_be_shared_is_copied(pool: &Mempool) {
    // All of it is headers' room; or headers reach further than that; or the data begins behind it.
    for (len, front, headers) in [(256, 0, 64), (1500, 0, 257), (1500, 150, 120), (1500, 300, 1), (0, 0, 0)] {
        let mut original = packet(pool, &numbers(len));
        assert!(original.adj(front));
        let copy = Mbuf::share(pool, &original, headers).unwrap();
        assert_eq!(content(&copy), content(&original));
        assert_eq!((original.refcnt(), copy.nb_segs()), (1, 1), "{len} {front} {headers}");
    }
    let mut original = packet(pool, &numbers(257));
    assert!(original.adj(100));
    let copy = Mbuf::share(pool, &original, 150).unwrap();
    assert_eq!((original.refcnt(), copy.nb_segs(), copy.data_len()), (2, 2, 156));
    // A copy's copy shares with the first.
    let mut rest = Mbuf::share(pool, &copy, 0).unwrap();
    assert_eq!((content(&rest), original.refcnt()), (numbers(257).split_off(100), 3));
    drop((original, copy));
    assert_eq!(rest.append(0).map(|room| room.len()), Some(0), "alone with it by now");
}

fn shared_chains(pool: &Mempool) {
    let bytes = numbers(5000);
    let jumbo = packet(pool, &bytes);
    let copies: Vec<Mbuf> = (0..10).map(|_| Mbuf::share(pool, &jumbo, 100).unwrap()).collect();
    assert_eq!((jumbo.refcnt(), jumbo.nb_segs()), (11, 3));
    assert!(copies.iter().all(|copy| content(copy) == bytes && copy.nb_segs() == 4));
    let threads = copies.into_iter().map(|copy| std::thread::spawn(move || drop(copy)));
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!((jumbo.refcnt(), pool.in_use()), (1, 3));
    // Headers alone in the first segment.
    let mut split = packet(pool, &bytes[..60]);
    split.chain(packet(pool, &bytes[60..1000])).unwrap();
    let mut copy = Mbuf::share(pool, &split, 60).unwrap();
    assert_eq!((copy.nb_segs(), copy.data_len(), split.refcnt()), (2, 60, 1));
    split.data_mut().unwrap().fill(1);
    copy.data_mut().unwrap().fill(2);
    assert!(split.append(1).is_none(), "the second segment is shared");
    assert_eq!(content(&copy), [&[2; 60][..], &bytes[60..1000]].concat());
}

fn buffers_come_back_in_whatever_order(pool: &Mempool) {
    for first in 0..3 {
        let mut all: Vec<Mbuf> = vec![packet(pool, &numbers(1500))];
        all.push(Mbuf::share(pool, &all[0], 64).unwrap());
        all.push(Mbuf::share(pool, &all[1], 64).unwrap());
        assert_eq!(pool.in_use(), 5);
        all.rotate_left(first);
        while let Some(packet) = all.pop() {
            assert_eq!(content(&packet), numbers(1500));
        }
        assert_eq!(pool.in_use(), 0);
        // And such a buffer is as good as new.
        let mut burst = ArrayVec::<Mbuf, 64>::new();
        assert!(pool.alloc_bulk(64, &mut burst));
        assert!(
            burst.iter().all(|mbuf| mbuf.is_exclusive() && mbuf.headroom() == 128 && mbuf.tailroom() == 2048)
        );
    }
}

fn sharing_across_pools(pool: &Mempool, tiny: &Mempool) {
    let body = packet(pool, &numbers(600));
    let copy = Mbuf::share(tiny, &body, 100).unwrap();
    assert_eq!((tiny.in_use(), pool.in_use(), copy.nb_segs()), (2, 1, 2));
    drop(body);
    assert_eq!(pool.in_use(), 1, "the copy keeps the data");
    assert_eq!(content(&copy), numbers(600));
    drop(copy);
    assert_eq!((tiny.in_use(), pool.in_use()), (0, 0));
}

fn copies_are_independent(pool: &Mempool) {
    for len in [0, 1, 2048, 2049, 9000] {
        let original = packet(pool, &numbers(len));
        let mut copy = Mbuf::copy_from(pool, &original).unwrap();
        assert_eq!(content(&copy), content(&original));
        if let Some(byte) = copy.data_mut().unwrap().first_mut() {
            *byte = 0xff;
            assert_eq!(original.data()[0], 0);
        }
    }
}

fn metadata_is_reset(pool: &Mempool) {
    let mut packet = packet(pool, b"packet");
    assert_eq!(packet.rss_hash(), None);
    packet.append(1000).unwrap().fill(1);
    let mut copy = Mbuf::share(pool, &packet, 64).unwrap();
    copy.reset_metadata();
    packet.reset_metadata();
    assert_eq!((copy.nb_segs(), packet.refcnt()), (2, 2), "still known as shared");
}
