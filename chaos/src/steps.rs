//! One server is killed before the n-th write, sync or rename that it does, for one n after the other;
//! and its disk fails to sync.
//!
//! Programs go on meanwhile and see nothing of it: the other servers are a majority. Each time the
//! server is started again and must find its place by itself.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::command;
use crate::fault::{Fault, Happened};
use crate::history::now_ns;
use crate::injector::{STOPPED, SYNCS, let_go};
use crate::node::{Kind, Node};
use crate::run::{Outcome, Run, Settings};
use crate::violation::Violation;

/// The victims, and the system calls by which each changes what it stores. `write` is also how threads wake each
/// other, so most kills at one are at any moment.
const VICTIMS: [(Node, &[&str]); 2] = [
    (
        Node::osd(2),
        &[
            "pwrite64",
            "write",
            "fdatasync",
            "fsync",
            "syncfs",
            "rename",
            "unlink",
            "mkdir",
            "ftruncate",
        ],
    ),
    (
        Node::mrc(2),
        &[
            "pwrite64",
            "write",
            "fdatasync",
            "fsync",
            "rename",
            "unlink",
            "ftruncate",
        ],
    ),
];

/// A server that lives for so long is taken not to do a call so often. 20 s: on a busy machine it takes
/// some of them to find its place after a start.
const STEP_PATIENCE: Duration = Duration::from_secs(20);

/// The same in a quick sweep, which need not reach every step.
const QUICK_PATIENCE: Duration = Duration::from_secs(6);

/// Calls of one kind at most in one thread: by then they repeat themselves.
const STEPS_MAX: u32 = 200;

/// Up to here at every call: a start and the first changes after it.
const EACH_STEP_MAX: u32 = 40;

/// From there on at every seventh, no divisor of how often a change repeats a call. A step takes some 4 s.
const STRIDE: usize = 7;

/// Which steps a quick sweep takes.
const QUICK_STEPS: [u32; 3] = [1, 6, 30];

/// And at which calls: those that change what is there.
const QUICK_CALLS: [&str; 3] = ["pwrite64", "fdatasync", "rename"];

/// How long a server whose disk failed is watched: it must not sync once more.
const WATCH: Duration = Duration::from_secs(2);

/// Kills servers at their steps, and lets their disks fail. What came of it.
///
/// # Errors
///
/// If the cluster can't be made, or if it was interrupted.
pub(crate) fn steps(settings: &Settings, quick: bool, interrupted: &AtomicBool) -> Result<Outcome> {
    if !command::exists("strace") {
        bail!("strace is missing; run `apt-get install strace`");
    }
    let mut run = Run::new(settings, interrupted)?;
    for (victim, _) in VICTIMS {
        run.injector.cluster.use_few_threads(victim)?;
    }
    run.start()?;
    run.finish(|run| {
        for (victim, calls) in VICTIMS {
            for call in calls {
                if !quick || QUICK_CALLS.contains(call) {
                    sweep(run, victim, call, quick)?;
                }
            }
        }
        for (victim, _) in VICTIMS {
            fail_syncs(run, victim)?;
        }
        Ok(())
    })
}

/// Kills a server before its first call of a kind, its second one and so on, counted from its start.
/// The count is that of one thread: the first that gets there.
fn sweep(run: &mut Run<'_>, victim: Node, call: &str, quick: bool) -> Result<()> {
    let sparse = (EACH_STEP_MAX + 1..=STEPS_MAX).step_by(STRIDE);
    let mut steps: Vec<u32> = (1..=EACH_STEP_MAX).chain(sparse).collect();
    let patience = if quick { QUICK_PATIENCE } else { STEP_PATIENCE };
    if quick {
        steps.retain(|step| QUICK_STEPS.contains(step));
    }
    let mut killed = 0;
    run.injector.cluster.stop(&[victim])?;
    for step in steps {
        let began_ns = now_ns();
        let inject = format!("inject={call}:signal=KILL:when={step}");
        run.injector.cluster.start_traced(victim, call, &inject)?;
        if !dies(run, victim, patience)? {
            run.injector.cluster.kill(victim)?;
            break;
        }
        killed += 1;
        note(run, Fault::Kill(victim), began_ns);
    }
    run.injector.cluster.start(victim)?;
    println!("{victim} was killed at {killed} steps of {call}");
    run.wait_for("full redundancy", |run| {
        run.injector.look_after()?;
        Ok(run.injector.cluster.are_all_up(true))
    })
}

/// Whether a server is killed within a while. One that ends otherwise is a violation.
fn dies(run: &mut Run<'_>, victim: Node, patience: Duration) -> Result<bool> {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        run.let_work(Duration::ZERO)?;
        if let Some((node, status)) = run.injector.cluster.take_ended().into_iter().next() {
            if node == victim && status.signal() == Some(libc::SIGKILL) {
                return Ok(true);
            }
            let what = format!("{node} ended by itself ({status})");
            run.violations
                .push(Violation::new("process ended by itself", &what));
            bail!(what);
        }
    }
    Ok(false)
}

fn note(run: &mut Run<'_>, fault: Fault, began_ns: u64) {
    run.injector.done.happened.push(Happened {
        name: fault.name(),
        fault,
        began_ns,
        healed_ns: now_ns(),
    });
}

/// From now on every sync of a server fails. It must say so once, stop using its disk without another
/// try, and find its place again when it is started anew.
fn fail_syncs(run: &mut Run<'_>, victim: Node) -> Result<()> {
    let began_ns = now_ns();
    let log_bytes = run.injector.cluster.log_bytes(victim);
    let trace = run.settings.home.join(format!("logs/syncs-{victim}"));
    let inject = format!("inject={SYNCS}:error=EIO");
    let tracer = run.injector.trace(victim, SYNCS, &inject, &trace)?;
    let mut tracer = tracer.with_context(|| format!("{victim} is not running"))?;
    let mut ended = false;
    let told = run.wait_for("a server that says that its disk fails", |run| {
        if victim.kind == Kind::Osd {
            return Ok(run.injector.cluster.log_has(victim, log_bytes, STOPPED) > 0);
        }
        let mut status = run.injector.cluster.take_ended().into_iter();
        ended = status.any(|(node, status)| node == victim && !status.success());
        Ok(ended)
    });
    let failed = || -> Result<usize> {
        let text = fs::read_to_string(&trace)?;
        Ok(text
            .lines()
            .filter(|line| line.contains("INJECTED"))
            .count())
    };
    // Syncs that were under way come to their ends.
    run.let_work(WATCH)?;
    let before = failed()?;
    run.let_work(WATCH)?;
    let after = failed()?;
    let clear = if victim.kind == Kind::Osd {
        STOPPED
    } else {
        "check the disk, then"
    };
    let messages = run.injector.cluster.log_has(victim, log_bytes, clear);
    if ended {
        tracer.wait()?;
    } else {
        let_go(&mut tracer)?;
        run.injector.cluster.stop(&[victim])?;
    }
    run.injector.cluster.start(victim)?;
    note(run, Fault::Kill(victim), began_ns);
    told?;
    println!("{victim} stopped after {before} failed syncs, with {messages} messages");
    if before != after || messages != 1 {
        let what = format!(
            "{victim}: {before} failed syncs, {} more after it had stopped, {messages} messages",
            after.saturating_sub(before)
        );
        run.violations.push(Violation::new("failed sync", what));
    }
    ensure!(before > 0, "{victim} did not sync at all");
    run.wait_for("full redundancy", |run| {
        run.injector.look_after()?;
        Ok(run.injector.cluster.are_all_up(true))
    })
}
