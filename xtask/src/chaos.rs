//! `cargo xtask chaos`, `images` and `steps`: builds the programs and lets the chaos program break a
//! cluster of them.

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

/// What of it belongs to all tests, with fixed seeds: the same faults each time.
pub(crate) const TESTS: [&[&str]; 3] = [
    &["--minutes", "3", "--seed", "1"],
    &["images", "--count", "4", "--seed", "1"],
    &["steps", "--quick", "--seed", "1"],
];

/// Not through cargo, whose lock on the build directory others wait for.
pub(crate) fn run(words: &[&str]) -> Result<ExitStatus> {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let program = Path::new(&target).join("debug/chaos");
    Command::new(&program)
        .args(words)
        .status()
        .with_context(|| program.display().to_string())
}
