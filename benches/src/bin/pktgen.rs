//! `pktgen`: see the library's module of that name.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    benches::pktgen::cli::main()
}
