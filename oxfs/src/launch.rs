//! Starts and ends processes of a local cluster.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use shell::local::{LocalCluster, LocalServer, Process, ProcessId};

use crate::config::{LOG_LINES_SHOWN, LOOK_AGAIN, STOP_PATIENCE};
use crate::mountpoint;

/// A process that we started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) process: Process,
    child: Child,
    log: PathBuf,
    /// Where its own lines begin in the log.
    log_start: u64,
}

impl Started {
    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Why it ended, if it has: its error, or else how it ended and the end of its log.
    pub(crate) fn why_ended(&mut self) -> Option<String> {
        let status = self.ended()?;
        Some(why(status, &lines(&self.log, self.log_start)))
    }

    /// Ends it, if it has not ended.
    pub(crate) fn end_at_once(&mut self) {
        end_at_once(&mut self.child);
    }

    /// Its log.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }
}

/// Why a process ended that wrote these lines.
fn why(status: ExitStatus, lines: &[String]) -> String {
    if let Some(error) = error_in(lines) {
        return error;
    }
    let how = match status.signal() {
        // Somebody wanted that, so its words tell nothing.
        Some(libc::SIGKILL) => return "it was ended by SIGKILL".to_owned(),
        Some(signal) => match Signal::try_from(signal) {
            Ok(signal) => format!("it was ended by {signal}"),
            Err(_) => format!("it was ended by signal {signal}"),
        },
        None => format!("it ended with {status}"),
    };
    let first = lines.len().saturating_sub(LOG_LINES_SHOWN);
    match lines.get(first..).unwrap_or_default() {
        [] => how,
        shown => format!("{how}; its last words: {}", shown.join(" | ")),
    }
}

/// Starts a server and remembers its process.
pub(crate) fn server(cluster: &LocalCluster, server: &LocalServer) -> Result<Started> {
    let name = server.name();
    let config = cluster.config_file(&name);
    let mut command = this_program()?;
    command.arg(server.role.name()).arg("--config").arg(config);
    let (mut child, log, log_start) =
        spawn(command, cluster.log_file(&name)).with_context(|| format!("can't start {name}"))?;
    let dir = cluster.state_dir(&name);
    let recorded = ProcessId::of(child.id()).and_then(|process| {
        let process = Process {
            name: name.clone(),
            role: server.role.name().to_owned(),
            id: server.id,
            address: server.address.clone(),
            dir,
            process,
        };
        cluster.remember(&process).map(|()| process)
    });
    let process = recorded.or_else(|error| {
        // Nobody could end later what is recorded nowhere.
        end_at_once(&mut child);
        let run = cluster.dir().join("run");
        let unrecorded = format!(
            "{name} was ended again: can't record it in {}",
            run.display()
        );
        Err(error).context(unrecorded)
    })?;
    Ok(Started {
        process,
        child,
        log,
        log_start,
    })
}

fn end_at_once(child: &mut Child) {
    // Fails only if it has ended.
    let _ = child.kill();
    let _ = child.wait();
}

/// Starts a mount in the background; its owner remembers it.
pub(crate) fn mount(arguments: &[&std::ffi::OsStr], log: PathBuf, point: &Path) -> Result<Started> {
    let mut command = this_program()?;
    command.arg("mount").arg("--foreground").args(arguments);
    let (child, log, log_start) = spawn(command, log).context("can't start the mount")?;
    let process = Process {
        name: format!("mount-{}", child.id()),
        role: "mount".to_owned(),
        id: u64::from(child.id()),
        address: String::new(),
        dir: point.to_owned(),
        process: ProcessId::of(child.id())?,
    };
    Ok(Started {
        process,
        child,
        log,
        log_start,
    })
}

fn this_program() -> Result<Command> {
    let program = std::env::current_exe().context("can't find this program's own file")?;
    Ok(Command::new(program))
}

fn spawn(mut command: Command, log: PathBuf) -> Result<(Child, PathBuf, u64)> {
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("can't write {}", log.display()))?;
    let log_start = output.metadata()?.len();
    let child = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        // A group of its own: Ctrl-C at the terminal reaches only `up`, which ends the others in order.
        .process_group(0)
        .spawn()?;
    Ok((child, log, log_start))
}

/// The lines of a log from `start` on.
fn lines(log: &Path, start: u64) -> Vec<String> {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read()
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Every program of ours ends with one line that starts so, if it fails.
fn error_in(lines: &[String]) -> Option<String> {
    let mut errors = lines
        .iter()
        .rev()
        .filter_map(|line| line.strip_prefix("error: "));
    errors.next().map(str::to_owned)
}

/// Ends all processes in order: mounts first, metadata servers last. Says which had to be killed.
pub(crate) fn end_all(cluster: &LocalCluster, children: &mut [Started]) -> Vec<String> {
    let mut killed = Vec::new();
    for role in ["mount", "osd", "mrc"] {
        let of_role = cluster
            .processes()
            .into_iter()
            .filter(|process| process.role == role);
        killed.extend(end(cluster, of_role.collect(), children));
    }
    killed
}

/// Says who had to be killed and what that means.
pub(crate) fn check_killed(killed: &[String]) -> Result<()> {
    if killed.is_empty() {
        return Ok(());
    }
    let (names, seconds) = (killed.join(", "), STOP_PATIENCE.as_secs());
    let loss = match killed.iter().any(|name| name.starts_with("mount-")) {
        true => {
            "what programs wrote on the mount and did not sync may be lost, all else is kept; \
             next time start the servers that are down before you end the cluster"
        }
        false => "nothing is lost, the next start compares what they hold",
    };
    bail!(
        "everything has ended, but {names} did not within {seconds} s and had to be killed; {loss}"
    )
}

/// Ends these processes at the same time.
fn end(cluster: &LocalCluster, processes: Vec<Process>, children: &mut [Started]) -> Vec<String> {
    for process in &processes {
        // A frozen process can't end.
        process.process.signal(Signal::SIGTERM);
        process.process.signal(Signal::SIGCONT);
    }
    let asked = Instant::now();
    while asked.elapsed() < STOP_PATIENCE && any_running(&processes, children) {
        std::thread::sleep(LOOK_AGAIN);
    }
    let mut killed = Vec::new();
    for process in &processes {
        if process.process.signal(Signal::SIGKILL) {
            killed.push(process.name.clone());
        }
    }
    while any_running(&processes, children) {
        std::thread::sleep(LOOK_AGAIN);
    }
    for process in &processes {
        if process.role == "mount" {
            mountpoint::detach_dead(&process.dir);
        }
        cluster.forget(&process.name);
    }
    killed
}

/// Whether any still runs; takes leave of our own children on the way, or they stay as zombies.
fn any_running(processes: &[Process], children: &mut [Started]) -> bool {
    for child in children {
        child.ended();
    }
    processes.iter().any(|process| process.process.is_running())
}

/// Forgets processes that ended without being asked, and detaches what dead mounts left behind.
pub(crate) fn tidy(cluster: &LocalCluster) {
    for process in cluster.processes() {
        if process.process.is_running() {
            continue;
        }
        if process.role == "mount" {
            mountpoint::detach_dead(&process.dir);
        }
        cluster.forget(&process.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn end_is_told_by_the_error_or_else_by_its_kind_and_the_end_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "error: of an older start\n").unwrap();
        let start = fs::metadata(&log).unwrap().len();
        let (failed, killed) = (ExitStatus::from_raw(1 << 8), ExitStatus::from_raw(9));

        fs::write(&log, "x".repeat(usize::try_from(start).unwrap()) + "a\nb\n").unwrap();
        assert_eq!(
            why(failed, &lines(&log, start)),
            "it ended with exit status: 1; its last words: a | b"
        );
        assert_eq!(why(killed, &lines(&log, start)), "it was ended by SIGKILL");
        fs::write(&log, "error: bad key\nlater\n").unwrap();
        assert_eq!(why(failed, &lines(&log, 0)), "bad key");
    }

    #[test]
    fn only_a_killed_mount_may_cost_something() {
        let said = |name: &str| check_killed(&[name.to_owned()]).unwrap_err().to_string();

        assert!(check_killed(&[]).is_ok());
        assert!(said("osd-1").contains("nothing is lost"));
        assert!(said("mount-7").contains("may be lost"));
    }
}
