//! All metadata servers are replaced, one after the other, while programs work: mounts and object servers
//! go on with the new ones, and find them again after a restart.

use std::fs::{self, File};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::Cluster;

/// Ids of the metadata servers that vote, as the leader says.
fn voters(cluster: &Cluster) -> Result<Vec<u64>> {
    let text = cluster.admin(&["--output", "json", "mrc", "list"])?;
    let list: Value = serde_json::from_str(&text)?;
    let voters = list.as_array().into_iter().flatten();
    let voters = voters.filter(|server| server["voter"] == true);
    Ok(voters.filter_map(|server| server["id"].as_u64()).collect())
}

#[test]
fn all_metadata_servers_are_replaced_under_a_mount_that_is_used() -> Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.wait_full()?;
    let dir = cluster.mount();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let writer = thread::spawn(move || -> Result<(u64, Duration)> {
        let (mut files, mut longest) = (0, Duration::ZERO);
        while !stopped.load(Ordering::Relaxed) {
            let started = Instant::now();
            let name = dir.join(format!("file-{files}"));
            let mut file = File::create_new(&name).with_context(|| format!("file {files}"))?;
            writeln!(file, "content {files}")?;
            file.sync_data().with_context(|| format!("sync {files}"))?;
            longest = longest.max(started.elapsed());
            files += 1;
        }
        Ok((files, longest))
    });

    for old in 1..=3 {
        let new = cluster.start_new_mrc()?;
        cluster.admin(&["mrc", "replace", &old.to_string(), &new])?;
        // Doing it again does nothing.
        cluster.admin(&["mrc", "replace", &old.to_string(), &new])?;
    }

    ensure!(voters(&cluster)? == [4, 5, 6], "{:?}", voters(&cluster)?);
    for old in ["mrc-1", "mrc-2", "mrc-3"] {
        ensure!(cluster.server(old).is_err(), "{old} is still listed");
    }
    // Its configuration names none of the present ones.
    cluster.signal("osd-1", libc::SIGKILL)?;
    cluster.start_server("osd-1")?;
    cluster.wait_full()?;
    stop.store(true, Ordering::Relaxed);
    let ended = writer.join();
    let (files, longest) = ended.map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    ensure!(files > 0, "nothing was written");
    eprintln!("{files} files, the longest took {longest:?}");
    cluster.down()?;

    cluster.up()?;
    cluster.wait_full()?;
    for number in 0..files {
        let text = fs::read_to_string(cluster.mount().join(format!("file-{number}")))?;
        ensure!(
            text == format!("content {number}\n"),
            "file {number} has {text:?}"
        );
    }
    cluster.down()
}
