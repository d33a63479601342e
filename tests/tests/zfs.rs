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

/// A count of an object server.
fn count(cluster: &Cluster, osd: u64, name: &str) -> Result<u64> {
    let text = cluster.admin(&["--output", "json", "lease", "stats"])?;
    let stats: Value = serde_json::from_str(&text)?;
    let servers = stats.as_array().into_iter().flatten();
    let mut of_server = servers.filter(|server| server["osd"] == osd);
    let value = of_server.next().map(|server| &server["metrics"][name]);
    Ok(value.and_then(Value::as_u64).unwrap_or(0))
}

/// A new server takes the place of another, and gets its groups as streams while a program writes.
#[test]
fn replicas_of_a_drained_server_come_as_a_whole_while_a_program_writes() -> Result<()> {
    let mut machine = Machine::take();
    let pool = machine.pool("seed", &[], 6);
    let above = format!("{}/oxfs", pool.name());
    let mut cluster = Cluster::start_with(&["--store", "zfs", "--zfs-dataset", &above])?;
    let mount = cluster.mount();
    fs::create_dir(mount.join("large"))?;
    for number in 0..24_u64 {
        let file = mount.join(format!("large/{number}"));
        machine::write_noise(&file, 1 << 20, number + 1);
    }
    make_git_repository(&mount.join("git"), 3)?;
    let large = Tree::read(&mount.join("large"))?;
    let git = Tree::read(&mount.join("git"))?;
    cluster.wait_full()?;

    // Servers that receive are told so; a restart reads it.
    cluster.start_new_osd()?;
    let config = cluster.dir().join("config/osd-4.toml");
    let text = fs::read_to_string(&config)?;
    fs::write(
        &config,
        format!("{text}zfs_seed = true\nzfs_seed_min_bytes = 65536\n"),
    )?;
    kill(cluster.server("osd-4")?.pid)?;
    cluster.start_server("osd-4")?;
    cluster.wait_full()?;

    cluster.admin(&["osd", "drain", "3"])?;
    let written = mount.join("written");
    fs::create_dir(&written)?;
    let mut number = 0_u64;
    let seeded = |cluster: &Cluster| count(cluster, 4, "oxfs_osd_seedings{outcome=\"seeded\"}");
    cluster.wait_for("the drained server to be empty", |cluster| {
        number += 1;
        machine::write_noise(&written.join(format!("{}", number % 50)), 100_000, number);
        Ok(groups(&above, "osd-3") == 0 && seeded(cluster)? > 0)
    })?;
    let failed = count(&cluster, 4, "oxfs_osd_seedings{outcome=\"failed\"}")?;
    ensure!(failed == 0, "{failed} seedings failed");
    let bytes = count(&cluster, 4, "oxfs_osd_seed_bytes{direction=\"received\"}")?;
    ensure!(bytes > 1 << 20, "{bytes} bytes came as streams");
    let written_before = Tree::read(&written)?;
    cluster.wait_full()?;
    must_hold(
        &mount,
        &[("large", large), ("git", git), ("written", written_before)],
    )?;
    let left = machine::inventory(&pool);
    ensure!(!left.contains("oxfs-seed-"), "{left}");

    let stores = stores(&cluster)?;
    let stores: Vec<_> = stores
        .into_iter()
        .filter(|dir| !dir.ends_with("osd-3"))
        .collect();
    cluster.down()?;
    let differences = replicas_differ(&stores)?;
    ensure!(differences.is_empty(), "{differences:#?}");
    Ok(())
}
