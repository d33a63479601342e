//! Running programs that must succeed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// One of this workspace's binaries, built beforehand (`cargo xtask test` does).
///
/// # Errors
///
/// If it is not there: the message says how to build it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("where this test's binary is")?;
    let found = test
        .ancestors()
        .skip(1)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "no {name} beside {}; run `cargo build --bins`",
            test.display()
        )
    })
}

/// Runs a program in a folder and returns what it wrote to standard output.
///
/// # Errors
///
/// The command line, its exit status and what it wrote, if it can't be started or fails.
pub fn run(dir: &Path, program: &str, args: &[&str]) -> Result<String> {
    let line = format!("{program} {}", args.join(" "));
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        // Nobody's personal settings may decide a test.
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_NAME", "test")
        .env("GIT_AUTHOR_EMAIL", "test@example.org")
        .env("GIT_COMMITTER_NAME", "test")
        .env("GIT_COMMITTER_EMAIL", "test@example.org")
        .output()
        .with_context(|| line.clone())?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{line}` in {}: {}\n{stdout}\n{stderr}",
            dir.display(),
            output.status
        );
    }
    Ok(stdout)
}

/// Runs a line of shell, stopping at the first command that fails.
///
/// # Errors
///
/// As [`run`].
pub fn shell(dir: &Path, line: &str) -> Result<String> {
    run(dir, "bash", &["-euo", "pipefail", "-c", line])
}
