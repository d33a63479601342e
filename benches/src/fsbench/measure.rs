//! One row in one directory: prepare, drop caches, time the workers, read the CPU they caused.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::counts::Counting;
use crate::rows::{Row, Unit};

/// What one row measured in one directory.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) row: &'static str,
    pub(crate) unit: Unit,
    pub(crate) mount: PathBuf,
    /// In the row's unit.
    pub(crate) value: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
    /// CPU microseconds per operation of the file system's processes.
    pub(crate) cpu_us: f64,
    /// Messages of the mount per operation, where they are counted.
    pub(crate) messages: Option<f64>,
    /// Syncs of all processes per operation, where they are counted.
    pub(crate) syncs: Option<f64>,
}

pub(crate) fn measure(
    row: &Row,
    mount: &Path,
    processes: &[String],
    counting: &Counting,
) -> Result<Measured> {
    let dir = mount.join(format!("fsbench-{}", std::process::id()));
    fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
    (row.prepare)(&dir, row)?;
    if row.cold {
        drop_caches()?;
    }
    let running = counting.start()?;
    let cpu_before = cpu_of(processes)?;
    let (elapsed, mut times) = workers(row, &dir)?;
    let cpu = cpu_of(processes)?.saturating_sub(cpu_before);
    let counts = running.stop()?;
    fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;

    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times
            .get(index)
            .map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    let operations = row.operations.max(1) as f64;
    let per_second = row.units() / elapsed.as_secs_f64();
    Ok(Measured {
        row: row.name,
        unit: row.unit,
        mount: mount.to_owned(),
        value: if row.unit == Unit::Seconds {
            elapsed.as_secs_f64()
        } else {
            per_second
        },
        p50_us: at(0.5),
        p99_us: at(0.99),
        max_us: at(1.0),
        cpu_us: cpu.as_secs_f64() * 1e6 / operations,
        messages: counts.messages.map(|count| count as f64 / operations),
        syncs: counts.syncs.map(|count| count as f64 / operations),
    })
}

/// Runs the row's operations spread over its workers, which start together.
fn workers(row: &Row, dir: &Path) -> Result<(Duration, Vec<Duration>)> {
    let barrier = Arc::new(Barrier::new(row.workers + 1));
    let each = row.operations / row.workers;
    let threads: Vec<_> = (0..row.workers)
        .map(|worker| {
            let (barrier, dir, work) = (Arc::clone(&barrier), dir.to_owned(), row.work);
            std::thread::spawn(move || {
                let state = work(&dir, worker, each);
                // Also after a failure: the others wait for everybody.
                barrier.wait();
                let mut state = state?;
                let mut times = Vec::with_capacity(each);
                let began = Instant::now();
                for number in 0..each {
                    let started = Instant::now();
                    state(number)?;
                    times.push(started.elapsed());
                }
                Ok::<_, anyhow::Error>((began, Instant::now(), times))
            })
        })
        .collect();
    barrier.wait();
    // By the workers' own clocks: on a loaded machine this thread may wake up after they are done.
    let (mut first, mut last) = (None::<Instant>, None::<Instant>);
    let mut times = Vec::new();
    for thread in threads {
        let (began, ended, its) = thread.join().map_err(|_| anyhow!("a worker panicked"))??;
        first = Some(first.map_or(began, |first| first.min(began)));
        last = Some(last.map_or(ended, |last| last.max(ended)));
        times.extend(its);
    }
    let elapsed = first.zip(last).map(|(first, last)| last - first);
    Ok((elapsed.unwrap_or_default(), times))
}

fn drop_caches() -> Result<()> {
    #[expect(unsafe_code, reason = "std has no sync(2)")]
    // SAFETY: sync(2) takes and touches no memory.
    unsafe {
        libc::sync();
    };
    fs::write("/proc/sys/vm/drop_caches", "3").context("dropping caches needs root")
}

/// User and system time of all running processes of these names.
fn cpu_of(names: &[String]) -> Result<Duration> {
    let mut ticks = 0;
    for process in fs::read_dir("/proc")?.flatten() {
        let Ok(stat) = fs::read_to_string(process.path().join("stat")) else {
            continue;
        };
        let Some((head, rest)) = stat.rsplit_once(") ") else {
            continue;
        };
        let name = head.split_once(" (").map_or("", |(_, name)| name);
        if names.iter().any(|wanted| wanted == name) {
            let fields: Vec<&str> = rest.split(' ').collect();
            let field =
                |number: usize| fields.get(number).and_then(|text| text.parse::<u64>().ok());
            // Fields 14 and 15 of proc(5), counted from the state that follows the name.
            ticks += field(11).unwrap_or(0) + field(12).unwrap_or(0);
        }
    }
    // USER_HZ is 100 on every Linux.
    Ok(Duration::from_millis(ticks * 10))
}
