//! `sim`: runs simulated clusters from seeds.

use std::process::ExitCode;

use sim::sweep::sweep;
use sim::{Options, run};

const USAGE: &str = "\
sim VERB

  sweep --seeds N [--from SEED]   run N seeds, from 0 or SEED on; failures and a summary are printed
  replay SEED                     run one seed and print everything that happens; the last line is
                                  the hash of the run
";

/// What to do.
enum Verb {
    Sweep { from: u64, count: u64 },
    Replay { seed: u64 },
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match parse(&words) {
        Some(Verb::Sweep { from, count }) => run_sweep(from, count),
        Some(Verb::Replay { seed }) => run_replay(seed),
        None => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(words: &[&str]) -> Option<Verb> {
    match words {
        ["sweep", rest @ ..] => {
            let (mut from, mut count) = (0, None);
            for pair in rest.chunks(2) {
                match pair {
                    ["--seeds", number] => count = Some(number.parse().ok()?),
                    ["--from", number] => from = number.parse().ok()?,
                    _ => return None,
                }
            }
            let count = count?;
            Some(Verb::Sweep { from, count })
        }
        ["replay", seed] => seed.parse().ok().map(|seed| Verb::Replay { seed }),
        _ => None,
    }
}

fn run_sweep(from: u64, count: u64) -> ExitCode {
    let seeds = from..from.saturating_add(count);
    let report = sweep(seeds, Options::new, |seed, failure| {
        println!("seed {seed}: {failure}");
        println!("  repeat with: sim replay {seed}");
    });
    println!("{:#?}", report.coverage);
    println!("{} passed, {} failed", report.passed, report.failures.len());
    ExitCode::from(u8::from(!report.failures.is_empty()))
}

fn run_replay(seed: u64) -> ExitCode {
    let options = Options {
        readable: true,
        ..Options::new(seed)
    };
    let outcome = run(options);
    for line in &outcome.lines {
        println!("{line}");
    }
    if let Some((at, violation)) = &outcome.finding {
        println!("{violation} (at {})", at.since_start());
    }
    println!("{:016x}", outcome.hash);
    ExitCode::from(u8::from(outcome.finding.is_some()))
}
