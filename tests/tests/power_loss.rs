//! Everything is killed at once and started again.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use tests::{Cluster, Tree, dependency_sources, replicas_differ, run};

#[test]
fn what_was_synced_is_there_after_everything_was_killed_at_once() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let mount = cluster.mount();

    // Written and followed by one sync(1): all of it must be there.
    for source in dependency_sources()?.iter().take(12) {
        run(&mount, "cp", &["-a", &source.display().to_string(), "."])?;
    }
    run(&mount, "sync", &["-f", "."])?;
    let expected = Tree::read(&mount)?;

    // Under way at the kill: every record whose fsync returned must be there.
    let synced = Arc::new(AtomicU64::new(0));
    let end = Arc::new(AtomicBool::new(false));
    let writer = {
        let (synced, end) = (Arc::clone(&synced), Arc::clone(&end));
        let mut log = File::create(mount.join("log"))?;
        let unsynced = mount.join("unsynced");
        std::thread::spawn(move || {
            let mut count = 0_u64;
            while !end.load(Ordering::Relaxed) {
                let written = writeln!(log, "{count:015}")
                    .and_then(|()| log.sync_all())
                    .and_then(|()| fs::write(&unsynced, vec![count as u8; 300_000]));
                if written.is_err() {
                    return;
                }
                count += 1;
                synced.store(count, Ordering::Relaxed);
            }
        })
    };
    cluster.wait_for("some synced records", |_| {
        Ok(synced.load(Ordering::Relaxed) > 20)
    })?;
    let at_least = synced.load(Ordering::Relaxed);
    cluster.kill_everything()?;
    end.store(true, Ordering::Relaxed);
    writer
        .join()
        .map_err(|_| anyhow::anyhow!("the writer panicked"))?;

    cluster.up()?;

    let log = fs::read_to_string(mount.join("log"))?;
    ensure!(
        log.len() as u64 >= at_least * 16,
        "{} of {at_least} synced records",
        log.len() / 16
    );
    for (number, line) in log.lines().enumerate().take(at_least as usize) {
        ensure!(
            line == format!("{number:015}"),
            "record {number} reads {line:?}"
        );
    }
    fs::remove_file(mount.join("log"))?;
    fs::remove_file(mount.join("unsynced")).ok();
    expected
        .must_equal(&Tree::read(&mount)?)
        .context("what was written before sync")?;
    // The tree is consistent: everything can be walked, changed and removed.
    run(&mount, "mkdir", &["still-works"])?;
    cluster.wait_full()?;

    let stores: Vec<PathBuf> = servers_of(&cluster, "osd")?;
    cluster.down()?;
    let differences = replicas_differ(&stores)?;
    ensure!(
        differences.is_empty(),
        "replicas differ:\n{}",
        differences.join("\n")
    );
    Ok(())
}

/// The mount lives on while all object servers lose power: what it had written since the last fsync
/// is gone, and the next fsync must say so.
#[test]
fn fsync_after_a_loss_of_power_does_not_hide_what_is_gone() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let path = cluster.mount().join("file");
    let mut file = File::create(&path)?;
    file.write_all(&[1; 100_000])?;
    file.sync_all()?;
    // What is on the disks now is what will be found after the loss.
    let stores: Vec<PathBuf> = servers_of(&cluster, "osd")?;
    for dir in &stores {
        run(dir, "cp", &["-a", "pgs", "stable"])?;
    }
    file.write_all(&[2; 100_000])?;
    // Closing one of two descriptors waits until a majority has it, in memory.
    drop(file.try_clone()?);

    let names = cluster.names("osd")?;
    for name in &names {
        cluster.signal(name, libc::SIGKILL)?;
    }
    for dir in &stores {
        run(dir, "rm", &["-r", "pgs"])?;
        run(dir, "mv", &["stable", "pgs"])?;
    }
    for name in &names {
        cluster.start_server(name)?;
    }
    let synced = file.sync_all();

    let found = fs::read(&path)?;
    let error = synced.err().and_then(|error| error.raw_os_error());
    ensure!(
        error == Some(libc::EIO),
        "fsync said {error:?} although {} of 200000 bytes are left",
        found.len()
    );
    // It is told once, and the file can be used again.
    file.sync_all()?;
    file.write_all(&[3; 10])?;
    file.sync_all()?;
    let found = fs::read(&path)?;
    ensure!(
        found.get(..100_000) == Some(&[1; 100_000][..]),
        "synced bytes"
    );
    ensure!(found.get(200_000..) == Some(&[3; 10][..]), "later bytes");
    cluster.down()
}

#[test]
fn servers_whose_directories_were_wiped_are_rebuilt() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let mount = cluster.mount();
    for source in dependency_sources()?.iter().take(12) {
        run(&mount, "cp", &["-a", &source.display().to_string(), "."])?;
    }
    let expected = Tree::read(&mount)?;

    for name in ["osd-2", "mrc-2"] {
        let dir = cluster.server(name)?.dir;
        cluster.signal(name, libc::SIGKILL)?;
        empty_state(&dir)?;
        cluster.start_server(name)?;
        cluster
            .wait_full()
            .with_context(|| format!("after wiping {name}"))?;
        expected
            .must_equal(&Tree::read(&mount)?)
            .with_context(|| format!("after wiping {name}"))?;
    }

    // The rebuilt ones carry the cluster alone with one other: the third of each kind goes away.
    cluster.signal("osd-3", libc::SIGKILL)?;
    cluster.signal("mrc-3", libc::SIGKILL)?;
    fs::write(mount.join("after"), "written by a rebuilt majority")?;
    expected
        .must_equal(&without(&mount, "after")?)
        .context("read from a rebuilt majority")?;
    cluster.start_server("osd-3")?;
    cluster.start_server("mrc-3")?;
    cluster.wait_full()?;
    let stores: Vec<PathBuf> = servers_of(&cluster, "osd")?;
    cluster.down()?;
    let differences = replicas_differ(&stores)?;
    ensure!(
        differences.is_empty(),
        "replicas differ:\n{}",
        differences.join("\n")
    );
    Ok(())
}

fn without(mount: &std::path::Path, name: &str) -> Result<Tree> {
    fs::remove_file(mount.join(name))?;
    Tree::read(mount)
}

fn servers_of(cluster: &Cluster, role: &str) -> Result<Vec<PathBuf>> {
    let servers = cluster.servers()?;
    Ok(servers
        .into_iter()
        .filter(|server| server.role == role)
        .map(|server| server.dir)
        .collect())
}

/// Removes all a server has stored, as a replaced disk would; its configuration lies elsewhere or
/// is kept by name.
fn empty_state(dir: &std::path::Path) -> Result<()> {
    for child in fs::read_dir(dir)? {
        let path = child?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            continue;
        }
        if path.is_dir() {
            fs::remove_dir_all(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
