//! Finds DPDK with pkg-config, generates the bindings and compiles the shim.

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
};

/// The DPDK release whose ABI the shim and the `dpdk` crate are written for.
const MIN_VERSION: &str = "22.11";

fn main() {
    println!("cargo:rerun-if-changed=wrapper.h");
    println!("cargo:rerun-if-changed=shim.c");

    let dpdk =
        match pkg_config::Config::new().cargo_metadata(false).atleast_version(MIN_VERSION).probe("libdpdk") {
            Ok(library) => library,
            Err(error) => fail(&format!(
                "{error}\nDPDK {MIN_VERSION} or newer was not found. On Debian and Ubuntu: \
             apt-get install libdpdk-dev pkg-config libclang1-14 gcc"
            )),
        };
    link(&dpdk);

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

/// Links DPDK into the program, drivers of all ports included: the linker then turns each access to DPDK's per-thread
/// variables, which every buffer needs, from a call into a register's offset (docs/adr/0007-hot-path.md). The shared
/// libraries are taken where the archives are not there, or `LIBDPDK_DYNAMIC` is set, as the pkg-config crate names it;
/// drivers are loaded from the system's `pmds` folder then, when the EAL starts.
fn link(dpdk: &pkg_config::Library) {
    println!("cargo:rerun-if-env-changed=LIBDPDK_DYNAMIC");
    for path in &dpdk.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    if env::var_os("LIBDPDK_DYNAMIC").is_none() {
        if link_static().is_some() {
            return;
        }
        println!(
            "cargo:warning=DPDK's archives (librte_*.a) were not found: its shared libraries are linked"
        );
    }
    for name in &dpdk.libs {
        println!("cargo:rustc-link-lib={name}");
    }
    // Ports made of rings in process; not part of libdpdk.pc, which leaves drivers to be loaded at run time.
    println!("cargo:rustc-link-lib=rte_net_ring");
}

/// None, and nothing linked, if an archive is missing.
fn link_static() -> Option<()> {
    let libdir = pkg_config(&["--variable=libdir"])?;
    let flags = pkg_config(&["--static", "--libs"])?;
    let archives: Vec<&str> = flags
        .split_whitespace()
        .filter_map(|flag| flag.strip_prefix("-l:lib")?.strip_suffix(".a"))
        .filter(|name| !OTHER_DEVICES.iter().any(|class| name.starts_with(class)))
        .collect();
    let there = |name: &&str| Path::new(&libdir).join(format!("lib{name}.a")).exists();
    if archives.is_empty() || !archives.iter().all(there) {
        return None;
    }
    println!("cargo:rustc-link-search=native={libdir}");
    // Whole: drivers, buses and DPDK's own commands register themselves before main(), and nobody names them.
    for name in archives {
        println!("cargo:rustc-link-lib=static:+whole-archive,-bundle={name}");
    }
    // What the archives need is shared. pkg-config also names what that in turn would need as archives, installed or not.
    let others: BTreeSet<&str> = flags
        .split_whitespace()
        .filter_map(|flag| flag.strip_prefix("-l"))
        .filter(|name| !name.starts_with(':') && !name.starts_with("rte_") && is_installed(name))
        .collect();
    for name in others {
        println!("cargo:rustc-link-lib=dylib={name}");
    }
    Some(())
}

/// Whether the linker would find the shared library.
fn is_installed(name: &str) -> bool {
    let file = format!("lib{name}.so");
    let compiler = cc::Build::new().get_compiler();
    let found = compiler.to_command().arg(format!("-print-file-name={file}")).output();
    found.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() != file)
}

/// Drivers of devices that are no ports, and what only these have in common.
const OTHER_DEVICES: &[&str] = &[
    "rte_baseband_",
    "rte_common_cpt",
    "rte_common_qat",
    "rte_compress_",
    "rte_crypto_",
    "rte_dma_",
    "rte_event_",
    "rte_raw_",
    "rte_regex_",
    "rte_vdpa_",
];

/// The flags of libdpdk.pc that are neither include paths nor a choice of processor: `-include rte_config.h` above all.
///
/// DPDK's headers need SSSE3 and SSE4 intrinsics; x86-64-v2 is the smallest level that has them.
fn cflags() -> Vec<String> {
    let text = pkg_config(&["--cflags-only-other"])
        .unwrap_or_else(|| fail("pkg-config --cflags-only-other libdpdk failed"));
    let mut flags: Vec<String> =
        text.split_whitespace().filter(|flag| !flag.starts_with("-march=")).map(str::to_owned).collect();
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        flags.push("-march=x86-64-v2".into());
    }
    flags
}

/// What pkg-config prints of DPDK.
fn pkg_config(options: &[&str]) -> Option<String> {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let output = std::process::Command::new(program).args(options).arg("libdpdk").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
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
