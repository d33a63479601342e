//! `cargo xtask chaos`: builds the programs and lets the chaos program break a cluster of them.

use std::path::Path;
use std::process::{Command, ExitStatus};

use anyhow::{Context as _, Result, bail};

use crate::packages;
use crate::run::cargo;

/// # Errors
///
/// If something is missing or does not build, or a promise was broken.
pub(crate) fn chaos(words: &[&str]) -> Result<()> {
    packages::ensure(packages::CHAOS)?;
    cargo(&[
        "build",
        "-q",
        "-p",
        "oxfs",
        "-p",
        "xfs-admin",
        "-p",
        "chaos",
        "--bins",
    ])?;
    let status = run(words)?;
    if !status.success() {
        bail!("chaos: {status}");
    }
    Ok(())
}

/// Not through cargo, whose lock on the build directory others wait for.
fn run(words: &[&str]) -> Result<ExitStatus> {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let program = Path::new(&target).join("debug/chaos");
    Command::new(&program)
        .args(words)
        .status()
        .with_context(|| program.display().to_string())
}
