//! Removed files leave no objects behind, whatever happened to servers meanwhile.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{Cluster, Server, binary, kill};

/// The stores of all object servers, by number.
fn stores(cluster: &Cluster) -> Result<Vec<PathBuf>> {
    let mut osds = of_role(cluster, "osd")?;
    osds.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(osds.into_iter().map(|server| server.dir).collect())
}

/// Whether a store has the object of a file.
fn has_object(store: &Path, inode: u64) -> Result<bool> {
    let name = format!("{:02x}/{inode:x}.0", inode & 0xff);
    for group in fs::read_dir(store.join("pgs"))? {
        if group?.path().join(&name).exists() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits until a file's object is in all these stores, or in none.
fn wait_objects(
    cluster: &mut Cluster,
    stores: &[PathBuf],
    inode: u64,
    expected: bool,
) -> Result<()> {
    let what = match expected {
        true => format!("objects of inode {inode} everywhere"),
        false => format!("no object of inode {inode}"),
    };
    cluster.wait_for(&what, |_| {
        let has = stores.iter().map(|store| has_object(store, inode));
        let has = has.collect::<Result<Vec<_>>>()?;
        Ok(has.into_iter().all(|has| has == expected))
    })
}

/// Makes a synced file and waits until all object servers have it.
fn make_file(cluster: &mut Cluster, stores: &[PathBuf], name: &str) -> Result<u64> {
    let path = cluster.mount().join(name);
    let mut file = File::create(&path)?;
    file.write_all(name.as_bytes())?;
    file.sync_all()?;
    let inode = file.metadata()?.ino();
    drop(file);
    wait_objects(cluster, stores, inode, true)?;
    Ok(inode)
}

fn of_role(cluster: &Cluster, role: &str) -> Result<Vec<Server>> {
    let servers = cluster.servers()?.into_iter();
    Ok(servers.filter(|server| server.role == role).collect())
}

/// Object servers look for leftovers so often.
const ROUND_MS: u64 = 200;

/// Closing a duplicate of a descriptor, here that of a program which inherited it, ends nothing for the others.
#[test]
fn removed_file_stays_as_long_as_the_program_that_shared_its_descriptor_has_it() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let stores = stores(&cluster)?;
    let mut kept = Vec::new();
    for (name, removed_first) in [("before", true), ("after", false)] {
        for read in [true, false] {
            let path = cluster.mount().join(format!("{name}-{read}"));
            let mut file = File::options()
                .read(read)
                .write(true)
                .create_new(true)
                .open(&path)?;
            file.write_all(b"kept")?;
            if removed_first {
                fs::remove_file(&path)?;
            }
            let heir = Command::new("true").stdin(file.try_clone()?).status()?;
            ensure!(heir.success());
            if !removed_first {
                fs::remove_file(&path)?;
            }
            kept.push((file, read, path));
        }
    }
    // What was removed before this is collected before it.
    let inode = make_file(&mut cluster, &stores, "later")?;
    fs::remove_file(cluster.mount().join("later"))?;
    wait_objects(&mut cluster, &stores, inode, false)?;

    let mut inodes = Vec::new();
    for (mut file, read, path) in kept {
        let what = path.display().to_string();
        file.write_all(b" and written").context(what.clone())?;
        file.sync_all().context(what.clone())?;
        if read {
            let mut found = [0; 16];
            file.read_exact_at(&mut found, 0).context(what.clone())?;
            ensure!(&found == b"kept and written", "{what}");
        }
        inodes.push(file.metadata().context(what)?.ino());
    }
    for inode in inodes {
        wait_objects(&mut cluster, &stores, inode, false)?;
    }
    Ok(())
}

fn cluster_with_short_rounds() -> Result<Cluster> {
    let mut cluster = Cluster::start()?;
    let osds = cluster.names("osd")?;
    cluster.down()?;
    for osd in osds {
        let config = config_of(&cluster, &osd);
        let mut file = File::options().append(true).open(config)?;
        writeln!(file, "leftovers_ms = {ROUND_MS}")?;
    }
    cluster.up()?;
    Ok(cluster)
}

fn config_of(cluster: &Cluster, server: &str) -> PathBuf {
    cluster.dir().join("config").join(format!("{server}.toml"))
}

/// An object server that does not wait for anybody to say that it serves.
struct Alone(Child);

impl Alone {
    fn start(cluster: &Cluster, osd: &str) -> Result<Self> {
        let child = Command::new(binary("oxfs")?)
            .args(["osd", "--config"])
            .arg(config_of(cluster, osd))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("oxfs osd")?;
        Ok(Self(child))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A server is away while a file is removed; those that deleted its object are started anew and have
/// forgotten that, and get it back before the metadata cluster can have the last copy deleted.
#[test]
fn object_that_a_returning_server_brings_back_is_deleted_everywhere() -> Result<()> {
    let mut cluster = cluster_with_short_rounds()?;
    let all = stores(&cluster)?;
    let kept = make_file(&mut cluster, &all, "kept")?;
    let doomed = make_file(&mut cluster, &all, "doomed")?;
    let next = make_file(&mut cluster, &all, "next")?;

    cluster.signal("osd-3", libc::SIGKILL)?;
    let here = [all[0].clone(), all[1].clone()];
    for (name, inode) in [("doomed", doomed), ("next", next)] {
        fs::remove_file(cluster.mount().join(name))?;
        // That of the next one is deleted when the first one's deletion is on record.
        wait_objects(&mut cluster, &here, inode, false)?;
    }
    for osd in ["osd-1", "osd-2"] {
        cluster.signal(osd, libc::SIGKILL)?;
        cluster.start_server(osd)?;
    }
    let mrcs = of_role(&cluster, "mrc")?;
    for mrc in &mrcs {
        cluster.signal_pid(mrc.pid, libc::SIGSTOP)?;
    }
    let returning = Alone::start(&cluster, "osd-3")?;
    wait_objects(&mut cluster, &all, doomed, true)?;
    drop(returning);
    for mrc in &mrcs {
        cluster.signal_pid(mrc.pid, libc::SIGCONT)?;
    }
    cluster.start_server("osd-3")?;

    wait_objects(&mut cluster, &all, doomed, false)?;
    wait_objects(&mut cluster, &all, next, false)?;
    cluster.wait_full()?;
    for store in &all {
        ensure!(has_object(store, kept)?, "{}", store.display());
    }
    let text = fs::read_to_string(cluster.mount().join("kept"))?;
    ensure!(text == "kept", "{text:?}");
    cluster.down()
}

/// How many files the leader believes open for reading.
fn readers(cluster: &Cluster) -> Result<u64> {
    let text = cluster.admin(&["--output", "json", "session", "list"])?;
    let sessions: Value = serde_json::from_str(&text)?;
    let sessions = sessions.as_array().context("no list")?.iter();
    Ok(sessions
        .filter_map(|session| session["open_inodes"].as_u64())
        .sum())
}

/// The new leader is told what is open for reading; what is only written it knows from the log.
#[test]
fn file_that_was_written_while_another_leader_was_elected_leaves_no_object() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let all = stores(&cluster)?;
    make_file(&mut cluster, &all, "read")?;
    let written = make_file(&mut cluster, &all, "written")?;
    let reader = File::open(cluster.mount().join("read"))?;
    let mut writer = File::options()
        .write(true)
        .open(cluster.mount().join("written"))?;
    writer.write_all(b"more")?;

    let mrcs = of_role(&cluster, "mrc")?;
    let leader = mrcs.iter().find(|mrc| mrc.state == "leader");
    let leader = leader.context("no leader")?.clone();
    kill(leader.pid)?;
    cluster.wait_for("the new leader to know what is open", |cluster| {
        Ok(readers(cluster).is_ok_and(|count| count > 0))
    })?;
    drop(writer);
    fs::remove_file(cluster.mount().join("written"))?;

    wait_objects(&mut cluster, &all, written, false)?;
    drop(reader);
    cluster.start_server(&leader.name)?;
    cluster.down()
}
