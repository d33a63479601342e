//! `cargo xtask quickstart`: from a fresh machine to a mounted cluster that survives a death.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::run::{cargo, output, programs_dir, workspace_root};

/// Waiting for `oxfs up` to print that it is ready: ten times what it takes on a slow laptop.
const READY_WAIT: Duration = Duration::from_secs(60);

/// # Errors
///
/// The first step that failed, in words.
pub(crate) fn quickstart() -> Result<()> {
    packages::ensure(packages::MOUNT)?;
    cargo(&["build", "--workspace", "--bins"])?;
    let bin = programs_dir()?;
    let home = std::env::temp_dir().join(format!("oxfs-quickstart-{}", std::process::id()));
    let (dir, mount) = (home.join("cluster"), home.join("mnt"));
    fs::create_dir_all(&mount).with_context(|| format!("creating {}", mount.display()))?;

    println!("\n== starting 3 metadata servers, 3 object servers and a mount");
    let mut cluster = Up::start(&bin, &dir, &mount)?;
    let proved = prove(&bin, &dir, &mount);
    println!("\n== ending the cluster");
    let ended = cluster.end();
    proved?;
    ended?;

    println!("\n== starting it again: the files are still there");
    let mut cluster = Up::start(&bin, &dir, &mount)?;
    let found = fs::read_to_string(mount.join("hello")).context("reading hello after the restart");
    cluster.end()?;
    anyhow::ensure!(
        found? == "hello from before\n",
        "the file changed over the restart"
    );
    fs::remove_dir_all(&home).with_context(|| format!("removing {}", home.display()))?;
    let bin = bin.display();
    println!(
        "\nIt works. Yours to try (as root):\n  mkdir -p /tmp/oxfs/mnt\n  \
         {bin}/oxfs up --dir /tmp/oxfs/cluster --mount /tmp/oxfs/mnt     # Ctrl-C ends it\n  \
         {bin}/xfs-admin --dir /tmp/oxfs/cluster status                  # in another terminal\n  \
         kill -9 PID                                                     # of any one server: nothing stops\n  \
         {bin}/oxfs start --dir /tmp/oxfs/cluster osd-1                  # and back again"
    );
    Ok(())
}

/// A short main job: write, kill a server, go on, read everything back.
fn prove(bin: &Path, dir: &Path, mount: &Path) -> Result<()> {
    fs::write(mount.join("hello"), "hello from before\n")?;
    println!("== copying this workspace's sources onto the mount");
    let root = workspace_root()?;
    let sources = mount.join("sources");
    fs::create_dir(&sources)?;
    let started = Instant::now();
    let crates = [
        "types",
        "proto",
        "lease",
        "mrc",
        "osd",
        "client-fuse",
        "shell",
        "docs",
    ];
    let copies: Vec<PathBuf> = crates.iter().map(|name| root.join(name)).collect();
    cp(&copies, &sources)?;
    println!("   {:.1} s", started.elapsed().as_secs_f64());

    println!("== kill -9 of object server osd-1, while a file is written");
    let mut file = fs::File::create(mount.join("under-way"))?;
    std::io::Write::write_all(&mut file, &vec![7; 1 << 20])?;
    file.sync_all()?;
    kill_server(bin, dir, "osd", "1")?;
    let started = Instant::now();
    std::io::Write::write_all(&mut file, &vec![8; 1 << 20])?;
    file.sync_all()?;
    println!(
        "   written and synced again {:.2} s after the kill",
        started.elapsed().as_secs_f64()
    );

    println!("== comparing every byte");
    for copy in &copies {
        let name = copy.file_name().context("a crate has a name")?;
        output(
            "diff",
            &[
                "-r",
                &copy.display().to_string(),
                &sources.join(name).display().to_string(),
            ],
        )?;
    }
    let bytes = fs::read(mount.join("under-way"))?;
    anyhow::ensure!(
        bytes.len() == 2 << 20
            && bytes[..1 << 20].iter().all(|byte| *byte == 7)
            && bytes[1 << 20..].iter().all(|byte| *byte == 8),
        "the file written during the kill differs"
    );
    let directory = dir.display().to_string();
    println!(
        "{}",
        output(
            &bin.join("oxfs").display().to_string(),
            &["start", "--dir", &directory, "osd-1"]
        )?
    );
    println!(
        "{}",
        output(
            &bin.join("xfs-admin").display().to_string(),
            &["--dir", &directory, "status"]
        )?
    );
    Ok(())
}

fn cp(sources: &[PathBuf], target: &Path) -> Result<()> {
    let status = Command::new("cp")
        .arg("-a")
        .args(sources)
        .arg(target)
        .status()
        .context("cp")?;
    anyhow::ensure!(status.success(), "cp -a onto the mount failed: {status}");
    Ok(())
}

/// Finds the pid in the status, as a script of a user would.
fn kill_server(bin: &Path, dir: &Path, role: &str, id: &str) -> Result<()> {
    let status = output(
        &bin.join("xfs-admin").display().to_string(),
        &[
            "--dir",
            &dir.display().to_string(),
            "--output",
            "json",
            "status",
        ],
    )?;
    let compact: String = status.chars().filter(|c| !c.is_whitespace()).collect();
    let server = compact
        .split('{')
        .find(|server| {
            server.contains(&format!("\"role\":\"{role}\""))
                && (server.contains(&format!("\"id\":{id},"))
                    || server.contains(&format!("\"id\":\"{role}-{id}\"")))
        })
        .with_context(|| format!("no {role} {id} in {status}"))?;
    let pid = server
        .split("\"pid\":")
        .nth(1)
        .map(|rest| {
            rest.chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>()
        })
        .with_context(|| format!("no pid in {server}"))?;
    output("kill", &["-9", &pid])?;
    Ok(())
}

/// A running `oxfs up`.
struct Up(Child);

impl Up {
    fn start(bin: &Path, dir: &Path, mount: &Path) -> Result<Self> {
        let started = Instant::now();
        let mut child = Command::new(bin.join("oxfs"))
            .arg("up")
            .arg("--dir")
            .arg(dir)
            .arg("--mount")
            .arg(mount)
            .stdout(Stdio::piped())
            // Its own group: a Ctrl-C at the terminal ends us, and our end takes it along in order.
            .process_group(0)
            .spawn()
            .context("oxfs up")?;
        let stdout = child.stdout.take().context("its output is piped")?;
        let mut up = Self(child);
        let mut lines = BufReader::new(stdout).lines();
        for line in lines.by_ref() {
            let line = line?;
            println!("   {line}");
            if line.starts_with("ready") {
                // Whatever it prints later must not fill the pipe and block it.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(up);
            }
            if started.elapsed() > READY_WAIT {
                break;
            }
        }
        up.end()?;
        bail!("`oxfs up` did not become ready");
    }

    /// As Ctrl-C does.
    fn end(&mut self) -> Result<()> {
        if self.0.try_wait()?.is_none() {
            output("kill", &["-INT", &self.0.id().to_string()])?;
        }
        let status = self.0.wait()?;
        anyhow::ensure!(status.success(), "`oxfs up` ended with {status}");
        Ok(())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Reached with a running child only on an error path; a failure here has nobody to go to.
        self.end().ok();
    }
}
