//! The main job on object servers whose stores are on ZFS: a real pool, real programs, killed servers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

#[expect(dead_code, reason = "the driver's tests use the rest")]
#[path = "../../osd/zfs/tests/real_pool/machine.rs"]
mod machine;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::{Cluster, Tree, kill, make_git_repository, make_sparse_and_odd_files, replicas_differ};

use machine::Machine;

fn stores(cluster: &Cluster) -> Result<Vec<PathBuf>> {
    let servers = cluster.servers()?.into_iter();
    let osds = servers.filter(|server| server.role == "osd");
    Ok(osds.map(|server| server.dir).collect())
}

/// Datasets of placement groups of a server.
fn groups(above: &str, server: &str) -> usize {
    let listed = machine::run("zfs", &["list", "-H", "-r", "-o", "name", above]);
    let prefix = format!("{above}/{server}/");
    let below = listed.lines().filter_map(|name| name.strip_prefix(&prefix));
    // <volume>/<pg>
    below.filter(|name| name.contains('/')).count()
}

fn must_hold(mount: &Path, trees: &[(&str, Tree)]) -> Result<()> {
    for (name, before) in trees {
        before.must_equal(&Tree::read(&mount.join(name))?)?;
    }
    Ok(())
}

#[test]
fn files_on_zfs_survive_killed_servers_restarts_and_the_death_of_the_daemon() -> Result<()> {
    // Declared before the cluster, so that it goes after it.
    let mut machine = Machine::take();
    let pool = machine.pool("up", &[], 4);
    let above = format!("{}/oxfs", pool.name());
    let mut cluster = Cluster::start_with(&["--store", "zfs", "--zfs-dataset", &above])?;
    let mount = cluster.mount();
    let mut trees = Vec::new();
    let note = |name| -> Result<_> { Ok((name, Tree::read(&mount.join(name))?)) };

    make_git_repository(&mount.join("git"), 5)?;
    trees.push(note("git")?);
    cluster.wait_full()?;
    kill(cluster.server("osd-2")?.pid)?;
    fs::create_dir(mount.join("odd"))?;
    make_sparse_and_odd_files(&mount.join("odd"))?;
    trees.push(note("odd")?);
    must_hold(&mount, &trees)?;
    cluster.start_server("osd-2")?;
    cluster.wait_full()?;
    must_hold(&mount, &trees)?;
    for server in ["osd-1", "osd-2", "osd-3"] {
        ensure!(groups(&above, server) > 0, "{server} has no dataset");
    }

    let text = cluster.admin(&["--output", "json", "osd", "show", "2"])?;
    let shown: Value = serde_json::from_str(&text)?;
    ensure!(shown["pool"]["state"] == "online", "{shown}");
    ensure!(
        shown["pool"]["dataset"] == format!("{above}/osd-2"),
        "{shown}"
    );

    let stores = stores(&cluster)?;
    cluster.down()?;
    let differences = replicas_differ(&stores)?;
    ensure!(differences.is_empty(), "{differences:#?}");
    if !machine.lose_power() {
        eprintln!("ZFS is in the kernel: its death is not tried");
    }
    cluster.up()?;
    cluster.wait_full()?;
    must_hold(&mount, &trees)?;

    // Datasets go with what they held.
    cluster.start_new_osd()?;
    cluster.admin(&["osd", "drain", "3"])?;
    cluster.wait_for("the datasets of the drained server to go", |_| {
        Ok(groups(&above, "osd-3") == 0)
    })?;
    ensure!(groups(&above, "osd-4") > 0, "the new server has no dataset");
    must_hold(&mount, &trees)?;
    cluster.down()
}
