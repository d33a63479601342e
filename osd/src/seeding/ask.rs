//! What the receiving end asks of others.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::peer::request::Op;
use proto::peer::response::Reply;
use proto::peer::{self, SeedOpen, SeedOpened, SeedRead};
use shell::link::{CallError, Payload};
use types::{Fault, OsdId, PgKey};
use zfs_driver::StreamOptions;

use super::Seeding;
use super::limits::{OPEN_TIMEOUT, PIECE_TIMEOUT};
use crate::cluster::Wall;
use crate::peer::any_object;

impl Seeding {
    /// Asks for a stream of a group, or of what has changed since the stream `after`, or only what there is.
    pub(super) async fn ask_open(
        &self,
        group: PgKey,
        osd: OsdId,
        look_only: bool,
        after: u64,
    ) -> Result<SeedOpened, CallError> {
        let options = self.options.get_or_init(|| self.look_at_pool()).await;
        let op = Op::SeedOpen(SeedOpen {
            look_only,
            bytes_min: self.worth.bytes_min,
            object_bytes_min: self.worth.object_bytes_min,
            large_blocks: options.large_blocks,
            compressed: options.compressed,
            after,
        });
        let request = self.request(group, op).ok_or_else(gone)?;
        match ask(&self.around.wall, osd, &request, OPEN_TIMEOUT).await? {
            (Some(Reply::SeedOpened(opened)), _) => Ok(opened),
            _ => Err(odd()),
        }
    }

    /// What the pool here can hold; the least if that can't be found out.
    async fn look_at_pool(&self) -> StreamOptions {
        let root = Arc::clone(&self.around.root);
        let look = tokio::task::spawn_blocking(move || {
            let datasets = root.datasets()?;
            datasets.pool().stream_options().ok()
        });
        look.await.ok().flatten().unwrap_or_default()
    }

    /// Asks for a piece of a stream; gives it, and whether it is the last one.
    pub(super) async fn ask_piece(
        &self,
        group: PgKey,
        osd: OsdId,
        read: SeedRead,
    ) -> Result<(Bytes, bool), CallError> {
        let request = self.request(group, Op::SeedRead(read)).ok_or_else(gone)?;
        match ask(&self.around.wall, osd, &request, PIECE_TIMEOUT).await? {
            (Some(Reply::SeedPiece(piece)), payload) => {
                let bytes = payload.verified().map_err(CallError::Fault)?;
                Ok((bytes, piece.end))
            }
            _ => Err(odd()),
        }
    }

    /// A request about a group, as long as this server has a part in it.
    pub(super) fn request(&self, group: PgKey, op: Op) -> Option<peer::Request> {
        let cluster = self.around.wall.newest();
        Some(peer::Request {
            object: Some(any_object(group.volume)),
            pg: group.pg.0,
            view: cluster.group(group)?.view,
            op: Some(op),
            ..peer::Request::default()
        })
    }
}

/// Asks one of the others.
pub(super) async fn ask(
    wall: &Wall,
    osd: OsdId,
    request: &peer::Request,
    timeout: Duration,
) -> Result<(Option<Reply>, Payload), CallError> {
    // Looked up each time: a server may have moved.
    let link = wall.newest().links.get(&osd).cloned();
    let link = link.ok_or_else(|| CallError::Disconnected("there is no link".to_owned()))?;
    let call = link.call::<_, peer::Response>(request, Payload::none(), timeout);
    let (response, payload) = call.await?;
    Ok((response.reply, payload))
}

fn gone() -> CallError {
    CallError::Fault(Fault::surface(
        libc::ESTALE,
        "the placement group is others' now",
    ))
}

fn odd() -> CallError {
    CallError::Fault(Fault::surface(
        libc::EPROTO,
        "an answer to another question; run the same release on all servers",
    ))
}
