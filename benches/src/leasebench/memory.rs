//! What a million leases weigh in one host, and what keeping them alive costs, without a network.

use std::sync::Arc;
use std::time::Instant as Clock;

use anyhow::{Result, bail};
use clap::Args;
use lease::{Body, Config, Host, Membership, Message, Out};
use types::{CellId, Duration, Instant, MemberId};

use benches::process::rss_bytes;

/// Counts the bytes of a host full of cells.
#[derive(Args, Debug)]
pub(crate) struct MemoryOptions {
    /// Cells, each of them held by the host, which is what weighs most.
    #[arg(long, default_value_t = 1_000_000)]
    cells: u64,
    /// Fails if they weigh more, in MiB.
    #[arg(long, default_value_t = 1024)]
    limit_mib: u64,
    /// Lease time, in milliseconds.
    #[arg(long, default_value_t = 10_000)]
    lease_ms: u64,
}

pub(crate) fn run(options: &MemoryOptions) -> Result<()> {
    let config = Config {
        ttl: Duration::from_millis(options.lease_ms),
        retransmit: Duration::from_millis(options.lease_ms / 15),
        cells_max: usize::try_from(options.cells)?,
        ..Config::default()
    }
    .validated()?;
    let before = rss_bytes();
    let mut world = World::new(config.clone());
    let clock = Clock::now();
    for cell in 0..options.cells {
        world.take(CellId(u128::from(cell) << 24))?;
    }
    let taken = clock.elapsed();
    let held = world.host.stats().held;
    let rss = rss_bytes().saturating_sub(before);
    println!(
        "{held} leases held in one host: {} MiB, {} bytes each; taken in {:.2} s, {:.2} us each",
        rss >> 20,
        rss / options.cells.max(1),
        taken.as_secs_f64(),
        micros(taken, options.cells),
    );
    let clock = Clock::now();
    let (renewed, longest) = world.extend_for(config.ttl)?;
    let spent = clock.elapsed();
    let peak = rss_bytes().saturating_sub(before);
    println!(
        "kept alive for one lease time of {} ms: {renewed} extensions, {:.2} us each, longest step \
         {:.1} ms, {} MiB at the end, {} lost",
        options.lease_ms,
        micros(spent, renewed),
        longest.as_secs_f64() * 1e3,
        peak >> 20,
        world.host.stats().counters.lost,
    );
    if peak.max(rss) >> 20 >= options.limit_mib || held < options.cells {
        bail!(
            "over the limit of {} MiB, or not all held",
            options.limit_mib
        );
    }
    Ok(())
}

fn micros(time: std::time::Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count.max(1) as f64
}

/// A host whose peers agree to everything at once.
struct World {
    host: Host,
    now: Instant,
    out: Out,
}

impl World {
    fn new(config: Config) -> Self {
        let now = Instant::ZERO + config.quarantine();
        Self {
            host: Host::new(MemberId(1), config, Instant::ZERO, 1, 1, None),
            now,
            out: Out::new(),
        }
    }

    fn take(&mut self, cell: CellId) -> Result<()> {
        // Each cell has a list of its own, as if no two were of one placement group.
        let members: Arc<[MemberId]> = [1, 2, 3].map(MemberId).into();
        let membership = Membership::new(1, members);
        self.now += Duration::from_micros(1);
        let (now, out) = (self.now, &mut self.out);
        self.host.acquire(now, cell, &membership, 0, true, out)?;
        self.agree();
        Ok(())
    }

    /// Answers all questions.
    fn agree(&mut self) {
        let sends = std::mem::take(&mut self.out.sends);
        for (member, questions) in sends {
            for question in questions {
                let Body::Accept { epoch, .. } = question.body else {
                    continue;
                };
                let body = Body::Accepted { epoch };
                let answer = Message { body, ..question };
                self.host.message(self.now, member, answer, &mut self.out);
            }
        }
        self.out.events.clear();
    }

    /// Serves all timers of this time; the number of extensions and the longest step.
    fn extend_for(&mut self, time: Duration) -> Result<(u64, std::time::Duration)> {
        let (before, end) = (self.host.stats().counters.renewals, self.now + time);
        let mut longest = std::time::Duration::ZERO;
        while let Some(at) = self.host.next_wakeup().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let clock = Clock::now();
            self.host.tick(self.now, &mut self.out);
            longest = longest.max(clock.elapsed());
            self.agree();
        }
        Ok((self.host.stats().counters.renewals - before, longest))
    }
}
