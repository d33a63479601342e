//! Closed loops over many ZooKeeper sessions: create an ephemeral node, delete it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::loaded::{Counts, Loaded};
use crate::zk_session::Session;

/// Session time of loads: longer than any pause of an overloaded server.
const SESSION: Duration = Duration::from_secs(10);

/// One session's share of a load.
struct Loop {
    counts: Mutex<Counts>,
    stopping: AtomicBool,
}

/// A running load.
pub(crate) struct ZkLoad {
    loops: Vec<Arc<Loop>>,
}

/// A request under way.
struct Pending {
    name: u64,
    /// The create; the delete otherwise.
    creating: bool,
    started: Instant,
}

impl ZkLoad {
    /// Opens the sessions and starts asking. Must be called within a runtime.
    pub(crate) async fn start(
        addresses: &[String],
        outstanding: usize,
        sessions: usize,
        run: u64,
    ) -> Result<Self> {
        let sessions = sessions.min(outstanding).max(1);
        let mut loops = Vec::new();
        for (number, address) in (0..sessions).zip(addresses.iter().cycle()) {
            let session = Session::open(address, SESSION).await?;
            let share = outstanding / sessions + usize::from(number < outstanding % sessions);
            let own = Arc::new(Loop {
                counts: Mutex::default(),
                stopping: AtomicBool::new(false),
            });
            own.counts().pending = share;
            loops.push(Arc::clone(&own));
            let prefix = format!("/r{run}s{number}n");
            tokio::spawn(async move {
                if let Err(error) = drive(&own, session, share, &prefix).await {
                    if !own.stopping.load(Ordering::Relaxed) {
                        eprintln!("ZooKeeper session: {error:#}");
                    }
                    let mut counts = own.counts();
                    counts.failures += 1;
                    counts.pending = 0;
                }
            });
        }
        Ok(Self { loops })
    }
}

impl Loaded for ZkLoad {
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
}

async fn drive(own: &Loop, mut session: Session, share: usize, prefix: &str) -> Result<()> {
    let mut pending: VecDeque<Pending> = VecDeque::with_capacity(share);
    let mut next = 0;
    let mut create = |session: &mut Session, pending: &mut VecDeque<Pending>| {
        next += 1;
        session.outbound.create(1, &format!("{prefix}{next}"));
        pending.push_back(Pending {
            name: next,
            creating: true,
            started: Instant::now(),
        });
    };
    for _ in 0..share {
        create(&mut session, &mut pending);
    }
    let mut replies = Vec::with_capacity(share);
    while !pending.is_empty() {
        session.flush().await?;
        session.replies(&mut replies).await?;
        let stopping = own.stopping.load(Ordering::Relaxed);
        let mut counts = own.counts();
        for reply in replies.drain(..) {
            let Some(done) = pending.pop_front() else {
                bail!("ZooKeeper answered what was not asked");
            };
            if reply.error != 0 {
                counts.failures += 1;
            } else if done.creating {
                counts.acquire.add(done.started.elapsed());
                session
                    .outbound
                    .delete(1, &format!("{prefix}{}", done.name));
                pending.push_back(Pending {
                    creating: false,
                    ..done
                });
                continue;
            } else {
                counts.pair.add(done.started.elapsed());
                counts.pairs += 1;
            }
            if stopping {
                counts.pending -= 1;
            } else {
                create(&mut session, &mut pending);
            }
        }
    }
    session.close().await
}
