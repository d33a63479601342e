//! What a newer release wrote is refused by name, version and remedy, and stays as it was; afterwards everything is
//! still there for the release that knows it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use tests::{Cluster, binary};

/// Every file below a directory with its content.
fn content(dir: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let bytes = fs::read(&path)?;
                found.insert(path, bytes);
            }
        }
    }
    Ok(found)
}

/// What a program says that must fail.
fn refusal(args: &[&str]) -> Result<String> {
    let output = Command::new(binary("oxfs")?)
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "{args:?} did not fail: {said}");
    Ok(said)
}

/// Raises the number behind `key = ` in a file.
fn raise(file: &Path, key: &str) -> Result<()> {
    let text = fs::read_to_string(file)?;
    let mut raised = false;
    let lines = text.lines().map(|line| match line.split_once(" = ") {
        Some((found, number)) if found == key => {
            raised = true;
            let number: u32 = number.parse().unwrap_or_default();
            format!("{key} = {}\n", number + 1)
        }
        _ => format!("{line}\n"),
    });
    let text: String = lines.collect();
    ensure!(raised, "no {key} in {}", file.display());
    Ok(fs::write(file, text)?)
}

fn has(said: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(said.contains(word), "no {word:?} in: {said}");
    }
    Ok(())
}

#[test]
fn directories_of_a_newer_release_are_refused_and_kept() -> Result<()> {
    let mut cluster = Cluster::start()?;
    fs::write(cluster.mount().join("file"), "still here")?;
    cluster.down()?;
    let dir = cluster.dir();

    for (role, name) in [("mrc", "mrc-2"), ("osd", "osd-2")] {
        let state = dir.join(name);
        let identity = state.join("IDENTITY");
        let text = fs::read(&identity)?;
        raise(&identity, "format")?;
        let before = content(&state)?;

        let config = dir.join(format!("config/{name}.toml"));
        let config = config.to_str().context("no UTF-8")?;
        let said = refusal(&[role, "--config", config])?;

        let file = identity.to_str().context("no UTF-8")?;
        has(
            &said,
            &[
                file,
                "says format 4",
                "knows 1 to 3",
                "run the newer release",
            ],
        )?;
        ensure!(content(&state)? == before, "{name}: something has changed");
        fs::write(&identity, text)?;
    }

    let description = dir.join("cluster.toml");
    let text = fs::read(&description)?;
    raise(&description, "format")?;
    let before = content(&dir)?;
    let (shown, mount) = (
        dir.display().to_string(),
        cluster.mount().display().to_string(),
    );
    for args in [
        &["up", "--dir", &shown, "--mount", &mount][..],
        &["start", "--dir", &shown, "osd-1"][..],
        &["down", "--dir", &shown][..],
    ] {
        let said = refusal(args)?;
        has(
            &said,
            &[
                "cluster.toml has format 2",
                "knows 1 to 1",
                "run the newer release",
            ],
        )?;
        ensure!(content(&dir)? == before, "{args:?} has changed something");
    }
    fs::write(&description, text)?;

    cluster.up()?;
    cluster.wait_full()?;
    let found = fs::read_to_string(cluster.mount().join("file"))?;
    if found != "still here" {
        bail!("the file has {found:?}");
    }
    cluster.down()
}
