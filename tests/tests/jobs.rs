//! What is being done about replicas is paused, limited and resumed while it runs, and whoever leads the
//! metadata cluster keeps to it.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::Cluster;

const MIB: u64 = 1 << 20;
const FILES: u64 = 24;
const FILE_BYTES: u64 = 2 * MIB;

fn json(cluster: &Cluster, args: &[&str]) -> Result<Value> {
    let text = cluster.admin(&[&["--output", "json"], args].concat())?;
    serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
}

fn number(value: &Value, key: &str) -> Result<u64> {
    value[key]
        .as_u64()
        .with_context(|| format!("no {key}: {value}"))
}

/// Groups that the server is a member of.
fn groups_of(cluster: &Cluster, osd: u64) -> Result<u64> {
    let list = json(cluster, &["osd", "list"])?;
    let mut servers = list.as_array().into_iter().flatten();
    let server = servers.find(|server| server["id"] == osd);
    number(server.context("no such server")?, "placement_groups")
}

/// Whether the list of jobs says so; not while a leader is too new to know.
fn says(cluster: &Cluster, text: &str) -> bool {
    let said = cluster.admin(&["job", "list"]);
    said.is_ok_and(|said| said.contains(text))
}

fn make_files(cluster: &Cluster) -> Result<()> {
    for file in 0..FILES {
        // Nothing that could be taken for zeros.
        let byte = u8::try_from(file % 250)? + 1;
        let bytes = vec![byte; usize::try_from(FILE_BYTES)?];
        fs::write(cluster.mount().join(format!("file-{file}")), bytes)?;
    }
    Ok(())
}

fn check_files(cluster: &Cluster) -> Result<()> {
    for file in 0..FILES {
        let bytes = fs::read(cluster.mount().join(format!("file-{file}")))?;
        let byte = u8::try_from(file % 250)? + 1;
        ensure!(bytes.len() as u64 == FILE_BYTES, "file {file} is short");
        ensure!(bytes.iter().all(|it| *it == byte), "file {file} differs");
    }
    Ok(())
}

#[test]
fn drain_is_limited_paused_and_resumed_whoever_leads() -> Result<()> {
    let mut cluster = Cluster::start()?;
    make_files(&cluster)?;
    cluster.start_new_osd()?;
    cluster.wait_full()?;
    cluster.wait_for("the leader to look", |cluster| {
        Ok(json(cluster, &["job", "show"]).is_ok())
    })?;
    let before = number(&json(&cluster, &["job", "show"])?, "moved_bytes")?;

    // Paused before it begins: nothing happens, and that is said.
    cluster.admin(&["job", "pause"])?;
    cluster.admin(&["osd", "drain", "1", "--no-wait"])?;
    cluster.wait_for("the pause to be told", |cluster| {
        Ok(says(cluster, "paused"))
    })?;
    let leader = cluster.servers()?;
    let mut leader = leader.into_iter().filter(|server| server.state == "leader");
    let leader = leader.next().context("no leader")?.name;
    cluster.signal(&leader, libc::SIGKILL)?;
    cluster.start_server(&leader)?;
    cluster.wait_for("the next leader to look", |cluster| {
        Ok(says(cluster, "paused"))
    })?;
    ensure!(groups_of(&cluster, 1)? == 32, "it was begun nevertheless");

    // A limit that keeps it going for a while: 48 MiB to copy.
    let limit = 4 * MIB;
    cluster.admin(&["job", "limit", "4MiB"])?;
    let started = Instant::now();
    cluster.admin(&["job", "resume"])?;
    cluster.wait_for("half of it to be moved", |cluster| {
        Ok(groups_of(cluster, 1)? <= 20)
    })?;
    let shown = json(&cluster, &["job", "show"])?;
    ensure!(number(&shown, "limit_bytes_per_s")? == limit, "{shown}");
    let moved = number(&shown, "moved_bytes")?.saturating_sub(before);
    let time = started.elapsed();
    eprintln!("{moved} bytes in {time:?}: {shown}");
    // Some windows of blocks leave ahead of their time.
    let most = limit * (time.as_secs() + 1) + 16 * MIB;
    ensure!(moved <= most, "{moved} bytes in {time:?}: {shown}");
    ensure!(number(&shown, "left_bytes")? > 0, "{shown}");

    // In the middle: what is under way ends or is held, and nothing new begins.
    cluster.admin(&["job", "pause"])?;
    cluster.wait_for("what is under way to come to rest", |cluster| {
        Ok(number(&json(cluster, &["job", "show"])?, "rate_bytes_per_s")? == 0)
    })?;
    let left = groups_of(&cluster, 1)?;
    ensure!(left > 0, "nothing was left to be paused");
    check_files(&cluster)?;

    cluster.admin(&["job", "limit", "default"])?;
    cluster.admin(&["job", "resume"])?;
    cluster.admin(&["osd", "drain", "1"])?;
    cluster.wait_for("all to be full", |cluster| {
        Ok(number(&json(cluster, &["job", "show"])?, "groups_healthy")? == 32)
    })?;
    check_files(&cluster)?;
    cluster.down()
}
