//! Real input: sources of this workspace's dependencies, a git repository with a history, odd files.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::program::run;

/// Folders of the unpacked sources of the crates in this workspace's lock file, smallest name first.
///
/// # Errors
///
/// If the local cargo registry has none of them.
pub fn dependency_sources() -> Result<Vec<PathBuf>> {
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    let lock = fs::read_to_string(&lock).with_context(|| lock.display().to_string())?;
    let value = |line: &str, key: &str| {
        line.strip_prefix(key)
            .and_then(|rest| rest.strip_prefix(" = \"")?.strip_suffix('"'))
            .map(str::to_owned)
    };
    let mut wanted = BTreeSet::new();
    let mut name = String::new();
    for line in lock.lines() {
        if let Some(found) = value(line, "name") {
            name = found;
        } else if let Some(version) = value(line, "version") {
            wanted.insert(format!("{name}-{version}"));
        }
    }
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let registry = home
        .context("neither CARGO_HOME nor HOME is set")?
        .join("registry/src");
    let mut found = Vec::new();
    for index in fs::read_dir(&registry).with_context(|| registry.display().to_string())? {
        for name in &wanted {
            let folder = index
                .as_ref()
                .map_err(|error| anyhow::anyhow!("{error}"))?
                .path()
                .join(name);
            if folder.is_dir() {
                found.push(folder);
            }
        }
    }
    ensure!(
        found.len() > 50,
        "only {} crates of Cargo.lock lie in {}",
        found.len(),
        registry.display()
    );
    found.sort();
    Ok(found)
}

/// Makes a bare repository with `commits` commits that change, add and remove files.
///
/// # Errors
///
/// What git says.
pub fn make_git_repository(dir: &Path, commits: u32) -> Result<()> {
    fs::create_dir_all(dir)?;
    run(dir, "git", &["init", "-q", "--bare", "-b", "main"])?;
    let mut import = Command::new("git")
        .args(["fast-import", "--quiet"])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .spawn()
        .context("git fast-import")?;
    let mut stream = String::new();
    for commit in 0..commits {
        let message = format!("change {commit}");
        write!(
            stream,
            "commit refs/heads/main\ncommitter test <test@example.org> {} +0000\n",
            1_600_000_000 + commit
        )?;
        write!(stream, "data {}\n{message}\n", message.len())?;
        for file in 0..3 {
            let number = (commit * 7 + file * 131) % 900;
            let body = format!("{commit} {number}\n").repeat(1 + (number as usize % 200));
            write!(
                stream,
                "M 100644 inline dir{}/file{number}\ndata {}\n{body}\n",
                number % 30,
                body.len()
            )?;
        }
        if commit % 10 == 9 {
            let number = (commit * 7) % 900;
            writeln!(stream, "D dir{}/file{number}", number % 30)?;
        }
    }
    let mut stdin = import.stdin.take().context("its input is piped")?;
    stdin.write_all(stream.as_bytes())?;
    drop(stdin);
    let status = import.wait()?;
    ensure!(status.success(), "git fast-import: {status}");
    Ok(())
}

/// Makes what a plain copy gets wrong: holes, hard and symbolic links, fifos, odd names, modes, times.
///
/// # Errors
///
/// The first thing the file system refuses.
pub fn make_sparse_and_odd_files(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("deep/er/and deeper"))?;
    let mut sparse = File::create(dir.join("sparse"))?;
    for offset in [0_u64, 5 << 20, (9 << 20) + 17] {
        sparse.seek(SeekFrom::Start(offset))?;
        sparse.write_all(&[0xa5; 10_000])?;
    }
    sparse.set_len(12 << 20)?;
    File::create(dir.join("only a hole"))?.set_len(3 << 20)?;
    fs::write(dir.join("linked"), "two names")?;
    fs::hard_link(dir.join("linked"), dir.join("deep/other name"))?;
    symlink("../linked", dir.join("deep/soft"))?;
    symlink("nowhere/at all", dir.join("dangling"))?;
    run(dir, "mkfifo", &["fifo"])?;
    fs::write(dir.join("x".repeat(255)), "longest name")?;
    let raw = std::ffi::OsStr::new("tab\tnewline\nquote' \u{e4}\u{20ac}");
    fs::write(dir.join(raw), "odd name")?;
    for mode in [0o400, 0o644, 0o755, 0o4755, 0o2755, 0o1777] {
        let path = dir.join(format!("deep/er/mode {mode:o}"));
        fs::write(&path, format!("{mode:o}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    fs::write(dir.join("old"), "old")?;
    run(
        dir,
        "touch",
        &["-d", "1999-12-31 23:59:59.123456789 UTC", "old"],
    )?;
    Ok(())
}
