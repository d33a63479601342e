//! `oxfs up`, `oxfs down` and `oxfs up --restart` when something is damaged or was killed.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tests::{Cluster, binary};

const CONTENT: &str = "still here\n";

fn is_readable(cluster: &Cluster) -> Result<()> {
    let text = fs::read_to_string(cluster.mount().join("file")).context("file")?;
    ensure!(text == CONTENT, "the file has {text:?}");
    Ok(())
}

fn has(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(text.contains(word), "no {word:?} in: {text}");
    }
    Ok(())
}

/// The store of a server becomes one of another cluster; gives what it was.
fn estrange(dir: &Path) -> Result<String> {
    let path = dir.join("IDENTITY");
    let text = fs::read_to_string(&path)?;
    let other = text.lines().map(|line| match line.split_once(" = ") {
        Some(("cluster", _)) => format!("cluster = \"{}\"\n", "9".repeat(32)),
        _ => format!("{line}\n"),
    });
    fs::write(&path, other.collect::<String>())?;
    Ok(text)
}

#[test]
fn up_goes_on_with_a_majority_and_names_who_is_missing_and_why() -> Result<()> {
    let mut cluster = Cluster::start()?;
    fs::write(cluster.mount().join("file"), CONTENT)?;
    cluster.down()?;
    let osd = |number: u64| cluster.dir().join(format!("osd-{number}"));
    let (second, third) = (osd(2), osd(3));
    let identity = estrange(&third)?;
    let promises = cluster.dir().join("mrc-2/log/promises");
    let damaged = fs::OpenOptions::new().write(true).open(&promises)?;
    damaged.write_all_at(&vec![0xff; fs::read(&promises)?.len()], 0)?;

    cluster.up()?;

    is_readable(&cluster)?;
    let repair = format!("`oxfs start --dir {} osd-3`", cluster.dir().display());
    // It tells after it has mounted.
    cluster.wait_for("the words of `oxfs up`", |cluster| {
        Ok(cluster.up_log().contains("osd-3 does not run"))
    })?;
    let log = cluster.up_log();
    has(
        &log,
        &[
            "osd-3 does not run",
            "belongs to osd 3 of cluster 9999",
            &repair,
        ],
    )?;
    has(
        &log,
        &[
            "mrc-2 does not run",
            "the server's vote is missing or damaged",
        ],
    )?;
    let status = cluster.admin(&["status"])?;
    has(
        &status,
        &[
            "what is wrong",
            "osd-3 is down",
            "lack the replica on osd-3",
            "mrc-2 is down",
        ],
    )?;

    fs::write(third.join("IDENTITY"), identity)?;
    fs::remove_dir_all(cluster.dir().join("mrc-2"))?;
    cluster.start_server("osd-3")?;
    cluster.start_server("mrc-2")?;
    cluster.wait_full()?;
    cluster.down()?;

    let identities = (estrange(&second)?, estrange(&third)?);
    let error = match cluster.up() {
        Ok(()) => anyhow::bail!("one of three object servers was enough"),
        Err(error) => format!("{error:#}"),
    };
    has(
        &error,
        &[
            "1 of 3 object servers can serve, and 2 must",
            "osd-2: ",
            "osd-3: ",
        ],
    )?;

    // `up` has ended everything that it had started.
    cluster.down_by_command()?;
    fs::write(second.join("IDENTITY"), identities.0)?;
    fs::write(third.join("IDENTITY"), identities.1)?;
    cluster.up()?;
    is_readable(&cluster)?;
    cluster.down()
}

/// A process that `kill -9` takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Victim {
    Up,
    Mount,
    Servers,
    Server(&'static str),
}

fn kill(cluster: &mut Cluster, victims: &[Victim]) -> Result<()> {
    // All are looked up before the first dies, who may be needed for that.
    let servers = cluster.servers()?;
    for victim in victims {
        let is_it = |server: &&tests::Server| match victim {
            Victim::Up => false,
            Victim::Mount => server.role == "mount",
            Victim::Servers => server.role != "mount",
            Victim::Server(name) => server.name == *name,
        };
        for server in servers.iter().filter(is_it) {
            // A mount that was killed before is listed until its session ends.
            if server.role != "mount" || is_running(server.pid)? {
                tests::kill(server.pid)?;
            }
        }
        if *victim == Victim::Up {
            cluster.kill_up()?;
        }
    }
    Ok(())
}

/// Whether a process runs our program: numbers of processes are used again.
fn is_running(pid: i32) -> Result<bool> {
    let program = fs::canonicalize(binary("oxfs")?)?;
    Ok(fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|it| it == program))
}

#[test]
fn after_kills_in_any_combination_down_and_up_work() -> Result<()> {
    use Victim::{Mount, Server, Servers, Up};
    let mut cluster = Cluster::start()?;
    fs::write(cluster.mount().join("file"), CONTENT)?;
    let combinations: [&[Victim]; 7] = [
        &[Up],
        &[Mount],
        &[Server("osd-1"), Server("mrc-1")],
        &[Up, Mount],
        &[Mount, Up, Server("osd-2")],
        &[Servers, Mount],
        &[Up, Servers, Mount],
    ];
    for victims in combinations {
        kill(&mut cluster, victims)?;

        let ended = cluster.down_by_command();
        ended.with_context(|| format!("`oxfs down` after {victims:?}"))?;

        ensure!(
            !cluster.mount().join("file").exists(),
            "the mount is left after {victims:?}"
        );
        cluster.up().with_context(|| format!("after {victims:?}"))?;
        is_readable(&cluster).with_context(|| format!("after {victims:?}"))?;
    }
    cluster.down()
}

#[test]
fn restart_brings_back_dead_servers_and_the_dead_mount() -> Result<()> {
    let mut cluster = Cluster::start()?;
    fs::write(cluster.mount().join("file"), CONTENT)?;
    let dir = cluster.dir().display().to_string();
    kill(&mut cluster, &[Victim::Mount, Victim::Server("osd-2")])?;

    let output = Command::new(binary("oxfs")?)
        .args(["up", "--restart", "--dir", &dir])
        .stdin(Stdio::null())
        .output()?;

    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{output:?}");
    has(&said, &["osd-2 ", "mount-"])?;
    is_readable(&cluster)?;
    cluster.wait_full()?;
    cluster.down()?;
    ensure!(
        !cluster.mount().join("file").exists(),
        "it is still mounted"
    );
    Ok(())
}
