//! Finds DPDK with pkg-config, generates the bindings and compiles the shim.

use std::{env, path::PathBuf};

/// The DPDK release whose ABI the shim and the `dpdk` crate are written for.
const MIN_VERSION: &str = "22.11";

fn main() {
    println!("cargo:rerun-if-changed=wrapper.h");
    println!("cargo:rerun-if-changed=shim.c");

    let dpdk = match pkg_config::Config::new().atleast_version(MIN_VERSION).probe("libdpdk") {
        Ok(library) => library,
        Err(error) => fail(&format!(
            "{error}\nDPDK {MIN_VERSION} or newer was not found. On Debian and Ubuntu: \
             apt-get install libdpdk-dev pkg-config libclang1-14 gcc"
        )),
    };
    // Ports made of rings in process; not part of libdpdk.pc, which leaves drivers to be loaded at run time.
    println!("cargo:rustc-link-lib=rte_net_ring");

    let cflags = cflags();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));

    let mut shim = cc::Build::new();
    shim.file("shim.c").includes(&dpdk.include_paths).opt_level(3).warnings(false);
    for flag in &cflags {
        shim.flag(flag);
    }
    shim.compile("dpdk_shim");

    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(&cflags)
        .clang_args(dpdk.include_paths.iter().map(|path| format!("-I{}", path.display())))
        .rust_edition(bindgen::RustEdition::Edition2024)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .layout_tests(true)
        .derive_default(true)
        .generate_comments(false)
        .opaque_type("rte_eth_vmdq_.*|rte_eth_dcb_.*|rte_mempool_ops.*|rte_mempool_memhdr.*");
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for item in TYPES {
        builder = builder.allowlist_type(item);
    }
    for item in VARIABLES {
        builder = builder.allowlist_var(item);
    }
    match builder.generate() {
        Ok(bindings) => bindings.write_to_file(out.join("bindings.rs")).expect("OUT_DIR is writable"),
        Err(error) => {
            fail(&format!("bindgen failed on DPDK's headers (is libclang1-14 installed?): {error}"))
        }
    }
}

/// The flags of libdpdk.pc that are neither include paths nor a choice of processor: `-include rte_config.h` above all.
///
/// DPDK's headers need SSSE3 and SSE4 intrinsics; x86-64-v2 is the smallest level that has them.
fn cflags() -> Vec<String> {
    let output = std::process::Command::new(env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into()))
        .args(["--cflags-only-other", "libdpdk"])
        .output();
    let text = match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        _ => fail("pkg-config --cflags-only-other libdpdk failed"),
    };
    let mut flags: Vec<String> =
        text.split_whitespace().filter(|flag| !flag.starts_with("-march=")).map(str::to_owned).collect();
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        flags.push("-march=x86-64-v2".into());
    }
    flags
}

fn fail(message: &str) -> ! {
    eprintln!("error: dpdk-sys: {message}");
    std::process::exit(1)
}

const FUNCTIONS: &[&str] = &[
    "rte_eal_(init|cleanup|wait_lcore|get_lcore_state|remote_launch|get_runtime_dir|has_hugepages)",
    "rte_(strerror|version|get_main_lcore|lcore_is_enabled|lcore_to_socket_id)",
    "rte_(thread_register|thread_unregister|get_tsc_hz|malloc_get_socket_stats)",
    "rte_dev_(probe|remove)",
    "rte_pktmbuf_(pool_create|copy)",
    "__rte_pktmbuf_linearize",
    "rte_mempool_(free|avail_count|in_use_count)",
    "rte_ring_(create|free)",
    "rte_hash_(create|free|add_key|lookup_bulk)",
    "rte_eth_from_rings",
    "rte_eth_dev_(info_get|configure|start|stop|close|set_mtu|get_mtu|get_port_by_name)",
    "rte_eth_dev_(default_mac_addr_set|socket_id|adjust_nb_rx_tx_desc)",
    "rte_eth_(rx|tx)_queue_setup",
    "rte_eth_promiscuous_enable",
    "rte_eth_(macaddr_get|link_get_nowait|stats_get|stats_reset|xstats_get|xstats_get_names)",
    "rte_eth_call_(rx|tx)_callbacks",
    "shim_.*",
];

const TYPES: &[&str] = &["rte_mbuf", "rte_mbuf_ext_shared_info", "rte_eth_fp_ops", "rte_mempool", "rte_ring"];

const VARIABLES: &[&str] = &["rte_eth_fp_ops", "SHIM_.*", "RTE_MAX_LCORE"];
