//! Closed loops over etcd: create a key of a session if there is none, delete it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::etcd_api::Client;
use crate::loaded::{Counts, Loaded};

/// Session time of loads, in seconds: longer than any load.
const SESSION_S: i64 = 300;

/// Pause after a request that was refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);

/// A running load.
pub(crate) struct EtcdLoad {
    loops: Vec<Arc<Loop>>,
}

/// One connection's share.
struct Loop {
    counts: Mutex<Counts>,
    stopping: AtomicBool,
}

impl EtcdLoad {
    /// Connects and starts asking. Must be called within a runtime.
    pub(crate) async fn start(
        addresses: &[String],
        outstanding: usize,
        connections: usize,
        run: u64,
    ) -> Result<Self> {
        let connections = connections.min(outstanding).max(1);
        // All sessions before the first request: under a large load new ones are refused.
        let mut clients = Vec::new();
        for (_, address) in (0..connections).zip(addresses.iter().cycle()) {
            let mut client = Client::connect(address).await?;
            let (session, _) = client.grant(SESSION_S).await?;
            clients.push((client, session));
        }
        let mut loops = Vec::new();
        for (number, (client, session)) in clients.into_iter().enumerate() {
            let share = outstanding / connections + usize::from(number < outstanding % connections);
            let own = Arc::new(Loop {
                counts: Mutex::default(),
                stopping: AtomicBool::new(false),
            });
            own.counts().pending = share;
            for slot in 0..share {
                let (own, client) = (Arc::clone(&own), client.clone());
                let prefix = format!("r{run}c{number}s{slot}n");
                tokio::spawn(async move { drive(&own, client, session, &prefix).await });
            }
            loops.push(own);
        }
        Ok(Self { loops })
    }
}

impl Loaded for EtcdLoad {
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

async fn drive(own: &Loop, mut client: Client, session: i64, prefix: &str) {
    let mut number = 0_u64;
    while !own.stopping.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("{prefix}{number}");
        let started = Instant::now();
        let created = client.create(&key, session).await;
        if !matches!(created, Ok(true)) {
            own.counts().failures += 1;
            // It refuses requests when too many wait.
            tokio::time::sleep(REFUSED_PAUSE).await;
            continue;
        }
        own.counts().acquire.add(started.elapsed());
        let deleted = client.delete(&key).await;
        let mut counts = own.counts();
        if matches!(deleted, Ok(true)) {
            counts.pair.add(started.elapsed());
            counts.pairs += 1;
        } else {
            counts.failures += 1;
        }
    }
    own.counts().pending -= 1;
}
