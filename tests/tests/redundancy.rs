//! Replicas are brought elsewhere: from a server that is drained, from one that died, and when a volume
//! wants another number, while programs work on the files.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::Cluster;

const FILES: usize = 60;

fn content(number: usize) -> Vec<u8> {
    let line = format!("file {number} of {FILES}\n");
    line.repeat(1 + number * 40).into_bytes()
}

fn path(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("file-{number}"))
}

fn make_files(dir: &Path) -> Result<()> {
    for number in 0..FILES {
        fs::write(path(dir, number), content(number))?;
    }
    Ok(())
}

fn check_files(dir: &Path) -> Result<()> {
    for number in 0..FILES {
        let found = fs::read(path(dir, number)).with_context(|| format!("file {number}"))?;
        ensure!(found == content(number), "file {number} differs");
    }
    Ok(())
}

/// Appends lines to a file and syncs each, until it is told to stop.
struct Writer {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Writer {
    fn start(path: PathBuf) -> Result<Self> {
        let mut file = File::create(&path)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut lines = 0;
            while !stopped.load(Ordering::Relaxed) {
                writeln!(file, "line {lines}").with_context(|| format!("line {lines}"))?;
                file.sync_data().with_context(|| format!("sync {lines}"))?;
                lines += 1;
            }
            Ok(lines)
        });
        Ok(Self { path, stop, thread })
    }

    /// Every line that was written is there, once.
    fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        let lines = ended.map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        let text = fs::read_to_string(&self.path)?;
        ensure!(lines > 0, "nothing was written");
        let expected: String = (0..lines).map(|line| format!("line {line}\n")).collect();
        ensure!(text == expected, "the lines differ after {lines}");
        Ok(())
    }
}

fn groups(cluster: &Cluster) -> Result<Vec<Value>> {
    let text = cluster.admin(&["--output", "json", "pg", "list"])?;
    serde_json::from_str(&text).with_context(|| format!("no list: {text}"))
}

fn numbers(group: &Value, key: &str) -> Vec<u64> {
    let list = group[key].as_array();
    list.into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .collect()
}

/// Waits until every group is full with so many members, none of them `without`, and nothing changes.
fn wait_settled(cluster: &mut Cluster, replicas: usize, without: &[u64]) -> Result<()> {
    let waited = cluster.wait_for("the replicas to be where they should", |cluster| {
        let groups = groups(cluster)?;
        Ok(groups.iter().all(|group| {
            let members = numbers(group, "osds");
            members.len() == replicas
                && group["state"] == "full"
                && numbers(group, "previous").is_empty()
                && members.iter().all(|osd| !without.contains(osd))
        }))
    });
    waited.with_context(|| format!("{:?}", groups(cluster)))
}

/// Whether there is nothing but directories in the store of a server.
fn is_empty(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else {
        // Removed meanwhile; or it is a file.
        return !dir.exists();
    };
    entries.flatten().all(|entry| is_empty(&entry.path()))
}

#[test]
fn server_is_drained_and_removed_while_programs_write() -> Result<()> {
    let mut cluster = Cluster::start()?;
    make_files(&cluster.mount())?;
    let writer = Writer::start(cluster.mount().join("log"))?;
    let store = cluster.server("osd-1")?.dir;
    cluster.start_new_osd()?;

    cluster.admin(&["osd", "drain", "1"])?;

    wait_settled(&mut cluster, 3, &[1])?;
    check_files(&cluster.mount())?;
    let pgs = store.join("pgs");
    cluster.wait_for("the drained server to be empty", |_| Ok(is_empty(&pgs)))?;
    let refused = cluster.admin(&["osd", "remove", "1"]).unwrap_err();
    ensure!(
        format!("{refused:#}").contains("stop it first"),
        "{refused:#}"
    );
    cluster.signal("osd-1", libc::SIGTERM)?;
    cluster.wait_for("osd-1 to be down", |cluster| {
        Ok(cluster.server("osd-1")?.state == "down")
    })?;
    cluster.admin(&["osd", "remove", "1"])?;
    ensure!(cluster.server("osd-1").is_err(), "it is still listed");
    writer.finish()?;
    check_files(&cluster.mount())?;
    cluster.down()
}

#[test]
fn dead_server_is_replaced_and_then_another_one_may_die() -> Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.down()?;
    for number in 1..=3 {
        let config = cluster.dir().join(format!("config/mrc-{number}.toml"));
        let text = fs::read_to_string(&config)?;
        fs::write(&config, format!("rescue_grace_ms = 2000\n{text}"))?;
    }
    cluster.up()?;
    cluster.wait_full()?;
    make_files(&cluster.mount())?;
    let writer = Writer::start(cluster.mount().join("log"))?;
    cluster.start_new_osd()?;

    cluster.signal("osd-2", libc::SIGKILL)?;
    wait_settled(&mut cluster, 3, &[2])?;

    // Redundancy is back: it must take another death.
    cluster.signal("osd-3", libc::SIGKILL)?;
    check_files(&cluster.mount())?;
    writer.finish()?;

    // Two servers are left for three replicas.
    cluster.start_server("osd-3")?;
    cluster.start_server("osd-2")?;
    wait_settled(&mut cluster, 3, &[])?;
    check_files(&cluster.mount())?;
    cluster.down()
}

#[test]
fn volume_gets_fewer_replicas_and_more_again() -> Result<()> {
    let mut cluster = Cluster::start()?;
    make_files(&cluster.mount())?;
    let writer = Writer::start(cluster.mount().join("log"))?;

    cluster.admin(&["volume", "set", "default", "--replicas", "1"])?;
    wait_settled(&mut cluster, 1, &[])?;
    check_files(&cluster.mount())?;
    cluster.admin(&["volume", "set", "default", "--replicas", "3"])?;
    wait_settled(&mut cluster, 3, &[])?;

    writer.finish()?;
    check_files(&cluster.mount())?;
    cluster.down()
}
