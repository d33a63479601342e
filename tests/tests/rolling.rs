//! A rolling restart, as an upgrade does it: one server after the other is ended by SIGTERM and started again, the
//! next one only when `xfs-admin status` has nothing to say. Programs write, read and make files all the time on two
//! mounts, and none of them sees an error or misses anything.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use tests::{Cluster, Probe, Stall, wait_gone};

/// Nothing may take longer. Far above what is measured (see docs/operating.md), since the machine may be slow; a
/// program that waits for a server to come back would meet it.
const LONGEST: Duration = Duration::from_secs(10);

/// Blocks of the shared file.
const BLOCKS: u64 = 64;
const BLOCK_BYTES: usize = 16 << 10;

/// One program writes blocks with a growing number on one mount and syncs each, another reads them on the other one:
/// what was synced before a read began must be there.
struct Pair {
    end: Arc<AtomicBool>,
    longest: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<u64>>>,
    synced: Arc<AtomicU64>,
    path: PathBuf,
}

fn block(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(BLOCK_BYTES / 8)
}

/// The number that a block was written with.
fn number_in(block: &[u8]) -> Result<u64> {
    let (first, _) = block.split_first_chunk::<8>().context("a short block")?;
    let number = u64::from_le_bytes(*first);
    ensure!(
        block.chunks(8).all(|it| it == first),
        "a block is a mixture of two"
    );
    Ok(number)
}

impl Pair {
    fn start(one: &Path, other: &Path) -> Result<Self> {
        let (write, read) = (one.join("blocks"), other.join("blocks"));
        let mut file = File::create(&write)?;
        for number in 0..BLOCKS {
            file.write_all(&block(number))?;
        }
        file.sync_all()?;
        let end = Arc::new(AtomicBool::new(false));
        let (longest, synced) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicU64::new(BLOCKS)),
        );
        let timed = |longest: &AtomicU64, begun: Instant| {
            let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            longest.fetch_max(took, Ordering::Relaxed);
        };
        let writer = {
            let (end, longest, synced) = (end.clone(), longest.clone(), synced.clone());
            std::thread::spawn(move || {
                let mut count = 0;
                while !end.load(Ordering::Relaxed) {
                    let number = synced.load(Ordering::Relaxed);
                    let begun = Instant::now();
                    file.seek(SeekFrom::Start(number % BLOCKS * BLOCK_BYTES as u64))?;
                    file.write_all(&block(number)).context("write")?;
                    file.sync_all().context("fsync")?;
                    timed(&longest, begun);
                    synced.store(number + 1, Ordering::Release);
                    count += 1;
                }
                Ok(count)
            })
        };
        let reader = {
            let (end, longest, synced) = (end.clone(), longest.clone(), synced.clone());
            std::thread::spawn(move || {
                let mut count = 0;
                let mut file = File::open(&read)?;
                let mut bytes = vec![0; BLOCK_BYTES];
                while !end.load(Ordering::Relaxed) {
                    let newest = synced.load(Ordering::Acquire) - 1;
                    let begun = Instant::now();
                    file.seek(SeekFrom::Start(newest % BLOCKS * BLOCK_BYTES as u64))?;
                    file.read_exact(&mut bytes).context("read")?;
                    timed(&longest, begun);
                    let found = number_in(&bytes)?;
                    ensure!(found >= newest, "{newest} was synced, {found} is read");
                    count += 1;
                }
                Ok(count)
            })
        };
        Ok(Self {
            end,
            longest,
            threads: vec![writer, reader],
            synced,
            path: write,
        })
    }

    /// Longest operation since the last look, of those that are over.
    fn look(&self) -> Duration {
        Duration::from_micros(self.longest.swap(0, Ordering::Relaxed))
    }

    /// Ends them; how much each did. Everything that was synced must be there.
    fn finish(self) -> Result<Vec<u64>> {
        self.end.store(true, Ordering::Relaxed);
        let counts = self.threads.into_iter().map(|thread| {
            let ended = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
            let count = ended?;
            ensure!(count > 0, "it did nothing");
            Ok(count)
        });
        let counts = counts.collect::<Result<Vec<u64>>>()?;
        let bytes = fs::read(&self.path)?;
        let synced = self.synced.load(Ordering::Relaxed);
        for number in synced - BLOCKS..synced {
            let at = usize::try_from(number % BLOCKS)? * BLOCK_BYTES;
            let found = number_in(bytes.get(at..at + BLOCK_BYTES).context("it is short")?)?;
            ensure!(found == number, "{found} instead of {number}");
        }
        Ok(counts)
    }
}

/// Whether `xfs-admin status` has nothing to say.
fn is_whole(cluster: &Cluster) -> bool {
    cluster.status().is_ok_and(|status| {
        let nothing = status["wrong"].as_array().is_some_and(Vec::is_empty);
        let groups = &status["placement_groups"];
        nothing && groups["total"].as_u64() > Some(0) && groups["full"] == groups["total"]
    })
}

fn longest(stall: &Stall) -> Duration {
    stall.append.max(stall.stat).max(stall.create)
}

/// Restarts every server, one after the other; the longest operation of each restart.
fn restart_all(cluster: &mut Cluster, signal: i32) -> Result<Vec<(String, Duration)>> {
    let second = cluster.mount_again("second")?;
    let first = cluster.mount();
    let dirs = [first.join("one"), second.join("two")];
    for dir in &dirs {
        fs::create_dir(dir)?;
    }
    let probes = [Probe::start(&dirs[0])?, Probe::start(&dirs[1])?];
    let pair = Pair::start(&first, &second)?;
    cluster.wait_for("the cluster to be whole", |cluster| Ok(is_whole(cluster)))?;
    let mut measured = Vec::new();
    let mut names = cluster.names("mrc")?;
    names.extend(cluster.names("osd")?);
    for name in names {
        let server = cluster.server(&name)?;
        for probe in &probes {
            probe.look();
        }
        pair.look();
        let begun = Instant::now();
        cluster.signal_pid(server.pid, signal)?;
        wait_gone(server.pid)?;
        let ended = begun.elapsed();
        cluster.start_server(&name)?;
        cluster.wait_for(&format!("{name} to be back"), |cluster| {
            Ok(is_whole(cluster))
        })?;
        let whole = begun.elapsed();
        let stalls = probes.each_ref().map(Probe::look);
        let blocks = pair.look();
        let took = stalls
            .iter()
            .map(longest)
            .max()
            .unwrap_or_default()
            .max(blocks);
        eprintln!(
            "{name} ({}): ended after {ended:.1?}, whole after {whole:.1?}; longest operation {took:.0?} (append \
             {:.0?}, stat {:.0?}, create {:.0?}, blocks {blocks:.0?})",
            server.state,
            stalls[0].append.max(stalls[1].append),
            stalls[0].stat.max(stalls[1].stat),
            stalls[0].create.max(stalls[1].create),
        );
        measured.push((format!("{name} ({})", server.state), took));
    }
    for probe in probes {
        probe.end()?;
    }
    let counts = pair.finish()?;
    eprintln!("blocks written and read: {counts:?}");
    Ok(measured)
}

#[test]
fn rolling_restart_under_load_shows_no_error_and_loses_nothing() -> Result<()> {
    let mut cluster = Cluster::start()?;

    let measured = restart_all(&mut cluster, libc::SIGTERM)?;

    for (name, took) in measured {
        ensure!(took < LONGEST, "{name}: an operation took {took:?}");
    }
    cluster.down()
}
