//! The `gateway` program.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    gateway::processor::become_sibling();
    gateway::cli::main()
}
