//! What is measured.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What a row's number means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unit {
    PerSecond,
    MegabytesPerSecond,
    Seconds,
}

/// One operation, called with its number.
pub(crate) type Operation = Box<dyn FnMut(usize) -> Result<()>>;

/// A row of the table.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    pub(crate) workers: usize,
    pub(crate) operations: usize,
    /// Bytes each operation moves, for rows in MB/s; names it makes, for rows in names per second.
    pub(crate) weight: usize,
    pub(crate) cold: bool,
    pub(crate) prepare: fn(&Path, &Row) -> Result<()>,
    pub(crate) work: fn(&Path, usize, usize) -> Result<Operation>,
}

impl Row {
    /// How many of the row's units all operations together are.
    pub(crate) fn units(&self) -> f64 {
        let all = (self.operations * self.weight) as f64;
        if self.unit == Unit::MegabytesPerSecond {
            all / 1e6
        } else {
            all
        }
    }
}

const KIB4: usize = 4 << 10;
const MIB: usize = 1 << 20;
/// The file of the random rows.
const BASE_BYTES: usize = 64 * MIB;

pub(crate) fn rows(scale: usize) -> Vec<Row> {
    let row = |name, workers, operations: usize, prepare, work| Row {
        name,
        unit: Unit::PerSecond,
        workers,
        operations: (operations / scale).max(workers),
        weight: 1,
        cold: false,
        prepare,
        work,
    };
    let megabytes = |row: Row| Row {
        unit: Unit::MegabytesPerSecond,
        weight: MIB,
        ..row
    };
    let cold = |row: Row| Row { cold: true, ..row };
    vec![
        row("create_1w", 1, 4_000, nothing, create),
        row("create_8w", 8, 4_000, nothing, create),
        row("stat_warm_1w", 1, 10_000, many_files, stat),
        row("stat_warm_8w", 8, 10_000, many_files, stat),
        cold(row("stat_cold_1w", 1, 4_000, many_files, stat)),
        row("open_close_1w", 1, 4_000, many_files, open_close),
        Row {
            weight: LISTED,
            ..row("readdir_stat_warm", 1, 10, listed_files, list)
        },
        Row {
            weight: LISTED,
            ..cold(row("readdir_stat_cold", 1, 10, listed_files, list))
        },
        row("rename_1w", 1, 4_000, many_files, rename),
        row("unlink_1w", 1, 4_000, many_files, unlink),
        row("write_4k_1w", 1, 2_000, nothing, write_file),
        row("write_4k_8w", 8, 2_000, nothing, write_file),
        row("write_fsync_4k_1w", 1, 1_000, nothing, write_file_synced),
        row("write_fsync_4k_8w", 8, 2_000, nothing, write_file_synced),
        cold(row("read_4k_cold_1w", 1, 2_000, many_files, read_file)),
        megabytes(row("seq_write_fsync", 1, 256, nothing, write_sequentially)),
        megabytes(cold(row(
            "seq_read_cold",
            1,
            256,
            big_file,
            read_sequentially,
        ))),
        row(
            "random_read_4k_direct_1w",
            1,
            4_000,
            big_file,
            read_randomly,
        ),
        row(
            "random_write_4k_fsync_1w",
            1,
            1_000,
            big_file,
            write_randomly,
        ),
        row(
            "random_write_4k_fsync_8w",
            8,
            2_000,
            big_file,
            write_randomly,
        ),
        Row {
            weight: UNTARRED / scale,
            ..row("untar", 1, 1, tarball, untar)
        },
        Row {
            unit: Unit::Seconds,
            ..row("git_clone", 1, 1, repository, clone)
        },
    ]
}

const LISTED: usize = 2_000;
const UNTARRED: usize = 5_000;

fn nothing(_: &Path, _: &Row) -> Result<()> {
    Ok(())
}

fn many_files(dir: &Path, row: &Row) -> Result<()> {
    for worker in 0..row.workers {
        for number in 0..row.operations / row.workers {
            fs::write(name(dir, worker, number), [7; KIB4])?;
        }
    }
    Ok(())
}

fn listed_files(dir: &Path, _: &Row) -> Result<()> {
    for number in 0..LISTED {
        File::create(name(dir, 0, number))?;
    }
    Ok(())
}

fn big_file(dir: &Path, row: &Row) -> Result<()> {
    let bytes = if row.unit == Unit::MegabytesPerSecond {
        row.operations * MIB
    } else {
        BASE_BYTES
    };
    let mut file = File::create(dir.join("big"))?;
    for _ in 0..bytes / MIB {
        file.write_all(&block(MIB))?;
    }
    file.sync_all()?;
    Ok(())
}

fn name(dir: &Path, worker: usize, number: usize) -> PathBuf {
    dir.join(format!("w{worker}-f{number:06}"))
}

/// Bytes that no file system can compress away.
fn block(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn create(dir: &Path, worker: usize, _: usize) -> Result<Operation> {
    let dir = dir.to_owned();
    Ok(Box::new(move |number| {
        File::create_new(name(&dir, worker, number))
            .map(drop)
            .context("create")
    }))
}

fn stat(dir: &Path, worker: usize, _: usize) -> Result<Operation> {
    let dir = dir.to_owned();
    Ok(Box::new(move |number| {
        fs::metadata(name(&dir, worker, number))
            .map(drop)
            .context("stat")
    }))
}

fn open_close(dir: &Path, worker: usize, _: usize) -> Result<Operation> {
    let dir = dir.to_owned();
    Ok(Box::new(move |number| {
        File::open(name(&dir, worker, number))
            .map(drop)
            .context("open")
    }))
}

fn list(dir: &Path, _: usize, _: usize) -> Result<Operation> {
    let dir = dir.to_owned();
    Ok(Box::new(move |_| {
        let mut count = 0;
        for entry in fs::read_dir(&dir)? {
            entry?.metadata()?;
            count += 1;
        }
        ensure!(count == LISTED, "listed {count} of {LISTED}");
        Ok(())
    }))
}

fn rename(dir: &Path, worker: usize, _: usize) -> Result<Operation> {
    let dir = dir.to_owned();
    Ok(Box::new(move |number| {
        let old = name(&dir, worker, number);
        fs::rename(&old, old.with_extension("renamed")).context("rename")
    }))
}

fn unlink(dir: &Path, worker: usize, _: usize) -> Result<Operation> {
    let dir = dir.to_owned();
    Ok(Box::new(move |number| {
        fs::remove_file(name(&dir, worker, number)).context("unlink")
    }))
}

fn write_file(dir: &Path, worker: usize, _: usize) -> Result<Operation> {
    let dir = dir.to_owned();
    let body = block(KIB4);
    Ok(Box::new(move |number| {
        fs::write(name(&dir, worker, number), &body).context("write")
    }))
}

fn write_file_synced(dir: &Path, worker: usize, _: usize) -> Result<Operation> {
    let dir = dir.to_owned();
    let body = block(KIB4);
    Ok(Box::new(move |number| {
        let mut file = File::create(name(&dir, worker, number))?;
        file.write_all(&body)?;
        file.sync_all().context("fsync")
    }))
}

fn read_file(dir: &Path, worker: usize, _: usize) -> Result<Operation> {
    let dir = dir.to_owned();
    Ok(Box::new(move |number| {
        let bytes = fs::read(name(&dir, worker, number))?;
        ensure!(bytes.len() == KIB4, "{} bytes", bytes.len());
        Ok(())
    }))
}

fn write_sequentially(dir: &Path, _: usize, count: usize) -> Result<Operation> {
    let mut file = File::create(dir.join("big"))?;
    let body = block(MIB);
    Ok(Box::new(move |number| {
        file.write_all(&body)?;
        // The last one pays for all: the row's time ends when everything is stable.
        if number + 1 == count {
            file.sync_all().context("fsync")
        } else {
            Ok(())
        }
    }))
}

fn read_sequentially(dir: &Path, _: usize, _: usize) -> Result<Operation> {
    let mut file = File::open(dir.join("big"))?;
    let mut body = vec![0; MIB];
    Ok(Box::new(move |_| {
        file.read_exact(&mut body).context("read")
    }))
}

/// Offsets that repeat from run to run.
fn offsets(worker: usize) -> impl FnMut() -> u64 {
    let mut state = 88_172_645_463_325_252_u64 + worker as u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % (BASE_BYTES / KIB4) as u64) * KIB4 as u64
    }
}

fn read_randomly(dir: &Path, worker: usize, _: usize) -> Result<Operation> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(dir.join("big"))?;
    let mut offset = offsets(worker);
    let mut room = vec![0_u8; 2 * KIB4];
    // O_DIRECT wants an aligned buffer.
    let start = room.as_ptr().align_offset(KIB4);
    Ok(Box::new(move |_| {
        let buffer = room.get_mut(start..start + KIB4).context("alignment")?;
        file.read_exact_at(buffer, offset()).context("read")
    }))
}

fn write_randomly(dir: &Path, worker: usize, _: usize) -> Result<Operation> {
    let file = OpenOptions::new().write(true).open(dir.join("big"))?;
    let mut offset = offsets(worker);
    let body = block(KIB4);
    Ok(Box::new(move |_| {
        file.write_all_at(&body, offset())?;
        file.sync_data().context("fdatasync")
    }))
}

/// Where prepared input lies, outside what is measured.
fn outside(dir: &Path, what: &str) -> PathBuf {
    let tag = dir
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    std::env::temp_dir().join(format!("{tag}-{what}"))
}

fn tarball(dir: &Path, row: &Row) -> Result<()> {
    let tree = outside(dir, "tree");
    let body = block(64 << 10);
    for number in 0..row.weight {
        let folder = tree.join(format!("dir{}", number / 50));
        fs::create_dir_all(&folder)?;
        let bytes = 500 + (number * 7919) % 24_000;
        fs::write(
            folder.join(format!("file{number}")),
            body.get(..bytes).context("block is long enough")?,
        )?;
    }
    sh(&format!(
        "tar -C {tree} -cf {tar} . && rm -r {tree}",
        tree = tree.display(),
        tar = outside(dir, "tar").display()
    ))
}

fn untar(dir: &Path, _: usize, _: usize) -> Result<Operation> {
    let line = format!(
        "tar -C {} -xf {tar} && rm {tar}",
        dir.display(),
        tar = outside(dir, "tar").display()
    );
    Ok(Box::new(move |_| sh(&line)))
}

fn repository(dir: &Path, _: &Row) -> Result<()> {
    let (tree, body) = (outside(dir, "repo"), block(64 << 10));
    for number in 0..3_000_usize {
        let folder = tree.join(format!("dir{}", number / 50));
        fs::create_dir_all(&folder)?;
        fs::write(
            folder.join(format!("file{number}")),
            body.get(..100 + (number * 7919) % 12_000)
                .context("long enough")?,
        )?;
    }
    sh(&format!(
        "cd {} && git init -q . && git add -A && git -c user.name=b -c user.email=b@example.org commit -q -m all",
        tree.display()
    ))
}

fn clone(dir: &Path, _: usize, _: usize) -> Result<Operation> {
    let line = format!(
        "git clone -q file://{repo} {}/clone && git -C {}/clone status --porcelain && rm -rf {repo}",
        dir.display(),
        dir.display(),
        repo = outside(dir, "repo").display()
    );
    Ok(Box::new(move |_| sh(&line)))
}

fn sh(line: &str) -> Result<()> {
    let status = Command::new("sh")
        .args(["-ec", line])
        .status()
        .context("sh")?;
    ensure!(status.success(), "`{line}`: {status}");
    Ok(())
}
