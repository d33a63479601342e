//! Clients of the lease servers: they ask over links, as mounts ask object servers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use prost::Message as _;
use shell::link::{CallError, Link, LinkOptions, Payload, Role, ServiceKind};

use crate::ask::{ACQUIRE, Answer, Ask, CLIENT_CELLS, RELEASE};
use crate::loaded::{Counts, Loaded};
use crate::node::identity;

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// One link and the closed loops that use it.
struct Loop {
    link: Arc<Link>,
    node: u64,
    newborn: bool,
    counts: Mutex<Counts>,
    stopping: AtomicBool,
}

/// A running load.
pub(crate) struct ClientLoad {
    loops: Vec<Arc<Loop>>,
}

impl ClientLoad {
    /// Starts asking. Must be called within a runtime.
    pub(crate) fn start(
        addresses: &[String],
        outstanding: usize,
        newborn: bool,
        run: u64,
    ) -> Result<Self> {
        let open = |(node, address): (u64, &String)| {
            let link = Link::open(
                identity(Role::Mount, 1),
                ServiceKind::Osd,
                address.clone(),
                LinkOptions::default(),
            );
            Arc::new(Loop {
                link,
                node,
                newborn,
                counts: Mutex::default(),
                stopping: AtomicBool::new(false),
            })
        };
        let loops: Vec<_> = (1..).zip(addresses).map(open).collect();
        if loops.is_empty() {
            bail!("no lease server to ask");
        }
        for (slot, own) in (0..outstanding).zip(loops.iter().cycle()) {
            own.counts().pending += 1;
            acquire(own, run << 40 | (slot as u64) << 24);
        }
        Ok(Self { loops })
    }
}

impl Loaded for ClientLoad {
    fn read(&self) -> Counts {
        let mut sum = Counts::default();
        for own in &self.loops {
            sum.merge(&own.counts());
        }
        sum
    }

    fn stop(&self) {
        for own in &self.loops {
            own.stopping.store(true, Ordering::Relaxed);
        }
    }
}

impl Loop {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, low: u64, verb: u32) -> Ask {
        Ask {
            cell_high: CLIENT_CELLS | self.node,
            cell_low: low,
            verb,
            newborn: self.newborn,
        }
    }
}

/// Asks for a lease, and goes on from there.
fn acquire(own: &Arc<Loop>, low: u64) {
    if own.stopping.load(Ordering::Relaxed) {
        own.counts().pending -= 1;
        return;
    }
    let started = Instant::now();
    let then = Arc::clone(own);
    let ask = own.ask(low, ACQUIRE);
    own.link
        .send(&ask, Payload::none(), TIMEOUT, move |outcome| {
            if is_done(outcome) {
                then.counts().acquire.add(started.elapsed());
                release(&then, low, started);
            } else {
                failed(&then, low);
            }
        });
}

fn release(own: &Arc<Loop>, low: u64, started: Instant) {
    let then = Arc::clone(own);
    let ask = own.ask(low, RELEASE);
    own.link
        .send(&ask, Payload::none(), TIMEOUT, move |outcome| {
            if is_done(outcome) {
                {
                    let mut counts = then.counts();
                    counts.pair.add(started.elapsed());
                    counts.pairs += 1;
                }
                acquire(&then, low + 1);
            } else {
                failed(&then, low);
            }
        });
}

fn failed(own: &Arc<Loop>, low: u64) {
    own.counts().failures += 1;
    // Not from here: a link that fails at once would call back without end.
    let again = Arc::clone(own);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        acquire(&again, low + 1);
    });
}

fn is_done(outcome: Result<(bytes::Bytes, Payload), CallError>) -> bool {
    outcome.is_ok_and(|(body, _)| Answer::decode(body).is_ok_and(|answer| answer.done))
}
