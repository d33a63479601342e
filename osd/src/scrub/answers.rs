//! Answers to the scrubs of other servers: what a file here says.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use osd_core::ObjectKey;
use osd_core::config::SUMS_WINDOW;
use proto::peer;
use shell::link::{Payload, Responder};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use types::{BLOCK_BYTES, Fault, SUM_BYTES};

use super::copy_file::CopyFile;
use crate::config::INSPECTIONS_MAX;
use crate::store_root::Root;

/// Answers for one server.
#[derive(Debug)]
pub(crate) struct Answers {
    root: Arc<Root>,
    permits: Arc<Semaphore>,
}

impl Answers {
    pub(crate) fn new(root: Arc<Root>) -> Self {
        Self {
            root,
            permits: Arc::new(Semaphore::new(INSPECTIONS_MAX)),
        }
    }

    /// Answers when it is its turn. Whoever has to wait too long asks again some other day.
    pub(crate) fn give(
        &self,
        runtime: &Handle,
        key: ObjectKey,
        (view, ask): (u64, peer::Inspect),
        responder: Responder,
    ) {
        let (root, permits) = (Arc::clone(&self.root), Arc::clone(&self.permits));
        runtime.spawn(async move {
            let Ok(_permit) = permits.acquire().await else {
                return;
            };
            let done = tokio::task::spawn_blocking(move || inspect(&root, key, &ask)).await;
            match done.map_err(io::Error::other).flatten() {
                Ok((inspected, bytes)) => responder.ok(
                    &peer::Response {
                        view,
                        reply: Some(peer::response::Reply::Inspected(inspected)),
                        ..peer::Response::default()
                    },
                    Payload::of(bytes),
                ),
                Err(error) => responder.fault(Fault::retry(error.to_string())),
            }
        });
    }
}

fn inspect(
    root: &Root,
    key: ObjectKey,
    ask: &peer::Inspect,
) -> io::Result<(peer::Inspected, Bytes)> {
    let (block, within) = (ask.offset / BLOCK_BYTES, ask.offset % BLOCK_BYTES);
    let too_much = ask.block_count > SUMS_WINDOW || u64::from(ask.length_bytes) > SUM_BYTES;
    if too_much || within != 0 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let Some(mut copy) = CopyFile::open(root, key)? else {
        return Ok((peer::Inspected::default(), Bytes::new()));
    };
    let sums = copy.sums(ask.first_block, ask.block_count.into())?;
    let next = ask.first_block.saturating_add(sums.len() as u64);
    let zero_blocks = match ask.block_count {
        0 => 0,
        _ => copy.zero_blocks(next)?,
    };
    let count = u64::from(ask.length_bytes).div_ceil(BLOCK_BYTES);
    let bytes = copy.bytes(block..block.saturating_add(count))?;
    let position = copy.at_rest();
    let inspected = peer::Inspected {
        exists: true,
        at_rest: position.is_some() && copy.is_still(root, key)?,
        position: position.map(Into::into),
        length_bytes: copy.length_bytes(),
        sums,
        zero_blocks,
        damaged: bytes.is_none(),
    };
    Ok((inspected, bytes.unwrap_or_default()))
}
