//! Programs that a test puts in place and runs at once.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Copies a program to where it can be run at once. A process of its own writes it: a descriptor of ours that is open
/// for writing may be in the child that another test forks just then, and until that child execs the program is busy
/// (`ETXTBSY`, execve(2)).
///
/// # Errors
///
/// When it cannot be copied.
pub fn install(from: &Path, to: &Path) -> anyhow::Result<()> {
    let output = Command::new("install").arg("--mode=0755").args([from, to]).output().context("cannot run install")?;
    ensure!(output.status.success(), "install: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
