//! How fast lost replicas are rebuilt, how fast a scrub reads, and what either costs programs.
//!
//! A cluster of 3 metadata servers, 4 object servers and a mount is filled; then one object server is killed
//! for good. Light loops run all the time. What they took before, while replicas were rebuilt, afterwards
//! and during a scrub is compared within one run, so that a busy machine counts for all alike.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ::tests::Cluster;
use anyhow::{Context as _, Result, bail, ensure};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::Value;

use crate::history::now_ns;
use crate::stall_loops::{Kind, Loops, Taken};

/// How long loops are watched while nothing else happens.
const CALM: Duration = Duration::from_secs(20);
/// How long a cluster may take for one step: filling, rebuilding or scrubbing on a slow machine.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Between two looks at what the cluster does: often enough for the shortest rescue, seldom enough to cost nothing.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long a dead server is waited for: longer than programs wait for its leases to end, so that a rescue begins
/// when they go on.
const GRACE_MS: u32 = 5000;
/// The server that is killed.
const VICTIM: u64 = 2;
/// A large file; one in [`SMALL_PER_LARGE`] of these is small.
const LARGE_BYTES: usize = 1 << 20;
/// A small file.
const SMALL_BYTES: usize = 4096;
/// Small files for each large one.
const SMALL_PER_LARGE: u64 = 2;

/// What the loops took while one thing went on.
#[derive(Debug, Serialize)]
struct Phase {
    name: &'static str,
    seconds: f64,
    /// Load average of the machine at its end.
    load: f64,
    /// Milliseconds, sorted, by operation.
    took_ms: BTreeMap<Kind, Vec<f64>>,
}

/// Everything that was measured in one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    filled_mib: u64,
    /// In files of the server that is killed, when it is.
    held_bytes: u64,
    /// Sent to bring copies up, by the servers' own count.
    rescued_bytes: u64,
    /// From the first change to the last.
    rescue_s: f64,
    /// From the death on.
    redundant_after_s: f64,
    scrubbed_bytes: u64,
    scrub_s: f64,
    phases: Vec<Phase>,
    /// What programs saw.
    pub(crate) errors: Vec<String>,
}

impl Report {
    /// The largest ratio of a 99th percentile during the rescue to the one before.
    pub(crate) fn worst_ratio(&self) -> f64 {
        let ratios = Kind::ALL
            .iter()
            .filter_map(|kind| self.ratio("rescue", *kind));
        ratios.fold(0.0, f64::max)
    }

    /// Tables: speeds, then percentiles by operation.
    pub(crate) fn markdown(&self) -> String {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let mut text = String::from("| what | measured |\n|---|--:|\n");
        let rate = mib(self.rescued_bytes) / self.rescue_s.max(0.001);
        let per_gib = self.rescue_s * 1024.0 / mib(self.rescued_bytes).max(0.001);
        let scrub = mib(self.scrubbed_bytes) / self.scrub_s.max(0.001);
        for (what, measured) in [
            ("filled, MiB in files", self.filled_mib as f64),
            ("held by the dead server, MiB", mib(self.held_bytes)),
            ("copied, MiB", mib(self.rescued_bytes)),
            ("rescue, MiB/s", rate),
            ("rescue, s per GiB copied", per_gib),
            (
                "from the death to full redundancy, s",
                self.redundant_after_s,
            ),
            ("scrub of three servers together, MiB/s", scrub),
        ] {
            let _ = writeln!(text, "| {what} | {measured:.1} |");
        }
        text.push_str("\n| operation |");
        for phase in &self.phases {
            let _ = write!(text, " {} p50 | p99 |", phase.name);
        }
        text.push_str(" p99 rescue : before | p99 scrub : after |\n|---|");
        text.push_str(&"--:|".repeat(2 * self.phases.len() + 2));
        text.push('\n');
        for kind in Kind::ALL {
            let _ = write!(text, "| {} |", kind.name());
            for phase in &self.phases {
                let took = phase.took_ms.get(&kind).map_or(&[][..], Vec::as_slice);
                let _ = write!(text, " {:.1} | {:.1} |", rank(took, 0.5), rank(took, 0.99));
            }
            for phase in ["rescue", "scrub"] {
                let ratio = self.ratio(phase, kind).unwrap_or(0.0);
                let _ = write!(text, " {ratio:.1} |");
            }
            text.push('\n');
        }
        text.push_str("\nOperations and load:");
        for phase in &self.phases {
            let count: usize = phase.took_ms.values().map(Vec::len).sum();
            let (name, seconds, load) = (phase.name, phase.seconds, phase.load);
            let _ = write!(text, " {name} {count} in {seconds:.0} s, {load:.1};");
        }
        text.push('\n');
        for error in &self.errors {
            let _ = writeln!(text, "a program saw an error: {error}");
        }
        text
    }

    /// How a 99th percentile compares with the one of the calm before.
    fn ratio(&self, phase: &str, kind: Kind) -> Option<f64> {
        let before = match phase {
            "scrub" => "after",
            _ => "before",
        };
        let p99 = |name: &str| {
            let phase = self.phases.iter().find(|phase| phase.name == name)?;
            Some(rank(phase.took_ms.get(&kind)?, 0.99))
        };
        Some(p99(phase)? / p99(before)?.max(0.001))
    }
}

/// The value that this share of sorted values does not exceed (nearest rank).
fn rank(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

/// Measures once, with so many MiB in files.
///
/// # Errors
///
/// If the cluster can't be made, or does not get as far as it should.
pub(crate) fn run(mib: u64, seed: u64, interrupted: &AtomicBool) -> Result<Report> {
    let mut cluster = start()?;
    let mut bench = Bench {
        cluster: &mut cluster,
        interrupted,
    };
    bench.wait_for("all groups to be full", |bench| bench.is_healthy())?;
    fill(&bench.cluster.mount(), mib, seed)?;
    let loops = Loops::start(&bench.cluster.mount())?;
    let mut report = Report {
        filled_mib: mib,
        held_bytes: 0,
        rescued_bytes: 0,
        rescue_s: 0.0,
        redundant_after_s: 0.0,
        scrubbed_bytes: 0,
        scrub_s: 0.0,
        phases: Vec::new(),
        errors: Vec::new(),
    };
    // What was filled is made clean first.
    bench.calm()?;
    bench.phase("before", &loops, &mut report, Bench::calm)?;
    bench.rescue(&loops, &mut report)?;
    bench.calm()?;
    bench.phase("after", &loops, &mut report, Bench::calm)?;
    bench.scrub(&loops, &mut report)?;
    drop(loops);
    cluster.down()?;
    Ok(report)
}

/// 3 metadata and 4 object servers and a mount.
fn start() -> Result<Cluster> {
    let mut cluster = Cluster::start()?;
    cluster.down()?;
    for number in 1..=3 {
        let config = cluster.dir().join(format!("config/mrc-{number}.toml"));
        let text = fs::read_to_string(&config)?;
        fs::write(&config, format!("rescue_grace_ms = {GRACE_MS}\n{text}"))?;
    }
    cluster.up()?;
    cluster.start_new_osd()?;
    cluster.wait_full()?;
    Ok(cluster)
}

/// Files whose content no compression or hole makes smaller.
fn fill(root: &Path, mib: u64, seed: u64) -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut bytes = vec![0; LARGE_BYTES];
    for number in 0..mib {
        let dir = root.join(format!("fill-{}", number / 256));
        fs::create_dir_all(&dir)?;
        random.fill(bytes.as_mut_slice());
        let mut file = File::create(dir.join(format!("large-{number}")))?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        for small in 0..SMALL_PER_LARGE {
            let content = bytes.get(..SMALL_BYTES).unwrap_or_default();
            fs::write(dir.join(format!("small-{number}-{small}")), content)?;
        }
    }
    Ok(())
}

struct Bench<'a> {
    cluster: &'a mut Cluster,
    interrupted: &'a AtomicBool,
}

impl Bench<'_> {
    /// Waits while nothing but the loops is done.
    fn calm(&mut self) -> Result<()> {
        let begun = Instant::now();
        self.wait_for("the calm to pass", |_| Ok(begun.elapsed() >= CALM))
    }

    /// Has something done and notes what the loops took meanwhile.
    fn phase(
        &mut self,
        name: &'static str,
        loops: &Loops,
        report: &mut Report,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let (_, errors) = loops.take();
        report.errors.extend(errors);
        let (begun, began_ns) = (Instant::now(), now_ns());
        work(self)?;
        let seconds = begun.elapsed().as_secs_f64();
        let (taken, errors) = loops.take();
        report.errors.extend(errors);
        let mut took_ms: BTreeMap<Kind, Vec<f64>> = BTreeMap::new();
        for taken in taken.iter().filter(|it: &&Taken| it.began_ns >= began_ns) {
            let ns = taken.ended_ns.saturating_sub(taken.began_ns);
            took_ms.entry(taken.kind).or_default().push(ns as f64 / 1e6);
        }
        for took in took_ms.values_mut() {
            took.sort_unstable_by(f64::total_cmp);
        }
        report.phases.push(Phase {
            name,
            seconds,
            load: load()?,
            took_ms,
        });
        Ok(())
    }

    fn rescue(&mut self, loops: &Loops, report: &mut Report) -> Result<()> {
        let sent_before = self.moved_bytes()?;
        report.held_bytes = bytes_below(&self.cluster.dir().join(format!("osd-{VICTIM}/pgs")))?;
        let died = Instant::now();
        self.cluster
            .signal(&format!("osd-{VICTIM}"), libc::SIGKILL)?;
        // Until then programs wait for the leases of the dead, not for the rescue.
        self.wait_for("the rescue to begin", |bench| {
            Ok(bench.job("groups_changing")? > 0)
        })?;
        let began = Instant::now();
        self.phase("rescue", loops, report, |bench| {
            bench.wait_for("full redundancy", |bench| bench.is_healthy())
        })?;
        report.rescue_s = began.elapsed().as_secs_f64();
        report.redundant_after_s = died.elapsed().as_secs_f64();
        // Servers tell with their next heartbeat what they have sent.
        let mut sent = 0;
        self.wait_for("the bytes sent to be told", |bench| {
            let before = std::mem::replace(&mut sent, bench.moved_bytes()?);
            thread::sleep(Duration::from_secs(1));
            Ok(before == sent)
        })?;
        report.rescued_bytes = sent.saturating_sub(sent_before);
        ensure!(report.rescued_bytes > 0, "nothing was copied");
        Ok(())
    }

    fn scrub(&mut self, loops: &Loops, report: &mut Report) -> Result<()> {
        for osd in self.live_osds() {
            self.cluster
                .admin(&["scrub", "start", "--osd", &osd.to_string()])?;
        }
        let begun = Instant::now();
        let mut bytes = 0;
        self.phase("scrub", loops, report, |bench| {
            bench.wait_for("the scrubs to end", |bench| {
                let scrubs = bench.scrubs()?;
                bytes = scrubs.iter().map(|scrub| scrub.1).sum();
                Ok(scrubs.iter().all(|scrub| scrub.0))
            })
        })?;
        (report.scrubbed_bytes, report.scrub_s) = (bytes, begun.elapsed().as_secs_f64());
        Ok(())
    }

    fn live_osds(&self) -> Vec<u64> {
        (1..=4).filter(|osd| *osd != VICTIM).collect()
    }

    /// Of each server whether its round has ended, and what it has read.
    fn scrubs(&self) -> Result<Vec<(bool, u64)>> {
        let mut scrubs = Vec::new();
        for osd in self.live_osds() {
            let osd = osd.to_string();
            let told = self.json(&["scrub", "status", "--osd", &osd])?;
            let first = told.as_array().and_then(|list| list.first());
            let told = first.unwrap_or(&told);
            let state = told["state"].as_str().context("a scrub without state")?;
            let bytes = told["bytes"].as_u64().context("a scrub without bytes")?;
            scrubs.push((state == "idle" && told["ended_ms"] != 0, bytes));
        }
        Ok(scrubs)
    }

    fn is_healthy(&self) -> Result<bool> {
        // Not while a leader is too new to know.
        let Ok(jobs) = self.json(&["job", "show"]) else {
            return Ok(false);
        };
        let groups = |key: &str| jobs[key].as_u64().unwrap_or(u64::MAX);
        let others = ["groups_changing", "groups_waiting", "groups_stuck"];
        Ok(groups("groups_healthy") > 0 && others.iter().all(|key| groups(key) == 0))
    }

    fn moved_bytes(&self) -> Result<u64> {
        self.job("moved_bytes")
    }

    fn job(&self, key: &str) -> Result<u64> {
        let jobs = self.json(&["job", "show"])?;
        jobs[key]
            .as_u64()
            .with_context(|| format!("no {key}: {jobs}"))
    }

    fn json(&self, words: &[&str]) -> Result<Value> {
        let text = self
            .cluster
            .admin(&[&["--output", "json"], words].concat())?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    fn wait_for(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let begun = Instant::now();
        while !condition(self)? {
            if self.interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "waited {PATIENCE:?} in vain for {what}"
            );
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}

/// Bytes of all files below a directory that programs work on.
fn bytes_below(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        bytes += match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => bytes_below(&path)?,
            Ok(found) => found.len(),
            // Removed meanwhile.
            Err(_) => 0,
        };
    }
    Ok(bytes)
}

/// Load average of the last minute.
fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().with_context(|| format!("no load: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_speeds_percentiles_and_ratios() {
        let phase = |name, factor: f64| Phase {
            name,
            seconds: 20.0,
            load: 1.5,
            took_ms: BTreeMap::from([(
                Kind::Stat,
                (1..=100).map(|ms| f64::from(ms) * factor).collect(),
            )]),
        };
        let report = Report {
            filled_mib: 512,
            held_bytes: 512 << 20,
            rescued_bytes: 256 << 20,
            rescue_s: 8.0,
            redundant_after_s: 20.0,
            scrubbed_bytes: 1 << 30,
            scrub_s: 32.0,
            phases: vec![
                phase("before", 1.0),
                phase("rescue", 1.5),
                phase("after", 1.0),
                phase("scrub", 3.0),
            ],
            errors: Vec::new(),
        };

        let table = report.markdown();

        assert!(table.contains("| rescue, MiB/s | 32.0 |"), "{table}");
        assert!(
            table.contains("| rescue, s per GiB copied | 32.0 |"),
            "{table}"
        );
        let row = "| stat | 50.0 | 99.0 | 75.0 | 148.5 | 50.0 | 99.0 | 150.0 | 297.0 | 1.5 | 3.0 |";
        assert!(table.contains(row), "{table}");
        assert!((report.worst_ratio() - 1.5).abs() < 1e-9);
    }
}
