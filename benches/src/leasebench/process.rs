//! Processes that end with their owner, directories likewise, and the CPU time they took.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What must not outlive this process.
#[derive(Debug, Default)]
struct Leavings {
    pids: BTreeSet<u32>,
    dirs: BTreeSet<PathBuf>,
}

static LEAVINGS: Mutex<Leavings> = Mutex::new(Leavings {
    pids: BTreeSet::new(),
    dirs: BTreeSet::new(),
});

fn leavings() -> MutexGuard<'static, Leavings> {
    LEAVINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends everything that was started, for when this process is told to end.
pub(crate) fn clean_up() {
    let left = std::mem::take(&mut *leavings());
    for pid in left.pids {
        if let Ok(pid) = i32::try_from(pid) {
            // It may have ended by itself; nobody else can have its number, since it is not reaped.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    for dir in left.dirs {
        let _ = fs::remove_dir_all(dir);
    }
}

/// A process that is killed and reaped when this is dropped, also after an error or a panic.
#[derive(Debug)]
pub(crate) struct Guarded(Child);

impl Guarded {
    pub(crate) fn new(child: Child) -> Self {
        leavings().pids.insert(child.id());
        Self(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// kill -9, and waits for the end.
    pub(crate) fn kill(&mut self) {
        leavings().pids.remove(&self.pid());
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Freezes it. It can still be killed.
    pub(crate) fn freeze(&self) -> Result<()> {
        let pid = i32::try_from(self.pid()).context("pid")?;
        kill(Pid::from_raw(pid), Signal::SIGSTOP).context("freezing a server")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A directory that is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new(parent: &Path, name: &str) -> Result<Self> {
        let path = parent.join(format!("leasebench-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        leavings().dirs.insert(path.clone());
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What can't be removed is left in the directory for temporary files.
        let _ = fs::remove_dir_all(&self.0);
        leavings().dirs.remove(&self.0);
    }
}

/// Ports of loopback that nobody listened on a moment ago.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    // All at once, so that none comes twice.
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()?;
    let ports = listeners.iter().map(|listener| listener.local_addr());
    Ok(ports
        .map(|address| address.map(|address| address.port()))
        .collect::<Result<_, _>>()?)
}

/// User and system time of a process with all its threads, ended ones included.
fn cpu_of_one(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    cpu_of_stat(&stat).with_context(|| format!("/proc/{pid}/stat is not as proc(5) says"))
}

/// Fields 14 and 15 of proc(5) `stat`, in ticks of 10 ms.
fn cpu_of_stat(stat: &str) -> Option<Duration> {
    // The name in parentheses may contain anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

/// CPU time of some processes so far.
pub(crate) fn cpu_of(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|pid| cpu_of_one(*pid)).sum()
}

/// CPU time of this process so far.
pub(crate) fn own_cpu() -> Result<Duration> {
    cpu_of_one(std::process::id())
}

/// Processor time since some moment: of the whole machine, and of this program with the servers it
/// started, as far as they have ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    machine: Duration,
    own: Duration,
    since: Instant,
}

impl Spent {
    /// Up to now.
    pub(crate) fn now() -> Result<Self> {
        use nix::sys::resource::{UsageWho, getrusage};
        let of = |who| -> Result<Duration> {
            let usage = getrusage(who)?;
            let (user, system) = (usage.user_time(), usage.system_time());
            let micros = |time: nix::sys::time::TimeVal| {
                let micros = time.tv_sec().saturating_mul(1_000_000) + time.tv_usec();
                u64::try_from(micros).unwrap_or(0)
            };
            Ok(Duration::from_micros(micros(user) + micros(system)))
        };
        let stat = fs::read_to_string("/proc/stat")?;
        Ok(Self {
            machine: busy_of_stat(&stat).context("/proc/stat is not as proc(5) says")?,
            own: of(UsageWho::RUSAGE_SELF)? + of(UsageWho::RUSAGE_CHILDREN)?,
            since: Instant::now(),
        })
    }

    /// Processors that others kept busy since an earlier reading, on average.
    pub(crate) fn others_since(self, before: Self) -> f64 {
        let all = self.machine.saturating_sub(before.machine);
        let own = self.own.saturating_sub(before.own);
        let elapsed = self.since.duration_since(before.since);
        all.saturating_sub(own).as_secs_f64() / elapsed.as_secs_f64().max(0.01)
    }
}

/// The first line of proc(5) `stat`: all but idle (4th), waiting for disks (5th) and guests, which are
/// in the others already; in ticks of 10 ms.
fn busy_of_stat(stat: &str) -> Option<Duration> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let busy: u64 = [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|at| ticks.get(*at))
        .sum();
    (ticks.len() > 7).then(|| Duration::from_millis(busy * 10))
}

/// Lets this process and those it starts have as many descriptors as the system allows.
pub(crate) fn raise_descriptors() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of descriptors")
}

/// Resident memory of this process.
pub(crate) fn rss_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// Processor and cores, for the report.
pub(crate) fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 25 3 4 20 0 1 0 9 10 11";

        assert_eq!(cpu_of_stat(stat), Some(Duration::from_millis(1750)));
        assert_eq!(cpu_of_stat("7 (a"), None);
    }

    #[test]
    fn busy_time_is_all_but_idling_and_waiting() {
        let stat = "cpu  100 20 30 9999 8888 4 5 6 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";

        assert_eq!(busy_of_stat(stat), Some(Duration::from_millis(1650)));
        assert_eq!(busy_of_stat("cpu 1 2"), None);
        let before = Spent::now().unwrap();
        assert!(Spent::now().unwrap().others_since(before) >= 0.0);
    }

    #[test]
    fn own_cpu_time_only_grows() {
        let before = own_cpu().unwrap();

        assert!(own_cpu().unwrap() >= before);
        assert!(cpu_of(&[u32::MAX]).is_err());
    }
}
