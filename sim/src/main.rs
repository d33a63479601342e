//! `sim`: runs simulated clusters from seeds.

use std::fmt::{Debug, Display};
use std::ops::{AddAssign, Range};
use std::process::ExitCode;

use sim::sweep::{Run, cluster, leases, sweep};
use sim::time::TrueTime;
use sim::{Options, run};

const USAGE: &str = "\
sim VERB [--world lease|cluster]

  sweep --seeds N [--from SEED]   run N seeds, from 0 or SEED on; failures and a summary are printed
  replay SEED                     run one seed and print everything that happens; the last line is
                                  the hash of the run
  --edit NAME                     with a wrong edit of the cluster world, see docs/invariants.md

Worlds: `lease`, lease hosts and member lists (the default); `cluster`, object servers with replicas,
leases and disks, the metadata cluster, and mounts.
";

/// What is simulated.
#[derive(Clone, Copy)]
enum World {
    Lease,
    Cluster,
}

/// What to do.
enum Verb {
    Sweep(Range<u64>),
    Replay(u64),
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Some((words, edit)) = edited(&words) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let of_cluster = |seed| sim::cluster::Options {
        edit,
        ..sim::cluster::Options::new(seed)
    };
    match parse(&words) {
        Some((World::Lease, Verb::Sweep(seeds))) => {
            swept("lease", seeds, |seed| leases(Options::new(seed)))
        }
        Some((World::Cluster, Verb::Sweep(seeds))) => {
            swept("cluster", seeds, |seed| cluster(of_cluster(seed)))
        }
        Some((World::Lease, Verb::Replay(seed))) => {
            let outcome = run(Options {
                readable: true,
                ..Options::new(seed)
            });
            replayed(&outcome.lines, outcome.finding, outcome.hash)
        }
        Some((World::Cluster, Verb::Replay(seed))) => {
            let outcome = sim::cluster::run(sim::cluster::Options {
                readable: true,
                ..of_cluster(seed)
            });
            replayed(&outcome.lines, outcome.finding, outcome.hash)
        }
        None => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// The wrong edit of the cluster world that is asked for, and the other words.
fn edited<'a>(words: &[&'a str]) -> Option<(Vec<&'a str>, Option<sim::cluster::Edit>)> {
    let Some(at) = words.iter().position(|word| *word == "--edit") else {
        return Some((words.to_vec(), None));
    };
    let edit = sim::cluster::Edit::named(words.get(at + 1)?)?;
    let mut rest = words.to_vec();
    rest.drain(at..at + 2);
    Some((rest, Some(edit)))
}

fn parse(words: &[&str]) -> Option<(World, Verb)> {
    let (verb, rest) = words.split_first()?;
    let (mut from, mut count, mut seed, mut world) = (0, None, None, World::Lease);
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        match *word {
            "--seeds" => count = Some(rest.next()?.parse().ok()?),
            "--from" => from = rest.next()?.parse().ok()?,
            "--world" => {
                world = match *rest.next()? {
                    "lease" => World::Lease,
                    "cluster" => World::Cluster,
                    _ => return None,
                }
            }
            number if seed.is_none() => seed = Some(number.parse().ok()?),
            _ => return None,
        }
    }
    match (*verb, count, seed) {
        ("sweep", Some(count), None) => {
            let seeds = from..u64::saturating_add(from, count);
            Some((world, Verb::Sweep(seeds)))
        }
        ("replay", None, Some(seed)) => Some((world, Verb::Replay(seed))),
        _ => None,
    }
}

fn swept<F: Display, C: AddAssign + Debug + Default>(
    world: &str,
    seeds: Range<u64>,
    run: impl Fn(u64) -> Run<F, C>,
) -> ExitCode {
    let report = sweep(seeds, run, |seed, failure| {
        println!("seed {seed}: {failure}");
        println!("  repeat with: sim replay {seed} --world {world}");
    });
    println!("{:#?}", report.coverage);
    println!("{} passed, {} failed", report.passed, report.failures.len());
    ExitCode::from(u8::from(!report.failures.is_empty()))
}

fn replayed(lines: &[String], finding: Option<(TrueTime, impl Display)>, hash: u64) -> ExitCode {
    for line in lines {
        println!("{line}");
    }
    if let Some((at, violation)) = &finding {
        println!("{violation} (at {})", at.since_start());
    }
    println!("{hash:016x}");
    ExitCode::from(u8::from(finding.is_some()))
}
