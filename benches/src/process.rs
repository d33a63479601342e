//! Processes that end with their owner, directories likewise, and the CPU time they took.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What must not outlive this process.
#[derive(Debug, Default)]
struct Leavings {
    pids: BTreeSet<u32>,
    namespaces: BTreeSet<String>,
    mounts: BTreeSet<PathBuf>,
    dirs: BTreeSet<PathBuf>,
}

static LEAVINGS: Mutex<Leavings> = Mutex::new(Leavings {
    pids: BTreeSet::new(),
    namespaces: BTreeSet::new(),
    mounts: BTreeSet::new(),
    dirs: BTreeSet::new(),
});

fn leavings() -> MutexGuard<'static, Leavings> {
    LEAVINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends everything that was started, for when this process is told to end.
pub fn clean_up() {
    let left = std::mem::take(&mut *leavings());
    for pid in left.pids {
        if let Ok(pid) = i32::try_from(pid) {
            // It may have ended by itself; nobody else can have its number, since it is not reaped.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    for mount in left.mounts {
        let _ = umount2(&mount, MntFlags::MNT_DETACH);
    }
    for namespace in left.namespaces {
        end_namespace(&namespace);
    }
    for dir in left.dirs {
        let _ = fs::remove_dir_all(dir);
    }
}

/// Calls [`clean_up`] and ends this process when it is told to end; waits for that.
///
/// # Errors
///
/// What the system says if it can't be waited for.
pub fn end_on_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        clean_up();
        // 128 + SIGINT, as shells have it.
        std::process::exit(130)
    })
}

/// A process that is killed and reaped when this is dropped, also after an error or a panic.
#[derive(Debug)]
pub struct Guarded(Child);

impl Guarded {
    /// Takes it over.
    pub fn new(child: Child) -> Self {
        leavings().pids.insert(child.id());
        Self(child)
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// kill -9, and waits for the end.
    pub fn kill(&mut self) {
        leavings().pids.remove(&self.pid());
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Freezes it. It can still be killed.
    pub fn freeze(&self) -> Result<()> {
        let pid = i32::try_from(self.pid()).context("pid")?;
        kill(Pid::from_raw(pid), Signal::SIGSTOP).context("freezing a server")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Keeps the processors from sleeping, as `idle=poll` among the kernel's parameters does: one loop each that
/// runs while nothing else wants to (SCHED_IDLE, sched(7)). What it takes to wake a sleeping processor, tens
/// of microseconds on a virtual machine, is no part of what is measured meanwhile.
#[derive(Debug)]
pub struct Awake {
    _loops: Vec<Guarded>,
}

impl Awake {
    /// From now on until it is dropped.
    pub fn start() -> Result<Self> {
        let processors = std::thread::available_parallelism().context("counting processors")?;
        let one = |_| {
            let child = Command::new("chrt")
                .args(["--idle", "0", "sh", "-c", "while :; do :; done"])
                .stdin(Stdio::null())
                .spawn()
                .context("chrt, of the package util-linux")?;
            Ok(Guarded::new(child))
        };
        let loops: Result<_> = (0..processors.get()).map(one).collect();
        Ok(Self { _loops: loops? })
    }
}

/// A directory that is removed when this is dropped.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Creates it; its name says which benchmark process made it.
    ///
    /// # Errors
    ///
    /// What mkdir(2) says, with the path.
    pub fn new(parent: &Path, name: &str) -> Result<Self> {
        let path = parent.join(format!("oxfs-bench-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        leavings().dirs.insert(path.clone());
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
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

/// A network namespace in which nothing but loopback is up; what runs in it is killed when this is dropped.
#[derive(Debug)]
pub struct Namespace(String);

impl Namespace {
    /// Makes it.
    ///
    /// # Errors
    ///
    /// What ip(8) says, for example without root.
    pub fn new(name: &str) -> Result<Self> {
        let name = format!("oxfs-bench-{name}-{}", std::process::id());
        run("ip", &["netns", "add", &name])?;
        leavings().namespaces.insert(name.clone());
        let namespace = Self(name);
        run("ip", &["-n", &namespace.0, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Gives its loopback device one more address.
    ///
    /// # Errors
    ///
    /// What ip(8) says.
    pub fn add_address(&self, address: &str) -> Result<()> {
        run("ip", &["-n", &self.0, "addr", "add", address, "dev", "lo"])
    }

    /// Runs a program in it, to its end. Daemons detach by themselves.
    ///
    /// # Errors
    ///
    /// The last line of what it said if it failed.
    pub fn run(&self, words: &[&str]) -> Result<()> {
        let net = format!("--net=/run/netns/{}", self.0);
        run("nsenter", &[&[net.as_str()], words].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        end_namespace(&self.0);
        leavings().namespaces.remove(&self.0);
    }
}

/// What fails here is left to be seen with `ip netns`.
fn end_namespace(name: &str) {
    let listed = Command::new("ip").args(["netns", "pids", name]).output();
    let listed = listed.map_or_else(|_| Vec::new(), |output| output.stdout);
    for pid in String::from_utf8_lossy(&listed).split_whitespace() {
        if let Ok(pid) = pid.parse() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let _ = run("ip", &["netns", "del", name]);
}

/// A mount point that is unmounted when this is dropped, whatever still uses it.
#[derive(Debug)]
pub struct MountPoint(PathBuf);

impl MountPoint {
    /// Makes the directory.
    ///
    /// # Errors
    ///
    /// What mkdir(2) says.
    pub fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        leavings().mounts.insert(path.clone());
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        // It may not be mounted.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        leavings().mounts.remove(&self.0);
    }
}

fn run(program: &str, words: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    let last = said.trim_end().lines().last().unwrap_or("it said nothing");
    bail!("{program} {}: {last}", words.join(" "))
}

/// Ports of loopback that nobody listened on a moment ago.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
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
pub fn cpu_of(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|pid| cpu_of_one(*pid)).sum()
}

/// CPU time of this process so far.
pub fn own_cpu() -> Result<Duration> {
    cpu_of_one(std::process::id())
}

/// Processor time since some moment: of the whole machine, and of this program with the servers it
/// started, as far as they have ended.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    machine: Duration,
    own: Duration,
    since: Instant,
}

impl Spent {
    /// Up to now.
    pub fn now() -> Result<Self> {
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
    pub fn others_since(self, before: Self) -> f64 {
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
pub fn raise_descriptors() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of descriptors")
}

/// Resident memory of this process.
pub fn rss_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// Processor and cores, for the report.
pub fn machine() -> String {
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
