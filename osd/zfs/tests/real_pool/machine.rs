//! One ZFS for all tests of this machine, and pools on files.
//!
//! Only one zfs-fuse can run on a machine, so each test holds a lock file while it runs, whatever process
//! it is in. If no ZFS answers the test starts zfs-fuse and stops it at its end; the kernel tells it
//! to end if the test dies before that.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use types::ClusterId;
use zfs_driver::{DatasetName, Error, Pool, PoolName, Tools, Tree};

/// Held while a test uses ZFS.
const LOCK: &str = "/tmp/oxfs-zfs-test.lock";

/// How long anything may take that a test waits for. 120 s: a daemon on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(120);

/// How long a pool may be in use after everything in it was closed. 5 s: some milliseconds, and it goes with its
/// daemon otherwise.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Bytes of a device. 128 MiB, sparse: the smallest that pools take is 64 MiB.
const DEVICE_BYTES: u64 = 128 << 20;

/// The cluster of the tests.
pub(crate) const CLUSTER: ClusterId = ClusterId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);

/// The machine's ZFS, for one test.
pub(crate) struct Machine {
    pub(crate) tools: Tools,
    dir: TempDir,
    pools: Vec<String>,
    daemon: Option<Child>,
    _lock: Flock<File>,
}

impl Machine {
    /// Waits for the lock and sees to it that ZFS answers.
    pub(crate) fn take() -> Self {
        let lock = File::create(LOCK).expect("the lock file; tests of ZFS need root");
        let lock = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
        let (tools, daemon) = match Tools::find() {
            Ok(tools) => (tools, None),
            Err(error @ Error::NotInstalled { .. }) => {
                panic!("{error}; the tests of zfs-driver need Debian's package zfs-fuse")
            }
            Err(_) => {
                let daemon = start_daemon();
                (await_answer(), Some(daemon))
            }
        };
        Self {
            tools,
            dir: tempfile::tempdir().unwrap(),
            pools: Vec::new(),
            daemon,
            _lock: lock,
        }
    }

    /// A directory for the test's files.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a pool; `layout` is `mirror` or nothing.
    pub(crate) fn pool(&mut self, name: &str, layout: &[&str], devices: usize) -> Pool {
        // No two tests share a name, in case one could not remove its pool.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}-{}-{count}", std::process::id());
        let files: Vec<_> = (0..devices).map(|n| self.device(&name, n)).collect();
        for file in &files {
            File::create(file).unwrap().set_len(DEVICE_BYTES).unwrap();
        }
        let mountpoint = self.dir().join(format!("{name}-root"));
        let files = files.iter().map(|file| file.to_str().unwrap());
        // Without a cache file: no later daemon looks for the devices of a test that was killed.
        let words = [
            "create",
            "-f",
            "-o",
            "cachefile=none",
            "-m",
            mountpoint.to_str().unwrap(),
            &name,
        ];
        let words: Vec<_> = words
            .into_iter()
            .chain(layout.iter().copied())
            .chain(files)
            .collect();
        run("zpool", &words);
        self.pools.push(name.clone());
        Pool::new(self.tools.clone(), PoolName::new(&name).unwrap())
    }

    /// The file of a pool's device.
    pub(crate) fn device(&self, pool: &str, number: usize) -> PathBuf {
        self.dir().join(format!("{pool}.{number}.img"))
    }

    /// The cluster's tree in a pool.
    pub(crate) fn tree(&self, pool: &Pool) -> Tree {
        Tree::new(self.tools.clone(), dataset(pool, "oxfs"), CLUSTER).unwrap()
    }

    /// Kills the daemon as a loss of power would, starts another and brings the pools in again. False, and nothing
    /// was done, if ZFS is in the kernel or somebody else's.
    pub(crate) fn lose_power(&mut self) -> bool {
        let killed = self.kill_daemon();
        if killed {
            self.start_again();
        }
        killed
    }

    /// Kills the daemon, which stays dead until [`Machine::start_again`]. False as there.
    pub(crate) fn kill_daemon(&mut self) -> bool {
        let Some(mut daemon) = self.daemon.take() else {
            return false;
        };
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        true
    }

    /// Starts the daemon that was killed, and brings the pools in.
    pub(crate) fn start_again(&mut self) {
        self.daemon = Some(start_daemon());
        await_answer();
        let dir = self.dir().to_str().unwrap().to_owned();
        for pool in &self.pools {
            let mountpoint = self.dir().join(format!("{pool}-root"));
            // What is mounted there is dead and in the way.
            let _ = umount2(&mountpoint, MntFlags::MNT_DETACH);
            // What killed it left the pool in use.
            let words = ["import", "-f", "-d", &dir, "-o", "cachefile=none", pool];
            run("zpool", &words);
        }
    }

    /// Overwrites a device's middle, where labels are not.
    pub(crate) fn damage(&self, pool: &str, number: usize) {
        let file = File::options()
            .write(true)
            .open(self.device(pool, number))
            .unwrap();
        let noise = vec![0xa5; 1 << 20];
        for mebibyte in 4..(DEVICE_BYTES >> 20) - 4 {
            file.write_all_at(&noise, mebibyte << 20).unwrap();
        }
        file.sync_all().unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for pool in &self.pools {
            // ZFS lets go of a file system some time after its last file was closed.
            let begun = Instant::now();
            while !is_destroyed(pool) && begun.elapsed() < CLOSE_LIMIT {
                thread::sleep(Duration::from_millis(20));
            }
        }
        if let Some(daemon) = &mut self.daemon {
            let _ = kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM);
            let begun = Instant::now();
            while matches!(daemon.try_wait(), Ok(None)) && begun.elapsed() < LIMIT {
                thread::sleep(Duration::from_millis(10));
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// Destroys a pool; whether that was possible.
fn is_destroyed(pool: &str) -> bool {
    let output = Command::new("zpool").args(["destroy", "-f", pool]).output();
    output.is_ok_and(|output| output.status.success())
}

fn start_daemon() -> Child {
    fs::create_dir_all("/var/run/zfs").unwrap();
    fs::create_dir_all("/var/lock/zfs").unwrap();
    let mut command = Command::new("setpriv");
    command
        .args([
            "--pdeathsig",
            "TERM",
            "zfs-fuse",
            "--no-daemon",
            "--no-kstat-mount",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
        .spawn()
        .expect("setpriv of Debian's package util-linux")
}

fn await_answer() -> Tools {
    let mut found = Tools::find();
    let begun = Instant::now();
    while found.is_err() && begun.elapsed() < LIMIT {
        thread::sleep(Duration::from_millis(20));
        found = Tools::find();
    }
    found.unwrap_or_else(|error| {
        panic!("{error}; zfs-fuse of Debian's package zfs-fuse was started, which needs root and /dev/fuse")
    })
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a program behind the driver's back.
pub(crate) fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Writes a file of noise that doesn't compress, and makes it stable.
pub(crate) fn write_noise(path: &Path, bytes: usize, seed: u64) {
    let mut state = seed | 1;
    let noise: Vec<u8> = (0..bytes)
        .map(|_| {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect();
    let mut file = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .open(path)
        .unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&noise).unwrap();
    file.sync_all().unwrap();
}

/// Every dataset and snapshot of a pool with its mark, for comparison.
pub(crate) fn inventory(pool: &Pool) -> String {
    let columns = "name,type,oxfs:cluster,mountpoint";
    let types = "filesystem,volume,snapshot";
    let words = [
        "list",
        "-H",
        "-r",
        "-t",
        types,
        "-o",
        columns,
        pool.name().as_str(),
    ];
    run("zfs", &words)
}

/// A dataset's name in a pool.
pub(crate) fn dataset(pool: &Pool, below: &str) -> DatasetName {
    DatasetName::new(&format!("{}/{below}", pool.name())).unwrap()
}
