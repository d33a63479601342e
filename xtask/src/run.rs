//! Running other programs and saying which one failed.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail};

/// The folder of the workspace's manifest.
pub(crate) fn workspace_root() -> Result<PathBuf> {
    // Cargo says it at run time, too: a target folder shared by working trees may hold the program
    // of another one.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map(PathBuf::from)
        .context("xtask lies in the workspace's root")
}

/// Where cargo puts the programs of this workspace.
pub(crate) fn programs_dir() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| PathBuf::from("target"));
    Ok(workspace_root()?.join(target).join("debug"))
}

/// Runs a program that the workspace builds, with inherited output. Not through cargo, whose lock on the build
/// directory others wait for.
///
/// # Errors
///
/// If it can't be started.
pub(crate) fn run_program(name: &str, words: &[&str]) -> Result<ExitStatus> {
    let program = programs_dir()?.join(name);
    Command::new(&program)
        .args(words)
        .status()
        .with_context(|| program.display().to_string())
}

/// Runs a program with inherited output.
///
/// # Errors
///
/// If it can't be started or exits with anything but 0; the message is the command line.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<()> {
    let line = format!("{program} {}", args.join(" "));
    println!("$ {line}");
    let status = Command::new(program)
        .args(args)
        .status()
        .with_context(|| line.clone())?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs cargo, the same one that runs this program.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn cargo(args: &[&str]) -> Result<()> {
    run(&cargo_program(), args)
}

pub(crate) fn cargo_program() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Output of a program that must succeed.
pub(crate) fn output(program: &str, args: &[&str]) -> Result<String> {
    let line = format!("{program} {}", args.join(" "));
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| line.clone())?;
    if !output.status.success() {
        bail!(
            "`{line}` failed: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
