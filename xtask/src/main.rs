//! `cargo xtask VERB`: everything a developer or the continuous integration runs.

mod chaos;
mod check;
mod packages;
mod purity;
mod quickstart;
mod run;
mod test;

use anyhow::{Result, bail};

const USAGE: &str = "\
cargo xtask VERB

  quickstart             install what is missing, build, start a cluster, mount it, prove it, clean up
  test                   everything the continuous integration runs
  check                  format, clippy with warnings as errors, purity of the cores; changes nothing
  fix                    format and apply clippy's machine-applicable fixes
  purity                 only the dependency closures of the cores
  sim [--world lease|cluster] [--seeds N] [--from SEED] | sim [--world lease|cluster] --replay SEED
                         simulate clusters from seeds: lease hosts alone (the default), or all together
  chaos [--minutes M] [--seed S] [--no-rot] [--no-moves] [--no-policies] [--only NAME] [--keep] [--dir DIR]
                         break a real cluster while programs use it, and check what they saw
  images [--count N] [--seed S] [--keep] [--dir DIR]
                         start clusters from images of all disks: power fails everywhere
  steps [--quick] [--seed S] [--keep] [--dir DIR]
                         kill a server before each write, sync and rename; let its disk fail to sync
  stalls [--faults N] [--json FILE]
                         how long light loops stall when one thing breaks, each fault alone and N times
  bench fs --mount DIR [--peers glusterfs,moosefs] [--json FILE] [--quick] [--processes NAME[,NAME...]]
                         file system benchmark of any directory
  bench rescue [--mib N] [--runs N] [--seed S] [--json FILE]
                         how fast lost replicas are rebuilt and a scrub reads, and what programs notice
  bench lease [--quick] [--json FILE] [--svg FILE] [--docs FILE] [--systems NAME[,NAME...]]
                         leases of this system, ZooKeeper and etcd: throughput, contention, fail-over
";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    std::env::set_current_dir(run::workspace_root()?)?;
    match words.as_slice() {
        ["quickstart"] => quickstart::quickstart(),
        ["test"] => test::test(),
        ["check"] => check::check(),
        ["fix"] => check::fix(),
        ["purity"] => purity::purity(),
        ["sim", rest @ ..] => {
            let replays = rest.contains(&"--replay");
            let verb = if replays { "replay" } else { "sweep" };
            let rest = rest.iter().filter(|word| **word != "--replay");
            let run = ["run", "-q", "-p", "sim", "--", verb];
            run::cargo(&run.iter().chain(rest).copied().collect::<Vec<_>>())
        }
        ["chaos", rest @ ..] => chaos::chaos(rest),
        ["images" | "steps" | "stalls", ..] => chaos::chaos(&words),
        ["bench", "fs", rest @ ..] => {
            if rest.iter().any(|word| word.starts_with("--peers")) {
                packages::install_stopped(packages::FS_PEERS)?;
            }
            bench("fsbench", rest)
        }
        ["bench", "rescue", rest @ ..] => chaos::chaos(&[&["rescue"], rest].concat()),
        ["bench", "lease", rest @ ..] => {
            // Without them this system is measured alone.
            if let Err(error) = packages::install_stopped(packages::LEASE_PEERS) {
                eprintln!("{error}");
            }
            bench("leasebench", rest)
        }
        ["help" | "--help" | "-h"] | [] => {
            print!("{USAGE}");
            Ok(())
        }
        other => bail!("no such verb: {}\n\n{USAGE}", other.join(" ")),
    }
}

fn bench(program: &str, words: &[&str]) -> Result<()> {
    let run = [
        "run",
        "-q",
        "--release",
        "-p",
        "benches",
        "--bin",
        program,
        "--",
    ];
    run::cargo(&[&run, words].concat())
}
