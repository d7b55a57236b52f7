//! `pktgen`: see the library's module of that name.
#![forbid(unsafe_code)]

fn main() -> anyhow::Result<()> {
    benches::pktgen::cli::main()
}
