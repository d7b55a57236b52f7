//! Raw bindings to the system's DPDK: what the `dpdk` crate uses of it, and nothing more.
//!
//! Generated from DPDK's headers by bindgen when this crate is built; the `shim_*` functions are DPDK's inline functions
//! compiled by the C compiler. See the [DPDK API](https://doc.dpdk.org/api-22.11/) for what each of them does and needs.
//! DPDK is linked in, with the drivers of all ports; built with `LIBDPDK_DYNAMIC=1` in the environment, it is shared,
//! and drivers are loaded from the system's `pmds` folder when the EAL starts.
#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    rustdoc::all,
    reason = "generated from C headers, which explain themselves"
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
