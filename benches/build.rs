//! Leaves a note of the compiler and its settings, for the report.

use std::env::var;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    let compiler = var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let output = Command::new(compiler).arg("--version").output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let flags = var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default().replace('\u{1f}', " ");
    let parts = [version.unwrap_or_default(), var("PROFILE").unwrap_or_default(), flags];
    let note: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    println!("cargo:rustc-env=BUILD_NOTE={}", note.join(", "));
}
