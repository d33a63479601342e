//! `cargo xtask test`: all that must hold before a change may land.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run::{cargo, cargo_program, run_program, workspace_root};
use crate::{chaos, check, packages};

/// Seeds of the bounded simulator sweep; more of them are a matter of `cargo xtask sim`.
const SIM_SEEDS: &str = "2000";

/// The same of whole clusters. 800: some 20 s of one core.
const CLUSTER_SEEDS: &str = "800";

/// # Errors
///
/// The first step that failed.
pub(crate) fn test() -> Result<()> {
    packages::ensure(packages::TEST)?;
    packages::ensure(packages::CHAOS)?;
    check::check()?;
    // Always the whole workspace: with other packages selected, cargo builds what they depend on once more, with
    // other features.
    cargo(&["build", "-q", "--workspace", "--all-targets"])?;
    let mut total = Tally::default();
    // The crates' own tests first; they need no mount.
    total.add(counted(&["--workspace", "--exclude", "tests"])?);
    // Mounted tests share two cores and the FUSE device: one after the other.
    let mut mounted = vec!["--workspace".to_owned()];
    for name in mounted_tests()? {
        mounted.extend(["--test".to_owned(), name]);
    }
    mounted.extend(["--", "--test-threads", "1", "--nocapture"].map(str::to_owned));
    total.add(counted(&mounted)?);
    // Each of these has several minutes of work behind it and counts as one.
    for words in chaos::TESTS {
        total.add(program("chaos", words)?);
    }
    total.add(program("sim", &["sweep", "--seeds", SIM_SEEDS])?);
    let cluster = ["sweep", "--seeds", CLUSTER_SEEDS, "--world", "cluster"];
    total.add(program("sim", &cluster)?);
    // Wrong edits on purpose, which simulations and the tests of the metadata core have to find. The feature is off otherwise: what
    // the mounted tests run must not have them.
    total.add(counted(&[
        "--workspace",
        "--features",
        "osd-core/mutants,planner/mutants,mrc-core/mutants,client-core/mutants",
        "--test",
        "simulation",
        "--test",
        "core",
        "mutants",
    ])?);
    println!(
        "{} passed, {} failed, {} skipped",
        total.passed, total.failed, total.skipped
    );
    if total.failed > 0 || total.broken {
        bail!("tests failed");
    }
    Ok(())
}

#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Cargo said no although no test was counted as failed: a binary died.
    broken: bool,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.broken |= other.broken;
    }

    /// Adds a line like `test result: ok. 6 passed; 0 failed; 1 ignored; ...`.
    fn read(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        for part in result.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(count), Some(what)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(count) = count.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.skipped += count,
                _ => {}
            }
        }
    }
}

/// The mounted tests by name: the files of `tests/tests`.
fn mounted_tests() -> Result<Vec<String>> {
    let dir = workspace_root()?.join("tests/tests");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(
                path.file_stem()
                    .and_then(|name| name.to_str())
                    .map(str::to_owned),
            );
        }
    }
    names.sort();
    Ok(names)
}

/// Runs a program of the workspace, which counts as one test.
fn program(name: &str, words: &[&str]) -> Result<Tally> {
    println!("$ {name} {}", words.join(" "));
    let kept = run_program(name, words)?.success();
    Ok(Tally {
        passed: u64::from(kept),
        failed: u64::from(!kept),
        ..Tally::default()
    })
}

fn counted<S: AsRef<str>>(args: &[S]) -> Result<Tally> {
    let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
    println!("$ cargo test {}", args.join(" "));
    let mut child = Command::new(cargo_program())
        .args(["--quiet", "test", "--no-fail-fast"])
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo test")?;
    let mut tally = Tally::default();
    let stdout = child.stdout.take().context("cargo's output is piped")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        tally.read(line.trim());
    }
    tally.broken = !child.wait()?.success();
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn result_lines_are_added_up() {
        let mut tally = Tally::default();

        tally.read("test result: ok. 6 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        tally
            .read("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.read("running 3 tests");

        assert_eq!((tally.passed, tally.failed, tally.skipped), (7, 2, 1));
    }
}
