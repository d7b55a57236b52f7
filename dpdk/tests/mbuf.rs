//! Ownership of packet buffers and what is done to them.

mod common;

use arrayvec::ArrayVec;
use dpdk::{Mbuf, Mempool, PoolOptions, free_burst};

#[test]
fn mbufs() {
    let eal = common::eal();
    let pool = common::pool(&eal, "mbuf");
    let checks: [fn(&Mempool); 9] = [
        every_buffer_comes_back,
        a_pool_runs_dry,
        front,
        back,
        chains,
        trimming_a_chain,
        clones_share_and_protect_data,
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
    clones_across_pools(&pool, &tiny);

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
    assert!(Mbuf::clone_indirect(pool, &last).is_none() && Mbuf::copy_from(pool, &last).is_none());
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

fn clones_share_and_protect_data(pool: &Mempool) {
    let mut original = packet(pool, b"shared");
    assert!(original.is_exclusive());
    let mut clone = Mbuf::clone_indirect(pool, &original).unwrap();
    assert_eq!((original.refcnt(), clone.refcnt(), clone.data()), (2, 2, b"shared".as_slice()));
    for packet in [&mut original, &mut clone] {
        assert!(!packet.is_exclusive() && packet.data_mut().is_none());
        assert!(packet.prepend(1).is_none() && packet.append(1).is_none());
    }
    assert!(clone.adj(2) && clone.trim(1), "lengths are each buffer's own");
    assert_eq!((clone.data(), original.data()), (b"are".as_slice(), b"shared".as_slice()));
    drop(original);
    assert_eq!((clone.data(), clone.refcnt(), pool.in_use()), (b"are".as_slice(), 1, 2));
    clone.data_mut().unwrap()[0] = b'A';
    assert_eq!(clone.data(), b"Are");

    let jumbo = packet(pool, &numbers(5000));
    let copies: Vec<Mbuf> = (0..10).map(|_| Mbuf::clone_indirect(pool, &jumbo).unwrap()).collect();
    assert_eq!(jumbo.refcnt(), 11);
    assert!(copies.iter().all(|copy| content(copy) == numbers(5000) && copy.nb_segs() == 3));
    let threads = copies.into_iter().map(|copy| std::thread::spawn(move || drop(copy)));
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(jumbo.refcnt(), 1);
}

fn clones_across_pools(pool: &Mempool, tiny: &Mempool) {
    let head = packet(tiny, b"header");
    let body = packet(pool, &numbers(100));
    let mut outer = Mbuf::clone_indirect(tiny, &body).unwrap();
    assert_eq!((tiny.in_use(), pool.in_use()), (2, 1));
    let mut whole = head;
    outer = {
        whole.chain(outer).unwrap();
        whole
    };
    drop(body);
    assert_eq!(pool.in_use(), 1, "the clone keeps the data");
    assert_eq!(outer.pkt_len(), 106);
    drop(outer);
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
    let clone = Mbuf::clone_indirect(pool, &packet).unwrap();
    let mut clone = clone;
    clone.reset_metadata();
    packet.reset_metadata();
    assert_eq!((clone.refcnt(), packet.refcnt()), (2, 2), "still known as a clone");
}
