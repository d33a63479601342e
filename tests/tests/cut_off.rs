//! A mount that does not reach one server while all others do: it goes on through them.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use anyhow::{Context as _, Result, ensure};
use tests::{Cluster, shell};

/// Group of the mount that is cut off: the packet filter knows it by that.
const GROUP: &str = "4242";

/// Enough that each of three servers is the primary of some.
const FILES: usize = 12;

#[test]
fn mount_cut_from_the_primary_or_the_leader_alone_goes_on() -> Result<()> {
    own_network()?;
    let mut cluster = Cluster::start()?;
    let alone = ["setpriv", "--regid", GROUP, "--clear-groups"];
    let cut = cluster.mount_again_by("cut", &alone)?;
    let root = cluster.mount();
    let mut files = Vec::new();
    for number in 0..FILES {
        let path = cut.join(number.to_string());
        files.push(
            File::options()
                .create_new(true)
                .read(true)
                .write(true)
                .open(path)?,
        );
    }
    let mut text = Vec::new();
    // The other mount keeps the primaries: without it idle files would soon be given up by theirs.
    let others: Vec<_> = (0..FILES)
        .map(|number| File::open(root.join(number.to_string())))
        .collect::<Result<_, _>>()?;

    for server in cluster.names("osd")? {
        // From here on every file has a primary, and its lease is renewed.
        append(&files, &mut text, "before ")?;
        cut_from(&cluster, Some(&server))?;
        let (worked, mut written) = (files.iter().map(File::try_clone), text.clone());
        let worked = worked.collect::<Result<Vec<_>, _>>()?;
        let (what, dir) = (format!("work without {server}"), cut.clone());
        written = finish(&mut cluster, &others, &what, move || {
            append(&worked, &mut written, "while cut off ")?;
            for number in 0..FILES {
                let path = dir.join(number.to_string());
                ensure!(fs::read(path)? == written, "file {number}");
            }
            Ok(written)
        })?;
        text = written;
        cut_from(&cluster, None)?;
        let elsewhere = fs::read(root.join("0"))?;
        ensure!(elsewhere == text, "another mount reads {elsewhere:?}");
    }
    let log = fs::read_to_string(cluster.scratch().join("cut.log"))?;
    let log = log + &mount_log(&cluster)?;
    ensure!(
        log.contains("cut off from this mount"),
        "nothing was passed on: {log}"
    );

    let leader = cluster
        .servers()?
        .into_iter()
        .find(|it| it.state == "leader");
    let leader = leader.context("no leader")?.name;
    cut_from(&cluster, Some(&leader))?;
    let dir = cut.clone();
    finish(
        &mut cluster,
        &others,
        "names without the leader",
        move || {
            for round in 0..20 {
                fs::create_dir(dir.join("dir"))?;
                fs::write(dir.join("dir/file"), round.to_string())?;
                fs::rename(dir.join("dir/file"), dir.join("moved"))?;
                ensure!(fs::read_to_string(dir.join("moved"))? == round.to_string());
                fs::remove_dir(dir.join("dir"))?;
            }
            Ok(())
        },
    )?;
    cut_from(&cluster, None)?;
    ensure!(fs::read_to_string(root.join("moved"))? == "19");
    fs::remove_file(cut.join("moved"))?;
    cluster.down()
}

/// Writes the same behind the text of every file, durably.
fn append(files: &[File], text: &mut Vec<u8>, more: &str) -> Result<()> {
    for file in files {
        file.write_all_at(more.as_bytes(), text.len() as u64)?;
    }
    for file in files {
        file.sync_all()?;
    }
    text.extend_from_slice(more.as_bytes());
    Ok(())
}

/// Does something that would take for ever if the cut mattered.
fn finish<T: Send + 'static>(
    cluster: &mut Cluster,
    used_elsewhere: &[File],
    what: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done, outcome) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    let mut finished = None;
    cluster.wait_for(what, |_| {
        for file in used_elsewhere {
            file.read_at(&mut [0], 0)?;
        }
        finished = outcome.try_recv().ok();
        Ok(finished.is_some())
    })?;
    finished.context("it panicked")?
}

/// Cuts the mount from a server, or from none.
fn cut_from(cluster: &Cluster, server: Option<&str>) -> Result<()> {
    let mut script = "flush chain ip oxfs out\n".to_owned();
    if let Some(server) = server {
        let port = port_of(cluster, server)?;
        script += &format!("add rule ip oxfs out meta skgid {GROUP} tcp dport {port} drop\n");
    }
    nft(&script)
}

fn port_of(cluster: &Cluster, name: &str) -> Result<String> {
    let status = cluster.status()?;
    let servers = status["servers"].as_array().context("no servers")?;
    let line = servers
        .iter()
        .find(|it| format!("{}-{}", it["role"].as_str().unwrap_or_default(), it["id"]) == name);
    let address = line.and_then(|it| it["address"].as_str());
    let port = address.and_then(|address| address.rsplit(':').next());
    port.map(str::to_owned)
        .with_context(|| format!("no port of {name} in {status}"))
}

/// What the mounts have written to logs of their own.
fn mount_log(cluster: &Cluster) -> Result<String> {
    let logs: Vec<PathBuf> = fs::read_dir(cluster.dir().join("logs"))
        .into_iter()
        .flatten()
        .map(|entry| entry.map(|it| it.path()))
        .collect::<Result<_, _>>()?;
    let mut text = String::new();
    for log in logs {
        File::open(log)?.read_to_string(&mut text)?;
    }
    Ok(text)
}

fn nft(script: &str) -> Result<()> {
    shell(Path::new("/"), &format!("nft -f - <<'END'\n{script}END")).map(drop)
}

/// Puts this thread, and what it starts, into a network of its own: the filter is nobody else's.
fn own_network() -> Result<()> {
    #[expect(unsafe_code, reason = "namespaces have no safe interface in std")]
    // SAFETY: unshare(2) touches no memory of this process.
    let answer = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    ensure!(answer == 0, "unshare: {}", std::io::Error::last_os_error());
    shell(Path::new("/"), "ip link set lo up")?;
    nft("add table ip oxfs\n\
         add chain ip oxfs out { type filter hook output priority 0; }\n")
}
