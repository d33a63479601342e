//! A mount can be taken away at any time, also while nobody answers it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tests::{Cluster, shell};

#[test]
fn mount_is_taken_away_while_every_server_is_frozen() -> Result<()> {
    let mut cluster = Cluster::start()?;
    for flag in ["-f", "-l"] {
        let point = cluster.mount_again(&format!("mount{flag}"))?;
        fs::write(point.join("file"), "text")?;
        let servers = cluster.servers()?;
        let of_point = |dir: &Path| dir == point;
        let mount = servers.iter().find(|it| of_point(&it.dir));
        let mount = mount.with_context(|| format!("no {} in {servers:?}", point.display()))?;
        let frozen = servers.iter().filter(|it| it.role != "mount");
        let frozen: Vec<_> = frozen.map(|it| it.pid.to_string()).collect();
        let signal = |name: &str| {
            let line = format!("kill -{name} {}", frozen.join(" "));
            shell(Path::new("/"), &line).map(drop)
        };

        signal("STOP")?;
        let mut programs = Vec::new();
        let file = point.join("file").display().to_string();
        for line in [
            format!("stat {file}"),
            format!("echo more >> {file}"),
            format!("dd if={file} of=/dev/null"),
            format!("ls {}", point.display()),
        ] {
            programs.push(program(&line)?);
        }
        cluster.wait_for("programs to wait", |_| Ok(programs.iter().all(waits)))?;
        let mut umount = Command::new("umount").arg(flag).arg(&point).spawn()?;
        let taken_away = (|| {
            cluster.wait_for("umount to end", |_| Ok(umount.try_wait()?.is_some()))?;
            if flag == "-l" {
                // Nobody can use it any more; those who do still wait, and can be killed.
                ensure!(programs.iter().all(waits), "{programs:?}");
                programs.iter_mut().try_for_each(Child::kill)?;
            }
            for program in &mut programs {
                cluster.wait_for("a program to end", |_| Ok(program.try_wait()?.is_some()))?;
                let status = program.wait()?;
                ensure!(!status.success(), "{program:?} succeeded");
            }
            cluster.wait_for("the mount to go", |_| {
                let mounts = fs::read_to_string("/proc/self/mounts")?;
                let there = mounts.contains(&format!(" {} ", point.display()));
                Ok(!there && !Path::new(&format!("/proc/{}", mount.pid)).exists())
            })
        })();
        signal("CONT")?;
        taken_away.with_context(|| format!("umount {flag}"))?;
        cluster.wait_full()?;
    }
    ensure!(fs::read(cluster.mount().join("file"))? == b"text");
    cluster.down()
}

/// Starts a line of shell that says nothing.
fn program(line: &str) -> Result<Child> {
    let started = Command::new("bash")
        .args(["-c", &format!("exec 2> /dev/null; {line}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    Ok(started?)
}

/// Whether a program, or one that it started, waits for the mount.
fn waits(program: &Child) -> bool {
    let pid = program.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let own = pid.to_string();
    let mut pids = children.split_whitespace().chain([own.as_str()]);
    pids.any(|pid| {
        let place = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        place.contains("request_wait_answer") || place.contains("fuse")
    })
}
