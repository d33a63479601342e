//! What requests wait for, gathered from all shards for an administrator.

use std::sync::{Arc, Mutex, PoisonError};

use osd_core::{ObjectKey, Stall, WaitsFor};
use proto::osd;
use shell::link::{self, Responder};
use types::Instant;

use crate::config::STALLS_MAX;

/// One answer from the words of all shards.
#[derive(Debug)]
pub(crate) struct StallBatch(Mutex<Gathered>);

#[derive(Debug)]
struct Gathered {
    shards_left: usize,
    stalls: Vec<osd::Stall>,
    responder: Option<Responder>,
}

impl StallBatch {
    pub(crate) fn new(shards: usize, responder: Responder) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Gathered {
            shards_left: shards,
            stalls: Vec::new(),
            responder: Some(responder),
        })))
    }

    /// Adds what one shard has to say; the longest stalls come first in the answer.
    pub(crate) fn add(&self, stalls: Vec<osd::Stall>) {
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.stalls.extend(stalls);
        gathered.shards_left = gathered.shards_left.saturating_sub(1);
        if gathered.shards_left > 0 {
            return;
        }
        let mut stalls = std::mem::take(&mut gathered.stalls);
        stalls.sort_by_key(|stall| std::cmp::Reverse(stall.waited_ms));
        stalls.truncate(STALLS_MAX);
        if let Some(responder) = gathered.responder.take() {
            let response = osd::Response {
                stalls,
                ..osd::Response::default()
            };
            responder.ok(&response, link::Payload::none());
        }
    }
}

/// A stall as it travels.
pub(crate) fn to_wire(now: Instant, key: ObjectKey, stall: &Stall) -> osd::Stall {
    let (holder, remaining_ms) = match &stall.waits_for {
        WaitsFor::SilentHolder { holder, remaining } => (holder.0, remaining.as_millis()),
        _ => (0, 0),
    };
    osd::Stall {
        object: Some(key.object.into()),
        pg: key.pg.0,
        requests: u32::try_from(stall.requests).unwrap_or(u32::MAX),
        waited_ms: now.since(stall.since).as_millis(),
        waits_for: stall.waits_for.name().to_owned(),
        text: stall.waits_for.to_string(),
        holder,
        remaining_ms,
    }
}
