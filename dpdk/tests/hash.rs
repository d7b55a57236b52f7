//! `rte_hash`: what was put in is found at its position, and nothing else.

mod common;

use dpdk::{Eal, Error, HASH_BULK, HashOptions, HashTable, SocketId};

#[test]
fn hash_tables() {
    let eal = common::eal();
    let before = eal.heap_in_use(SocketId(0));
    for lock_free in [false, true] {
        finds_what_is_there(&eal, lock_free);
        fills_up(&eal, lock_free);
    }
    names_are_unique(&eal);
    assert_eq!(eal.heap_in_use(SocketId(0)), before, "memory was kept");
}

fn key(n: u32) -> [u8; 16] {
    let [a, b, c, d] = n.to_be_bytes();
    [10, a, b, c, d, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 17]
}

fn finds_what_is_there(eal: &Eal, lock_free: bool) {
    let mut table =
        HashTable::new(eal, &HashOptions { entries: 4096, lock_free, ..HashOptions::default() }).unwrap();
    assert!(eal.heap_in_use(SocketId(0)) > 4096 * 16);
    let positions: Vec<_> = (0..2000).map(|n| table.insert(&key(n)).unwrap()).collect();
    let mut sorted = positions.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), 2000, "positions are used twice");
    assert!(sorted.iter().all(|position| *position < 4096));
    assert_eq!(table.insert(&key(7)), Some(positions[7]), "a key has moved");
    // Every other one is not there.
    let keys: Vec<_> =
        (0..HASH_BULK as u32 + 9).map(|n| key(if n % 2 == 0 { n } else { 10_000 + n })).collect();
    let mut found = [7; HASH_BULK + 9];
    assert_eq!(table.lookup_bulk(&keys, &mut found), HASH_BULK);
    for (n, (found, expected)) in found.iter().zip(&positions).take(HASH_BULK).enumerate() {
        match n % 2 {
            0 => assert_eq!(u32::try_from(*found), Ok(*expected), "key {n}"),
            _ => assert!(*found < 0, "key {n} is at {found}"),
        }
    }
    assert_eq!(found[HASH_BULK..], [7; 9]);
    let mut few = [7; 3];
    assert_eq!(table.lookup_bulk(&keys, &mut few), 3);
    assert_eq!(table.lookup_bulk(&[], &mut few), 0);
}

fn fills_up(eal: &Eal, lock_free: bool) {
    let mut table =
        HashTable::new(eal, &HashOptions { entries: 8192, lock_free, ..HashOptions::default() }).unwrap();
    let taken = (0..).take_while(|n| table.insert(&key(*n)).is_some()).count();
    assert!((7000..=8192).contains(&taken), "{taken} of 8192");
}

fn names_are_unique(eal: &Eal) {
    let options = HashOptions { name: "twice", ..HashOptions::default() };
    let _first = HashTable::new(eal, &options).unwrap();
    let error = HashTable::new(eal, &options).unwrap_err();
    assert!(matches!(&error, Error::Hash { name, .. } if name == "twice"), "{error}");
    assert!(error.to_string().starts_with("hash table twice of 1024 entries: "), "{error}");
    assert!(matches!(
        HashTable::new(eal, &HashOptions { name: "none", entries: 0, ..options }),
        Err(Error::Hash { .. })
    ));
}
