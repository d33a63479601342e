//! Everything that can be said about the sources without running them.

use anyhow::Result;

use crate::purity::purity;
use crate::run::cargo;

/// Format, lints as errors, purity. Writes nothing but `target/`.
pub(crate) fn check() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&[
        "clippy",
        "-q",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ])?;
    purity()
}

/// The writing twin of [`check`].
pub(crate) fn fix() -> Result<()> {
    cargo(&[
        "clippy",
        "-q",
        "--workspace",
        "--all-targets",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
    ])?;
    cargo(&["fmt", "--all"])
}
