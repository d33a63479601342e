//! Breaks a real cluster while programs use it, and checks that it kept its promises.
//!
//! Seven servers and three mounts, each a process in a network namespace of its own, are killed,
//! frozen, cut off, starved and corrupted at moments that a seed decides, while clients work on
//! all mounts. Afterwards everything is healed, the replicas are compared, and the history of what
//! the clients did and saw is checked.

mod client;
mod clients;
mod cluster;
mod command;
mod directories;
mod disk;
mod errands;
mod errors;
mod fault;
mod history;
mod images;
mod injector;
mod linear;
mod log_record;
mod logs;
#[cfg(test)]
mod logs_tests;
mod network;
mod node;
mod operation;
mod pool;
mod register;
mod registers;
mod rescue_bench;
mod rot;
mod run;
mod schedule;
mod stall_bench;
mod stall_loops;
mod stalls;
mod steps;
mod verdict;
mod violation;
mod worker;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};

use crate::run::{Outcome, Settings};
use crate::schedule::Extras;
use crate::violation::Violation;
use crate::worker::Work;

/// Breaks a real cluster while programs use it, and checks that it kept its promises.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Arguments {
    /// How long faults happen.
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// Decides faults and operations; a new one each time unless it is given.
    #[arg(long, global = true)]
    seed: Option<u64>,
    /// Directory for the run's own, which stays there if something is wrong.
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    /// Change no bytes on disks.
    #[arg(long)]
    no_rot: bool,
    /// Have no spare object server, and let replica sets stay as they are.
    #[arg(long)]
    no_moves: bool,
    /// Let the volume's write policy and quorum stay as they are.
    #[arg(long)]
    no_policies: bool,
    /// Only faults whose name, as in the report, contains this.
    #[arg(long)]
    only: Option<String>,
    /// Keep the run's directory even if all is well, and the servers' state with it.
    #[arg(long, global = true)]
    keep: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Measures how long light loops stall when one thing breaks: every fault alone, many times.
    Stalls {
        /// How often each fault happens.
        #[arg(long, default_value_t = 50)]
        faults: usize,
        /// Writes every sample as JSON to this file.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Only faults whose name, as in the table, contains this.
        #[arg(long)]
        only: Option<String>,
    },
    /// Measures how fast lost replicas are rebuilt and a scrub reads, and what programs notice.
    Rescue {
        /// MiB in files.
        #[arg(long, default_value_t = 1024)]
        mib: u64,
        /// Clusters that are measured one after the other.
        #[arg(long, default_value_t = 3)]
        runs: u32,
        /// Writes everything that was measured as JSON to this file.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Starts clusters from images of all disks, made while programs work: power fails everywhere.
    Images {
        /// Sets of images.
        #[arg(long, default_value_t = 4)]
        count: u32,
    },
    /// Kills a server before each of its writes, syncs and renames; and lets its disk fail to sync.
    Steps {
        /// Only a few of them.
        #[arg(long)]
        quick: bool,
    },
    /// The clients of one mount; started by a run.
    #[command(hide = true)]
    Clients {
        #[command(subcommand)]
        work: Work,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.part {
        Some(Part::Clients { work }) => worker::work(work).map(|()| true),
        Some(Part::Stalls { faults, json, only }) => {
            stall_bench(&arguments, *faults, json.as_deref(), only.as_deref())
        }
        Some(Part::Rescue { mib, runs, json }) => {
            rescue_bench(&arguments, (*mib, *runs), json.as_deref())
        }
        _ => kept_promises(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether all promises were kept.
fn kept_promises(arguments: &Arguments) -> Result<bool> {
    ensure!(
        arguments.minutes.is_finite() && arguments.minutes > 0.0,
        "--minutes must be above 0"
    );
    let seed = arguments.seed.unwrap_or_else(any_seed);
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let home = parent.join(format!("oxfs-chaos-{seed}-{}", std::process::id()));
    fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
    let settings = Settings {
        seed,
        length: Duration::from_secs_f64(arguments.minutes * 60.0),
        extras: Extras {
            rot: !arguments.no_rot,
            moves: !arguments.no_moves,
            policies: !arguments.no_policies,
        },
        only: arguments.only.clone(),
        home: home.clone(),
        keep: arguments.keep,
    };
    println!("seed {seed}, in {}", home.display());
    let interrupted = Arc::new(AtomicBool::new(false));
    watch_signals(&interrupted);
    let kept = match &arguments.part {
        Some(Part::Images { count }) => try_images(&settings, *count, &interrupted),
        Some(Part::Steps { quick }) => {
            steps::steps(&settings, *quick, &interrupted).and_then(|it| report(seed, it, &home))
        }
        _ => run::run(&settings, &interrupted).and_then(|it| report(seed, it, &home)),
    };
    let kept = kept.with_context(|| format!("seed {seed}: see {}", home.display()));
    if !settings.keep {
        if matches!(kept, Ok(true)) {
            fs::remove_dir_all(&home)?;
        } else {
            forget_state(&home);
        }
    }
    kept
}

fn try_images(settings: &Settings, count: u32, interrupted: &AtomicBool) -> Result<bool> {
    let violations = images::images(settings, count, interrupted)?;
    history::write_lines(&settings.home.join("violations.jsonl"), &violations)?;
    for violation in &violations {
        println!("{}: {}", violation.kind, violation.what);
    }
    let seed = settings.seed;
    println!(
        "images: seed {seed}: {count} clusters after a loss of power; {} violations",
        violations.len()
    );
    Ok(violations.is_empty())
}

/// Whether no program saw an error.
fn stall_bench(
    arguments: &Arguments,
    faults: usize,
    json: Option<&Path>,
    only: Option<&str>,
) -> Result<bool> {
    let seed = arguments.seed.unwrap_or_else(any_seed);
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let home = parent.join(format!("oxfs-stalls-{}", std::process::id()));
    fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
    let interrupted = Arc::new(AtomicBool::new(false));
    watch_signals(&interrupted);
    let report = stall_bench::run(&home, seed, faults, only, &interrupted)
        .with_context(|| format!("see {}/logs", home.display()))?;
    println!("{}", report.markdown());
    if let Some(path) = json {
        fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| path.display().to_string())?;
    }
    if report.errors.is_empty() {
        fs::remove_dir_all(&home)?;
    }
    Ok(report.errors.is_empty())
}

/// Whether no program saw an error.
fn rescue_bench(
    arguments: &Arguments,
    (mib, runs): (u64, u32),
    json: Option<&Path>,
) -> Result<bool> {
    ensure!(mib > 0 && runs > 0, "--mib and --runs must be above 0");
    let seed = arguments.seed.unwrap_or_else(any_seed);
    let interrupted = Arc::new(AtomicBool::new(false));
    watch_signals(&interrupted);
    let mut reports = Vec::new();
    for run in 1..=runs {
        let report = rescue_bench::run(mib, seed + u64::from(run), &interrupted)?;
        println!("run {run} of {runs}\n\n{}", report.markdown());
        reports.push(report);
    }
    if let Some(path) = json {
        fs::write(path, serde_json::to_string_pretty(&reports)?)
            .with_context(|| path.display().to_string())?;
    }
    let best = reports
        .iter()
        .min_by(|one, other| one.worst_ratio().total_cmp(&other.worst_ratio()));
    if let Some(best) = best {
        println!(
            "the best run, by p99 during the rescue\n\n{}",
            best.markdown()
        );
    }
    Ok(reports.iter().all(|report| report.errors.is_empty()))
}

/// A seed that was not used a moment ago, short enough to be typed again.
fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |now| now.as_secs() % 1_000_000)
}

/// Checks everything, writes it down and prints it. Whether all promises were kept.
fn report(seed: u64, outcome: Outcome, home: &Path) -> Result<bool> {
    let (records, done) = (&outcome.records, &outcome.done);
    let verdict = verdict::judge(records, &outcome.logs, &done.happened);
    let mut violations: Vec<Violation> = outcome.violations;
    violations.extend(done.violations.iter().cloned());
    violations.extend(verdict.violations);
    history::write_lines(&home.join("history.jsonl"), records)?;
    history::write_lines(&home.join("faults.jsonl"), &done.log)?;
    history::write_lines(&home.join("violations.jsonl"), &violations)?;
    println!("{}", verdict::table(records, &done.happened));
    if verdict.undecided > 0 {
        println!("{} windows of the history are undecided", verdict.undecided);
    }
    if !done.flips.is_empty() {
        println!(
            "{} bytes were changed; {} objects are still rotten on one server",
            done.flips.len(),
            outcome.still_rotten
        );
    }
    if !done.flips_mrc.is_empty() {
        println!(
            "{} bits were flipped in a metadata server's files; it was rebuilt {} times",
            done.flips_mrc.len(),
            done.rebuilt
        );
    }
    for violation in &violations {
        println!("{}: {}", violation.kind, violation.what);
    }
    if !violations.is_empty() {
        println!("history, faults and logs: {}", home.display());
    }
    let happened = &done.happened;
    println!("{}", verdict::summary(seed, records, happened, &violations));
    Ok(violations.is_empty())
}

/// Removes what the servers stored; what they said stays.
fn forget_state(home: &Path) {
    for node in node::Node::all() {
        let dir = home.join(node.to_string());
        // Either may be missing.
        let _ = fs::remove_dir_all(&dir);
        let _ = fs::remove_file(dir.with_extension("ext4"));
    }
}

/// Raises the flag at Ctrl-C and at the other signals that ask to end; whoever waits looks at it.
fn watch_signals(interrupted: &Arc<AtomicBool>) {
    let interrupted = Arc::clone(interrupted);
    std::thread::spawn(move || {
        use tokio::signal::unix::{SignalKind, signal};
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut interrupts = signal(SignalKind::interrupt())?;
            let mut terminations = signal(SignalKind::terminate())?;
            let mut hangups = signal(SignalKind::hangup())?;
            tokio::select! {
                _ = interrupts.recv() => {}
                _ = terminations.recv() => {}
                _ = hangups.recv() => {}
            }
            interrupted.store(true, Ordering::Relaxed);
            std::io::Result::Ok(())
        })
    });
}
