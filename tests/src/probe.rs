//! Light loops that record the longest time one operation took: what a program feels of a fault.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

/// Longest operation of each loop since the last look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stall {
    /// Append of one record and fsync.
    pub append: Duration,
    /// stat of a file.
    pub stat: Duration,
    /// Creation and removal of a file.
    pub create: Duration,
}

/// Three loops in a folder of the mount.
#[derive(Debug)]
pub struct Probe {
    end: Arc<AtomicBool>,
    loops: Vec<Loop>,
    dir: PathBuf,
}

#[derive(Debug)]
struct Loop {
    longest: Arc<Longest>,
    thread: JoinHandle<Result<u64>>,
}

/// The longest finished operation and the start of the running one, in nanoseconds since `origin`.
#[derive(Debug)]
struct Longest {
    origin: Instant,
    finished: AtomicU64,
    started: AtomicU64,
}

/// Between two operations: light enough to leave the machine to the main job.
const PAUSE: Duration = Duration::from_millis(10);

impl Probe {
    /// Starts the loops in `dir`, which must exist.
    ///
    /// # Errors
    ///
    /// If the files can't be made.
    pub fn start(dir: &Path) -> Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let mut log = File::options()
            .create(true)
            .append(true)
            .open(dir.join("appended"))?;
        fs::write(dir.join("looked-at"), "x")?;
        let looked_at = dir.join("looked-at");
        let made = dir.join("made");
        let mut count = 0_u64;
        let loops = vec![
            Loop::start(&end, move || {
                writeln!(log, "{count:015}").context("append")?;
                count += 1;
                log.sync_all().context("fsync")
            }),
            Loop::start(&end, move || {
                fs::metadata(&looked_at).map(drop).context("stat")
            }),
            Loop::start(&end, move || {
                File::create_new(&made).context("create")?;
                fs::remove_file(&made).context("unlink")
            }),
        ];
        Ok(Self {
            end,
            loops,
            dir: dir.to_owned(),
        })
    }

    /// Longest operation of each loop since the last look, counting one that is not over yet.
    pub fn look(&self) -> Stall {
        let mut longest = self.loops.iter().map(|it| it.longest.take());
        let mut next = || longest.next().unwrap_or_default();
        Stall {
            append: next(),
            stat: next(),
            create: next(),
        }
    }

    /// Ends the loops and checks that every appended record is there, once and in order.
    ///
    /// # Errors
    ///
    /// The first error any loop saw, or the record that is wrong.
    pub fn end(self) -> Result<u64> {
        self.end.store(true, Ordering::Relaxed);
        let mut counts = Vec::new();
        for it in self.loops {
            counts.push(
                it.thread
                    .join()
                    .map_err(|_| anyhow!("a probe panicked"))??,
            );
        }
        let text = fs::read_to_string(self.dir.join("appended"))?;
        let appended = counts.first().copied().unwrap_or_default();
        ensure!(
            text.lines().count() as u64 == appended,
            "{} records of {appended} acknowledged",
            text.lines().count()
        );
        for (expected, line) in text.lines().enumerate() {
            ensure!(
                line == format!("{expected:015}"),
                "record {expected} reads {line:?}"
            );
        }
        Ok(counts.into_iter().sum())
    }
}

impl Loop {
    fn start(
        end: &Arc<AtomicBool>,
        mut operation: impl FnMut() -> Result<()> + Send + 'static,
    ) -> Self {
        let longest = Arc::new(Longest {
            origin: Instant::now(),
            finished: AtomicU64::new(0),
            started: AtomicU64::new(u64::MAX),
        });
        let (end, mine) = (Arc::clone(end), Arc::clone(&longest));
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            while !end.load(Ordering::Relaxed) {
                let started = mine.now();
                mine.started.store(started, Ordering::Relaxed);
                operation()?;
                mine.started.store(u64::MAX, Ordering::Relaxed);
                mine.finished
                    .fetch_max(mine.now() - started, Ordering::Relaxed);
                count += 1;
                std::thread::park_timeout(PAUSE);
            }
            Ok(count)
        });
        Self { longest, thread }
    }
}

impl Longest {
    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn take(&self) -> Duration {
        let started = self.started.load(Ordering::Relaxed);
        let running = self.now().saturating_sub(started);
        Duration::from_nanos(self.finished.swap(0, Ordering::Relaxed).max(running))
    }
}
