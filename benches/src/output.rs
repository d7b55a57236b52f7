//! Where results go.

use anyhow::{Context, Result};
use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Prints a line. Whoever reads may stop reading, as `head` does: that is no failure, and any other one is.
pub fn say(line: impl Display) {
    if let Err(error) = writeln!(std::io::stdout(), "{line}") {
        assert!(error.kind() == ErrorKind::BrokenPipe, "cannot write to stdout: {error}");
    }
}

/// That a file can be written, without changing it: to know before hours of measuring.
pub fn check_file(option: &str, file: &Path) -> Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let tried = match file.exists() {
        true => OpenOptions::new().append(true).open(file).map(drop),
        false => tempfile::tempfile_in(folder).map(drop),
    };
    tried.with_context(|| format!("{option} {}: cannot be written", file.display()))
}

#[cfg(test)]
mod tests {
    use super::check_file;

    #[test]
    fn what_cannot_be_written_is_known_before() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        check_file("--json", &file).unwrap();
        assert!(!file.exists(), "only looked at");
        std::fs::write(&file, "kept").unwrap();
        check_file("--json", &file).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"kept");
        for wrong in [folder.path().to_owned(), folder.path().join("none/report.json"), file.join("below")] {
            let error = check_file("--json", &wrong).unwrap_err().to_string();
            assert_eq!(error, format!("--json {}: cannot be written", wrong.display()));
        }
    }
}
