//! An EAL that cannot start says why.

mod common;

use dpdk::{Eal, EalOptions, Error};

#[test]
fn a_failed_start_names_the_reason() {
    let options = EalOptions { main_lcore: 120, ..common::options() };
    let error = Eal::init(&options).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("-l 120") && text.contains("lcore 120"), "{text}");
    assert!(matches!(Eal::init(&common::options()), Err(Error::AlreadyInitialized)), "DPDK cannot try twice");
}
