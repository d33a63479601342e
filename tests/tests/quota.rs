//! Quotas of volumes, as programs and operators meet them.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use serde_json::Value;
use tests::Cluster;

const MIB: u64 = 1 << 20;
const QUOTA: u64 = 32 * MIB;

fn is_over(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EDQUOT)
}

fn must_be_over<T>(outcome: io::Result<T>, what: &str) -> Result<()> {
    match outcome {
        Ok(_) => bail!("{what} was done beyond the quota"),
        Err(error) => {
            ensure!(is_over(&error), "{what}: {error}");
            Ok(())
        }
    }
}

/// Writes pieces of a MiB one after the other until the quota is used up; returns the bytes written.
fn write_until_over(file: &mut File) -> Result<u64> {
    let piece = vec![7; usize::try_from(MIB)?];
    let mut written = 0;
    loop {
        match file.write_all(&piece) {
            Ok(()) => written += MIB,
            Err(error) if is_over(&error) => return Ok(written),
            Err(error) => return Err(error).context("write"),
        }
        ensure!(written <= 64 * QUOTA, "the quota is not kept at all");
    }
}

fn quota(cluster: &Cluster, args: &[&str]) -> Result<Value> {
    let text = cluster.admin(&[&["--output", "json", "quota"], args].concat())?;
    serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
}

/// Size, free bytes, inodes and free inodes, as df shows them.
fn df(mount: &Path) -> Result<[u64; 4]> {
    let stat = statvfs(mount)?;
    Ok([
        stat.blocks() * stat.fragment_size(),
        stat.blocks_available() * stat.fragment_size(),
        stat.files(),
        stat.files_free(),
    ])
}

#[test]
fn volume_takes_its_quota_and_no_more_and_deleting_makes_room_at_once() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let [_, free, _, _] = df(&cluster.mount())?;
    ensure!(free > 2 * QUOTA, "the machine has only {free} bytes free");
    quota(&cluster, &["set", "default", "--bytes", "32MiB"])?;
    // It asks when it is mounted; the other one hears of the quota when it writes.
    let mount = cluster.mount_again("second")?;
    ensure!(df(&mount)?[..2] == [QUOTA, QUOTA], "{:?}", df(&mount)?);

    let mut file = File::create(mount.join("file"))?;
    ensure!(write_until_over(&mut file)? == QUOTA);
    file.sync_all()?;
    ensure!(df(&mount)?[..2] == [QUOTA, 0], "{:?}", df(&mount)?);
    let shown = quota(&cluster, &["show", "default"])?;
    ensure!(shown["used_bytes"] == QUOTA, "{shown}");
    ensure!(cluster.admin(&["status"])?.contains("has used its quota"));

    what_needs_no_room_goes_on(&mount, &file)?;
    must_be_over(file.set_len(QUOTA + 1), "a longer file")?;
    let longer = fallocate(&file, FallocateFlags::empty(), 0, i64::try_from(QUOTA)? + 1);
    must_be_over(longer.map_err(io::Error::from), "fallocate")?;
    let mut log = File::options().append(true).open(mount.join("file"))?;
    must_be_over(log.write_all(b"x"), "an append")?;
    drop(log);

    // Room is there as soon as the call that makes it returns.
    file.set_len(QUOTA / 2)?;
    file.write_all_at(b"x", QUOTA - 1)?;
    drop(file);
    fs::remove_file(mount.join("file"))?;
    // Closing is told behind the back of close(2), if there was nothing left to write.
    let removed = Instant::now();
    wait_empty(&mut cluster, &mount)?;
    println!("removing a file made room after {:?}", removed.elapsed());
    let mut file = File::create(mount.join("again"))?;
    ensure!(write_until_over(&mut file)? == QUOTA);
    drop(file);
    fs::remove_file(mount.join("again"))?;
    wait_empty(&mut cluster, &mount)?;

    an_open_file_that_was_removed_still_counts(&mut cluster, &mount)?;
    quota_is_kept_whoever_leads(&mut cluster, &mount)?;
    quota(&cluster, &["clear", "default"])?;
    ensure!(quota(&cluster, &["show"])?[0]["quota_bytes"].is_null());
    fs::write(mount.join("free"), vec![1; usize::try_from(2 * QUOTA)?])?;
    cluster.down()
}

fn wait_empty(cluster: &mut Cluster, mount: &Path) -> Result<()> {
    cluster.wait_for("the whole quota to be free", |_| {
        Ok(df(mount)?[..2] == [QUOTA, QUOTA])
    })
}

/// At the quota.
fn what_needs_no_room_goes_on(mount: &Path, file: &File) -> Result<()> {
    file.write_all_at(b"overwritten", QUOTA / 2)?;
    file.sync_all()?;
    let mut found = [0; 11];
    File::open(mount.join("file"))?.read_exact_at(&mut found, QUOTA / 2)?;
    ensure!(&found == b"overwritten");
    File::create(mount.join("empty"))?;
    fs::create_dir(mount.join("dir"))?;
    fs::rename(mount.join("empty"), mount.join("dir/empty"))?;
    fs::remove_dir_all(mount.join("dir"))?;
    Ok(())
}

fn an_open_file_that_was_removed_still_counts(cluster: &mut Cluster, mount: &Path) -> Result<()> {
    let mut kept = File::create(mount.join("kept"))?;
    write_until_over(&mut kept)?;
    kept.sync_all()?;
    fs::remove_file(mount.join("kept"))?;
    must_be_over(fs::write(mount.join("more"), "x"), "a write beside it")?;
    ensure!(df(mount)?[1] == 0, "{:?}", df(mount)?);
    drop(kept);
    wait_empty(cluster, mount)?;
    fs::write(mount.join("more"), "x")?;
    fs::remove_file(mount.join("more"))?;
    wait_empty(cluster, mount)
}

/// A writer gets errors while the leader dies, until the quota is raised.
fn quota_is_kept_whoever_leads(cluster: &mut Cluster, mount: &Path) -> Result<()> {
    quota(cluster, &["set", "default", "--files", "10"])?;
    ensure!(df(mount)?[2..] == [10, 10], "{:?}", df(mount)?);
    for number in 0..9 {
        File::create(mount.join(format!("file-{number}")))?;
    }
    let writer = Persistent::start(mount.join("persistent"))?;
    cluster.wait_for("the quota to be used up", |_| Ok(writer.is_refused()))?;
    let servers = cluster.servers()?;
    let leader = servers.iter().find(|server| server.state == "leader");
    let leader = leader.context("no leader")?.name.clone();
    cluster.signal(&leader, libc::SIGKILL)?;
    // That may have been the one that died.
    writer.is_refused();

    cluster.wait_for("another leader to refuse it", |_| Ok(writer.is_refused()))?;
    must_be_over(File::create(mount.join("file-10")), "an eleventh file")?;
    must_be_over(fs::create_dir(mount.join("dir")), "a directory")?;
    let shown = quota(cluster, &["show", "default"])?;
    ensure!(shown["used_files"] == 10, "{shown}");
    let used = fs::metadata(mount.join("persistent"))?.len();
    ensure!(used == QUOTA, "{used} bytes with a quota of {QUOTA}");
    fs::remove_file(mount.join("file-0"))?;
    cluster.wait_for("room for a file", |cluster| {
        Ok(quota(cluster, &["show", "default"])?["used_files"] == 9)
    })?;
    File::create(mount.join("file-10"))?;
    cluster.start_server(&leader)?;

    quota(cluster, &["set", "default", "--bytes", "40MiB"])?;
    cluster.wait_for("the writer to go on", |_| {
        Ok(fs::metadata(mount.join("persistent"))?.len() == 40 * MIB)
    })?;
    writer.end()?;
    quota(cluster, &["set", "default", "--bytes", "1MiB"])?;
    // What is there stays, and goes as always.
    let bytes = fs::read(mount.join("persistent"))?;
    ensure!(bytes.len() as u64 == 40 * MIB && bytes.iter().all(|byte| *byte == 9));
    ensure!(df(mount)?[1] == 0, "{:?}", df(mount)?);
    must_be_over(fs::write(mount.join("file-10"), "x"), "a write")?;
    fs::remove_file(mount.join("persistent"))?;
    cluster.wait_for("room", |_| Ok(df(mount)?[1] > 0))?;
    fs::write(mount.join("file-10"), "x")?;
    Ok(())
}

/// Writes 64 KiB after 64 KiB, each again while the quota is used up.
struct Persistent {
    refusals: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Persistent {
    fn start(path: PathBuf) -> Result<Self> {
        let file = File::create(path)?;
        let refusals = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (count, stopped) = (Arc::clone(&refusals), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let piece = [9; 64 << 10];
            let mut at = 0;
            while !stopped.load(Ordering::Relaxed) {
                match file.write_all_at(&piece, at) {
                    Ok(()) => at += piece.len() as u64,
                    Err(error) if is_over(&error) => {
                        count.fetch_add(1, Ordering::Relaxed);
                        file.sync_data()?;
                    }
                    Err(error) => return Err(error).context("write"),
                }
            }
            Ok(file.sync_all()?)
        });
        Ok(Self {
            refusals,
            stop,
            thread,
        })
    }

    /// Whether it was refused since the last look.
    fn is_refused(&self) -> bool {
        self.refusals.swap(0, Ordering::Relaxed) > 0
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.map_err(|_| anyhow::anyhow!("the writer panicked"))?
    }
}

/// Pieces that a writer had written, and when.
type Written = Vec<(Instant, u64)>;

/// About 25 MB/s: the bound is one of time, and this machine's disk is not to be filled.
const PACE: Duration = Duration::from_millis(10);
const PIECE: usize = 256 << 10;

fn paced_writer(path: PathBuf) -> JoinHandle<Result<Written>> {
    thread::spawn(move || {
        let mut file = File::create(path)?;
        let mut written = Written::new();
        loop {
            match file.write_all(&[5; PIECE]) {
                Ok(()) => written.push((Instant::now(), PIECE as u64)),
                Err(error) if is_over(&error) => return Ok(written),
                Err(error) => return Err(error).context("write"),
            }
            thread::park_timeout(PACE);
        }
    })
}

/// Two mounts write to one volume, neither knows what the other has written and not reported.
#[test]
fn mounts_that_write_together_stop_within_two_seconds() -> Result<()> {
    const BOUND: Duration = Duration::from_secs(2);
    /// For a busy machine, on which messages and threads wait.
    const SLACK: Duration = Duration::from_secs(3);
    let mut cluster = Cluster::start()?;
    quota(&cluster, &["set", "default", "--bytes", "96MiB"])?;
    let mounts = [
        cluster.mount_again("second")?,
        cluster.mount_again("third")?,
    ];

    let writers = mounts
        .each_ref()
        .map(|mount| paced_writer(mount.join(mount.file_name().unwrap_or_default())));
    let mut written = Written::new();
    for writer in writers {
        let ended = writer.join();
        written.extend(ended.map_err(|_| anyhow::anyhow!("a writer panicked"))??);
    }

    written.sort_unstable();
    let mut total = 0;
    let mut reached = None;
    for (at, bytes) in &written {
        total += bytes;
        if total >= 96 * MIB {
            reached.get_or_insert(*at);
        }
    }
    let reached = reached.context("both were refused before the quota was used up")?;
    let last = written.last().context("nothing was written")?.0;
    let late = last - reached;
    let over = total - 96 * MIB;
    println!("two mounts at 25 MB/s each: {over} bytes over the quota, the last {late:?} after it");
    ensure!(late < BOUND + SLACK, "{late:?} after the quota was used up");
    // Both are refused now, and df shows nothing free.
    for mount in &mounts {
        must_be_over(fs::write(mount.join("more"), "x"), "a write")?;
        ensure!(df(mount)?[1] == 0);
    }
    cluster.down()
}

/// A mount that was there before the quota hears of it while it writes.
#[test]
fn writer_hears_of_a_new_quota_within_two_seconds() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let writer = paced_writer(cluster.mount().join("file"));
    cluster.wait_for("something to be written", |cluster| {
        Ok(fs::metadata(cluster.mount().join("file")).is_ok_and(|file| file.len() > 0))
    })?;
    quota(&cluster, &["set", "default", "--bytes", "1MiB"])?;
    let set = Instant::now();

    let ended = writer.join();
    let written = ended.map_err(|_| anyhow::anyhow!("the writer panicked"))??;

    let last = written.last().context("nothing was written")?.0;
    let late = last.saturating_duration_since(set);
    println!("a mount that writes heard of a quota after {late:?}");
    ensure!(late < Duration::from_secs(5), "{late:?}");
    cluster.down()
}
