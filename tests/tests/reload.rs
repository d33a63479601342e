//! Configurations read again at SIGHUP, while programs write: nobody sees an error, and only the
//! connections that a change concerns are replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tests::{Cluster, Probe, sockets};

/// What `oxfs` logs when a file was read again.
const IN_FORCE: &str = "in force now";
const AFTER_RESTART: &str = "in force only after a restart";
const REFUSED: &str = "the old one stays";

/// A process whose configuration is changed.
struct Victim {
    pid: i32,
    name: String,
    file: PathBuf,
    log: PathBuf,
    /// The file as it was.
    text: String,
}

impl Victim {
    fn server(cluster: &Cluster, name: &str) -> Result<Self> {
        let file = cluster.dir().join(format!("config/{name}.toml"));
        Ok(Self {
            pid: cluster.server(name)?.pid,
            name: name.to_owned(),
            text: fs::read_to_string(&file)?,
            log: cluster.dir().join(format!("logs/{name}.log")),
            file,
        })
    }

    /// Appends lines to the file, asks for reading it again, and waits for the log to say so.
    fn reload(&self, cluster: &mut Cluster, lines: &str, says: &[&str]) -> Result<()> {
        let before = fs::read_to_string(&self.log)?.len();
        fs::write(&self.file, format!("{}{lines}", self.text))?;
        cluster.signal_pid(self.pid, libc::SIGHUP)?;
        let what = format!("{} to say {says:?}", self.name);
        cluster.wait_for(&what, |_| {
            let log = fs::read_to_string(&self.log)?;
            let new = log.get(before..).unwrap_or_default();
            Ok(says.iter().all(|words| new.contains(words)))
        })
    }

    /// Its connections: their own port, by the address at the other end.
    fn connections(&self) -> Result<BTreeMap<String, BTreeSet<u16>>> {
        let mut found: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
        for socket in sockets(self.pid)? {
            found
                .entry(socket.remote.to_string())
                .or_default()
                .insert(socket.local.port());
        }
        Ok(found)
    }

    /// Waits until as many connections to each of `concerned` are others as `replaced` says, and
    /// checks that all others of `before` are still there.
    fn wait_replaced(
        &self,
        cluster: &mut Cluster,
        before: &BTreeMap<String, BTreeSet<u16>>,
        concerned: &[String],
        replaced: usize,
    ) -> Result<()> {
        let concerned: Vec<&String> = concerned
            .iter()
            .filter(|address| before.contains_key(*address))
            .collect();
        ensure!(
            !concerned.is_empty(),
            "{} has no such connections",
            self.name
        );
        let what = format!("{} to have new connections to {concerned:?}", self.name);
        cluster.wait_for(&what, |_| {
            let now = self.connections()?;
            let none = BTreeSet::new();
            Ok(concerned.iter().all(|address| {
                let (old, new) = (
                    before.get(*address).unwrap_or(&none),
                    now.get(*address).unwrap_or(&none),
                );
                old.difference(new).count() == replaced && new.len() == old.len()
            }))
        })?;
        let now = self.connections()?;
        for (address, ports) in before {
            if !concerned.contains(&address) {
                let kept = now.get(address).is_some_and(|now| now.is_superset(ports));
                ensure!(
                    kept,
                    "{}: the connection to {address} is another",
                    self.name
                );
            }
        }
        Ok(())
    }
}

/// Addresses of the servers of a role, without one of them.
fn others(cluster: &Cluster, role: &str, but: &str) -> Result<Vec<String>> {
    let status = cluster.status()?;
    let servers = status["servers"].as_array().context("no servers")?;
    let of_role = servers.iter().filter(|it| it["role"] == role);
    let mut addresses = Vec::new();
    for server in of_role {
        if format!("{role}-{}", server["id"]) != but {
            addresses.push(server["address"].as_str().context("no address")?.to_owned());
        }
    }
    Ok(addresses)
}

fn mount(cluster: &mut Cluster) -> Result<(PathBuf, Victim)> {
    let (file, log) = (
        cluster.scratch().join("mount.toml"),
        cluster.scratch().join("second-mount.log"),
    );
    let text = "log = \"info\"\n".to_owned();
    fs::write(&file, &text)?;
    let point = cluster.mount_with(
        "second",
        &[],
        &[
            "-o".to_owned(),
            format!("config={}", file.display()),
            "--log".to_owned(),
            log.display().to_string(),
        ],
    )?;
    let pid = mount_pid(cluster, &point)?;
    let name = "the second mount".to_owned();
    let victim = Victim {
        pid,
        name,
        file,
        log,
        text,
    };
    Ok((point, victim))
}

fn mount_pid(cluster: &Cluster, point: &Path) -> Result<i32> {
    let servers = cluster.servers()?;
    let found = servers
        .iter()
        .find(|it| it.role == "mount" && it.dir == point);
    Ok(found.context("the mount is not in the status")?.pid)
}

#[test]
fn changed_configurations_hold_without_an_error_and_without_touching_other_connections()
-> Result<()> {
    let mut cluster = Cluster::start()?;
    let (point, mount) = mount(&mut cluster)?;
    fs::create_dir(point.join("load"))?;
    let load = Probe::start(&point.join("load"))?;

    let osd = Victim::server(&cluster, "osd-1")?;
    let peers = others(&cluster, "osd", "osd-1")?;
    let before = osd.connections()?;
    // Wrong in one key: nothing of it holds.
    let wrong = "[wire]\nkeepalive_ms = 700\ncompression = \"rar\"\n";
    osd.reload(&mut cluster, wrong, &[REFUSED, "rar"])?;
    ensure!(
        osd.connections()? == before,
        "a wrong file changed connections"
    );
    // Data to the two others goes compressed; leases and metadata have nothing to compress.
    let right = "shards = 3\n[wire]\ncompression = \"lz4\"\n";
    let says = [IN_FORCE, "wire.compression", AFTER_RESTART, "shards"];
    osd.reload(&mut cluster, right, &says)?;
    osd.wait_replaced(&mut cluster, &before, &peers, 1)?;

    let objects = others(&cluster, "osd", "")?;
    let before = mount.connections()?;
    let both = "[wire]\ncompression = \"zstd\"\nchecksum = \"sha256\"\n";
    mount.reload(&mut cluster, both, &[IN_FORCE, "wire.checksum"])?;
    mount.wait_replaced(&mut cluster, &before, &objects, 1)?;

    for name in ["mrc-1", "mrc-2", "mrc-3"] {
        let mrc = Victim::server(&cluster, name)?;
        let before = mrc.connections()?;
        let concerned: Vec<String> =
            [others(&cluster, "mrc", name)?, others(&cluster, "osd", "")?].concat();
        let lines = "[wire]\nkeepalive_ms = 900\n";
        mrc.reload(&mut cluster, lines, &[IN_FORCE, "wire.keepalive_ms"])?;
        mrc.wait_replaced(&mut cluster, &before, &concerned, 1)?;
    }

    load.end()?;
    cluster.down()
}
