//! Runs the system's tools and says which of them failed.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a line of words that must succeed, and gives what it printed.
///
/// # Errors
///
/// The line and what the tool said.
pub(crate) fn run(line: &str) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    fed(&words, "")
}

/// The same with words that may hold blanks, and something to read.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn fed(words: &[&str], input: &str) -> Result<String> {
    let line = words.join(" ");
    let (program, args) = words.split_first().context("no program")?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| line.clone())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "`{line}`: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The tools that this program runs, each with the Debian package that brings it.
const TOOLS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("mkfs.ext4", "e2fsprogs"),
    ("fallocate", "util-linux"),
];

/// Refuses to begin what can't be done here.
///
/// # Errors
///
/// One sentence on what is missing.
pub(crate) fn check_tools() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces and mounts need root");
    }
    for (tool, package) in TOOLS {
        if !exists(tool) {
            bail!("{tool} is missing; run `apt-get install {package}`");
        }
    }
    Ok(())
}

/// Whether a program is on the path.
pub(crate) fn exists(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(tool).is_file())
}
