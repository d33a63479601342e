//! Compares engines for the index with the records of a million files.
//!
//! Each engine runs in a process of its own, is killed while it writes, and is opened again.
//! `cargo run -p mrc --release --example index_engines [files]` prints a table. `redb` has checksums
//! behind its pages, as in the server, and `redb-bare` has none. `CACHE_MIB` in the environment: memory for
//! each engine, 256 without.

#![expect(clippy::print_stdout, reason = "the table is the product")]

#[path = "fjall_index.rs"]
mod fjall_index;
#[path = "../../src/page_sums.rs"]
mod page_sums;
#[path = "../../src/index_redb.rs"]
mod redb_index;
#[path = "sled_index.rs"]
mod sled_index;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mrc_core::{Batch, Index, Visit, keys};
use prost::Message;
use proto::index::{DentryRecord, InodeRecord};
use types::{Inode, VolumeId};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const VOLUME: VolumeId = VolumeId(1);
/// Files made by one batch: what a busy server applies at once.
const BATCH: u64 = 512;
const DIRECTORY: u64 = 1000;
const CACHE_MIB: usize = 256;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["child", engine, dir, files] => child(engine, Path::new(dir), files.parse()?),
        ["reopen", engine, dir] => reopen(engine, Path::new(dir)),
        [files] => compare(files.parse()?),
        _ => compare(1_000_000),
    }
}

fn compare(files: u64) -> Result<()> {
    for engine in ["redb", "redb-bare", "fjall", "sled"] {
        let dir = tempfile::tempdir_in(".")?;
        let store = dir.path().join("store");
        let this = std::env::current_exe()?;
        let mut child = Command::new(&this)
            .args(["child", engine])
            .arg(&store)
            .arg(files.to_string())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        println!("## {engine}");
        for line in BufReader::new(output).lines() {
            let line = line?;
            if line == "writing" {
                std::thread::sleep(Duration::from_millis(300));
                child.kill()?;
                break;
            }
            println!("{line}");
        }
        child.wait()?;
        println!("disk {} MB", directory_bytes(&store)? >> 20);
        let again = Command::new(&this)
            .args(["reopen", engine])
            .arg(&store)
            .output()?;
        println!("{}", String::from_utf8_lossy(&again.stdout));
        if !again.status.success() {
            println!("reopen FAILED: {}", String::from_utf8_lossy(&again.stderr));
        }
    }
    Ok(())
}

fn open(engine: &str, path: &Path) -> Result<Arc<dyn Index>> {
    let cache_mib = match std::env::var("CACHE_MIB") {
        Ok(text) => text.parse()?,
        Err(_) => CACHE_MIB,
    };
    let cache_bytes = cache_mib << 20;
    Ok(match engine {
        "redb" => {
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            let file = redb::backends::FileBackend::new(file)?;
            let sums = page_sums::PageSums::new(file, path, Arc::new(|_: &str| {}));
            Arc::new(redb_index::RedbIndex::open_on(sums, cache_bytes)?)
        }
        "redb-bare" => Arc::new(redb_index::RedbIndex::open(path, cache_bytes)?),
        "fjall" => Arc::new(fjall_index::FjallIndex::open(path, cache_bytes)?),
        _ => Arc::new(sled_index::SledIndex::open(path, cache_bytes)?),
    })
}

/// The records of one batch of files, as the core writes them, and the position.
fn batch(number: u64) -> Batch {
    let mut batch = Batch::new();
    for file in number * BATCH..(number + 1) * BATCH {
        let inode = Inode(file + 2);
        let record = InodeRecord {
            mode: 0o100_644,
            uid: 1000,
            gid: 1000,
            nlink: 1,
            size_bytes: file * 7,
            atime_ns: 1_700_000_000_000_000_000 + file as i64,
            mtime_ns: 1_700_000_000_000_000_000 + file as i64,
            ctime_ns: 1_700_000_000_000_000_000 + file as i64,
            pg: (file % 32) as u32,
            data_version: 3,
            parent: file / DIRECTORY,
            has_object: true,
            ..InodeRecord::default()
        };
        let dentry = DentryRecord {
            inode: inode.0,
            kind: 0o100_000,
        };
        let parent = Inode(file / DIRECTORY + 1_000_000_000);
        let name = format!("file-{:06}.data", file % DIRECTORY);
        batch.put(keys::inode(VOLUME, inode), record.encode_to_vec());
        batch.put(
            keys::dentry(VOLUME, parent, name.as_bytes()),
            dentry.encode_to_vec(),
        );
    }
    batch.put(keys::APPLIED, number.to_be_bytes().to_vec());
    batch
}

fn child(engine: &str, path: &Path, files: u64) -> Result<()> {
    let index = open(engine, path)?;
    let batches = files / BATCH;
    let (start, cpu) = (Instant::now(), cpu_seconds()?);
    let mut flushes = Vec::new();
    for number in 0..batches {
        index.apply(batch(number))?;
        if number % 200 == 199 {
            let flushing = Instant::now();
            index.flush()?;
            flushes.push(flushing.elapsed());
        }
    }
    let flushing = Instant::now();
    index.flush()?;
    flushes.push(flushing.elapsed());
    let load = start.elapsed().as_secs_f64();
    let used = cpu_seconds()? - cpu;
    println!(
        "load {:.0} files/s, {:.1} us CPU per file",
        files as f64 / load,
        used * 1e6 / files as f64
    );
    println!(
        "flush after 100,000 files: longest {:?}",
        flushes.iter().max().ok_or("no flush")?
    );

    let mut draw = generator();
    rate("point reads", 500_000, || {
        let key = keys::inode(VOLUME, Inode(draw(files - files % BATCH) + 2));
        index.get(&key)?.ok_or("lost a file")?;
        Ok(())
    })?;
    rate("scans of 1,000 entries", 2_000, || {
        let directory = Inode(draw(files / DIRECTORY - 1) + 1_000_000_000);
        let range = keys::of_inode(b'd', VOLUME, directory);
        let mut found = 0;
        index.scan(&range.start, &range.end, &mut |_, _| {
            found += 1;
            Visit::Continue
        })?;
        if found == DIRECTORY {
            Ok(())
        } else {
            Err("lost entries".into())
        }
    })?;
    let mut operations = 0_u64;
    rate(
        "mix of 80 reads and 20 writes, each write a batch",
        200_000,
        || {
            operations += 1;
            let key = keys::inode(VOLUME, Inode(draw(files - files % BATCH) + 2));
            let value = index.get(&key)?.ok_or("lost a file")?;
            if operations.is_multiple_of(5) {
                let mut batch = Batch::new();
                batch.put(key, value);
                index.apply(batch)?;
            }
            Ok(())
        },
    )?;
    export(&index, batches)?;
    println!("memory {} MB", status_kb("VmRSS:")? >> 10);
    println!("writing");
    for number in batches + 10_000.. {
        index.apply(batch(number))?;
        if number % 200 == 199 {
            index.flush()?;
        }
    }
    Ok(())
}

/// A consistent copy while batches go on.
fn export(index: &Arc<dyn Index>, batches: u64) -> Result<()> {
    let done = Arc::new(AtomicBool::new(false));
    let writer = {
        let (index, done) = (Arc::clone(index), Arc::clone(&done));
        std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            let mut number = batches;
            while !done.load(Ordering::Relaxed) {
                let start = Instant::now();
                if index.apply(batch(number)).is_err() {
                    break;
                }
                longest = longest.max(start.elapsed());
                number += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            longest
        })
    };
    std::thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    let (mut entries, mut inodes, mut applied) = (0_u64, 0_u64, None);
    for entry in index.snapshot()? {
        let (key, value) = entry?;
        entries += 1;
        inodes += u64::from(key.first() == Some(&b'i'));
        if key == keys::APPLIED {
            applied = value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        }
    }
    let took = start.elapsed();
    done.store(true, Ordering::Relaxed);
    let longest = writer.join().map_err(|_| "the writer panicked")?;
    let consistent = applied.is_some_and(|applied| inodes == (applied + 1) * BATCH);
    println!(
        "export {:.0} entries/s, consistent: {consistent}, longest batch meanwhile {longest:?}",
        entries as f64 / took.as_secs_f64()
    );
    Ok(())
}

fn reopen(engine: &str, path: &Path) -> Result<()> {
    let start = Instant::now();
    let index = open(engine, path)?;
    let applied = index.get(keys::APPLIED)?.ok_or("no position")?;
    println!("reopen after kill -9: {:?}", start.elapsed());
    let applied = applied
        .first_chunk()
        .map(|bytes| u64::from_be_bytes(*bytes));
    let last = applied.ok_or("bad position")?;
    let whole = |number: u64| -> Result<bool> {
        for (key, value) in batch(number).into_changes() {
            if key != keys::APPLIED && index.get(&key)? != value {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let next = batch(last + 1).into_changes();
    let mut beyond = 0;
    for (key, _) in &next {
        beyond += u64::from(*key != keys::APPLIED && index.get(key)?.is_some());
    }
    println!(
        "last batch whole: {}, records of the next: {beyond}",
        whole(last)?
    );
    Ok(())
}

fn rate(name: &str, count: u64, mut once: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    for _ in 0..count {
        once()?;
    }
    println!(
        "{name}: {:.0}/s",
        count as f64 / start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// A fixed sequence (Knuth's MMIX), the same for every engine.
fn generator() -> impl FnMut(u64) -> u64 {
    let mut state = 1_u64;
    move |below| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').ok_or("odd /proc/self/stat")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
    // Fields 14 and 15 of proc(5), in hundredths of a second.
    Ok((ticks(11).ok_or("no utime")? + ticks(12).ok_or("no stime")?) / 100.0)
}

fn status_kb(name: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .ok_or("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn directory_bytes(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.blocks() * 512);
    }
    let mut sum = 0;
    for item in std::fs::read_dir(path)? {
        sum += directory_bytes(&item?.path())?;
    }
    Ok(sum)
}
