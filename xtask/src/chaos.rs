//! `cargo xtask chaos`, `images` and `steps`: builds the programs and lets the chaos program break a
//! cluster of them.

use anyhow::{Result, bail};

use crate::packages;
use crate::run::{cargo, run_program};

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
    let status = run_program("chaos", words)?;
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
