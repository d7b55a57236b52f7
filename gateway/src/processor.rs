//! Two builds of one program: a portable one, and beside it one for the processors of the last ten years.
//!
//! The portable one is what is started. Where its sibling is installed and the processor has what x86-64-v3 means (x86-64 psABI,
//! "micro-architecture levels"), it becomes that one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What the sibling's name has behind the program's.
pub const SUFFIX: &str = "-x86-64-v3";

/// As `--version` has it: the build too, unless it is the portable one.
pub const VERSION: &str =
    if IS_V3 { concat!(env!("CARGO_PKG_VERSION"), " (x86-64-v3)") } else { env!("CARGO_PKG_VERSION") };

const IS_V3: bool = cfg!(target_feature = "avx2");

/// Becomes the sibling, if there is one for this processor. Returns if there is none, and, with a warning, if it cannot be run.
pub fn become_sibling() {
    if IS_V3 || !is_v3_processor() {
        return;
    }
    let Some(sibling) = std::env::current_exe().ok().and_then(|program| sibling(&program)) else { return };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let error = execute(&sibling, name, arguments);
    eprintln!("warning: {}: {error}; the portable build runs instead", sibling.display());
}

/// The sibling of `program`, if it is there.
fn sibling(program: &Path) -> Option<PathBuf> {
    let mut name = program.file_name()?.to_owned();
    name.push(SUFFIX);
    Some(program.with_file_name(name)).filter(|sibling| sibling.is_file())
}

/// Returns only if it cannot.
fn execute(program: &Path, name: OsString, arguments: impl Iterator<Item = OsString>) -> std::io::Error {
    use std::os::unix::process::CommandExt;
    std::process::Command::new(program).arg0(name).args(arguments).exec()
}

#[cfg(target_arch = "x86_64")]
fn is_v3_processor() -> bool {
    use std::arch::is_x86_feature_detected as has;
    let avx = has!("avx") && has!("avx2") && has!("fma") && has!("f16c");
    avx && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("movbe")
}

#[cfg(not(target_arch = "x86_64"))]
fn is_v3_processor() -> bool {
    false
}
