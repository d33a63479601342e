//! Processes by pid and start time, so that a signal never meets a stranger who got the pid.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process of this machine, of all time.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProcessId {
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since the machine did (proc(5), `stat` field 22).
    pub started_ticks: u64,
    /// Which start of the machine that was.
    pub boot: String,
}

/// A process of a local cluster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Process {
    /// `mrc-1`, `osd-2`, `mount-1`, `up`.
    pub name: String,
    /// Its role.
    pub role: String,
    /// Its number, 0 if it has none.
    pub id: u64,
    /// Where it listens; empty for mounts.
    pub address: String,
    /// Its state directory; of a mount and of `up`, the mount point.
    pub dir: PathBuf,
    /// The process.
    #[serde(flatten)]
    pub process: ProcessId,
}

impl ProcessId {
    /// The process that has this pid now.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self {
            pid,
            started_ticks: stat(pid)?.1,
            boot: boot()?,
        })
    }

    /// Whether it still runs; frozen counts, a zombie does not. One whose first thread has ended
    /// and others have not counts, too: it still has its port or mount.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let same_boot = boot().is_ok_and(|boot| boot == self.boot);
        same_boot
            && stat(self.pid).is_ok_and(|(state, started)| {
                started == self.started_ticks
                    && (!matches!(state, 'Z' | 'X') || thread_count(self.pid) > 1)
            })
    }

    /// Whether it is stopped by SIGSTOP or a debugger.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.is_running() && stat(self.pid).is_ok_and(|(state, _)| state == 'T' || state == 't')
    }

    /// Sends a signal, if it still runs. Whether it was sent.
    pub fn signal(&self, signal: Signal) -> bool {
        let Ok(pid) = i32::try_from(self.pid) else {
            return false;
        };
        self.is_running() && kill(Pid::from_raw(pid), signal).is_ok()
    }
}

impl Process {
    pub(super) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        // Renamed into place, because others may be reading it; no fsync, because it says nothing
        // after the machine's next start.
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(&new, path)
    }
}

/// Threads of a process that have not ended, and a first one that has.
fn thread_count(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// State letter and start time of a pid.
fn stat(pid: u32) -> io::Result<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is odd: {text}")))
}

/// The name in field 2 may contain anything, blanks and parentheses included.
fn parse_stat(text: &str) -> Option<(char, u64)> {
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    // Field 22, of which 3 was the first here.
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

fn boot() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_a_process_with_an_odd_name_is_read() {
        let text = "42 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";

        assert_eq!(parse_stat(text), Some(('S', 987_654)));
        assert_eq!(parse_stat("42 (a"), None);
    }

    #[test]
    fn child_runs_until_it_is_killed_and_its_zombie_does_not() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        assert!(process.is_running());

        assert!(process.signal(Signal::SIGKILL));
        let started = std::time::Instant::now();
        while process.is_running() {
            assert!(started.elapsed() < std::time::Duration::from_secs(10));
            std::thread::yield_now();
        }

        child.wait().unwrap();
        assert!(!process.is_running());
    }
}
