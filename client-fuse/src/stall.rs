//! One log line when requests begin to wait for a server, one when they go on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::lock;

/// Who is waited for, by how many requests, since when.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    waiting: Mutex<HashMap<String, (usize, Instant)>>,
}

/// A request that waits; it goes on when this is dropped.
#[derive(Debug)]
pub(crate) struct Stall {
    stalls: Arc<Stalls>,
    server: String,
}

impl Stalls {
    /// A request has waited long for `server`.
    pub(crate) fn begin(self: &Arc<Self>, server: &str) -> Stall {
        let mut waiting = lock(&self.waiting);
        let entry = waiting.entry(server.to_owned()).or_insert_with(|| {
            tracing::warn!(server, "stalled: requests wait for this server");
            (0, Instant::now())
        });
        entry.0 += 1;
        Stall {
            stalls: self.clone(),
            server: server.to_owned(),
        }
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        let mut waiting = lock(&self.stalls.waiting);
        if let Some(entry) = waiting.get_mut(&self.server) {
            entry.0 -= 1;
            if entry.0 == 0 {
                let stalled_ms = entry.1.elapsed().as_millis();
                waiting.remove(&self.server);
                tracing::info!(server = self.server, stalled_ms, "resumed");
            }
        }
    }
}
