//! The receiving end's disk: `zfs receive` beside the groups of the store, and what is done to the copies before they
//! are taken in.

use std::io::{self, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use types::{OsdId, PgKey};
use zfs_driver::{Changes, NewDataset, Receiving};

use super::limits::PIECES;
use super::strip::{Stripped, strip};
use crate::store_root::{Datasets, Root};
use crate::worker;

/// A stream on its way to `zfs receive`. Dropped before its end, all of it is thrown away.
#[derive(Debug)]
pub(super) struct Intake {
    pieces: mpsc::Sender<Piece>,
    done: oneshot::Receiver<Result<Received, String>>,
}

/// A group that is there and not taken in. Dropped, it is destroyed.
#[derive(Debug)]
pub(super) struct Received {
    root: Arc<Root>,
    group: PgKey,
    stripped: Stripped,
    is_taken: bool,
}

impl Received {
    /// Leaves it to whoever takes it in.
    pub(super) fn take(mut self) -> Stripped {
        self.is_taken = true;
        self.stripped
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if self.is_taken {
            return;
        }
        let (root, group) = (Arc::clone(&self.root), self.group);
        let discarding = worker::spawn(format!("unseed-{group}"), move || {
            if let Some(datasets) = root.datasets() {
                datasets.discard_seed(group);
            }
        });
        if let Err(error) = discarding {
            tracing::warn!(%group, %error, "what was received is destroyed by the next start");
        }
    }
}

enum Piece {
    Bytes(Bytes),
    /// What follows has changed since; what has come so far is this snapshot.
    Increment {
        base_guid: u64,
    },
    /// What has come of the increment is of no use; what was before it is.
    Cut,
    End,
}

impl Intake {
    /// Starts to receive a group for this server.
    pub(super) fn start(root: Arc<Root>, group: PgKey, me: OsdId) -> io::Result<Self> {
        let (give, pieces) = mpsc::channel(PIECES);
        let (tell, done) = oneshot::channel();
        let thread = worker::spawn(format!("seed-{group}"), move || {
            let Some(datasets) = root.datasets() else {
                return;
            };
            let taken = take(&root, datasets, (group, me), pieces).map(|stripped| Received {
                root: Arc::clone(&root),
                group,
                stripped,
                is_taken: false,
            });
            if taken.is_err() {
                datasets.discard_seed(group);
            }
            // If nobody waits for it any more it is destroyed.
            drop(tell.send(taken));
        })?;
        // It ends with its commands; nobody needs to wait for that.
        drop(thread);
        Ok(Self { pieces: give, done })
    }

    /// Gives the next piece; waits while the ones before are being written. False if no more is taken: then
    /// [`Intake::finish`] says why.
    pub(super) async fn give(&self, bytes: Bytes) -> bool {
        self.pieces.send(Piece::Bytes(bytes)).await.is_ok()
    }

    /// Says that a stream was given whole, and that one of what has changed since follows. False as for
    /// [`Intake::give`].
    pub(super) async fn go_on_with_increment(&self, base_guid: u64) -> bool {
        let piece = Piece::Increment { base_guid };
        self.pieces.send(piece).await.is_ok()
    }

    /// Says that an increment was cut, and does without it. Of the first stream that is an error.
    ///
    /// # Errors
    ///
    /// As [`Intake::finish`].
    pub(super) async fn finish_without_increment(self) -> Result<Received, String> {
        // As below.
        let _ = self.pieces.send(Piece::Cut).await;
        self.finish().await
    }

    /// Says that all was given, and waits until it can be taken in.
    ///
    /// # Errors
    ///
    /// What went wrong, in words; nothing is left then.
    pub(super) async fn finish(self) -> Result<Received, String> {
        // If it takes no more, it has told why.
        let _ = self.pieces.send(Piece::End).await;
        drop(self.pieces);
        let done = self.done.await;
        done.unwrap_or_else(|_| Err("the thread that received is gone".to_owned()))
    }
}

/// How a stream ended.
enum Next {
    /// It is whole, and nothing follows.
    Done,
    /// It is whole, and what has changed since it follows.
    Increment { base_guid: u64 },
    /// It is of no use.
    Cut,
    /// Nobody waits for the group any more.
    Dropped,
}

/// Receives, and makes all copies vouch for nothing. Once a stream is whole, what goes wrong afterwards costs only
/// what it would have brought.
fn take(
    root: &Root,
    datasets: &Datasets,
    (group, me): (PgKey, OsdId),
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<Stripped, String> {
    let text = |error: zfs_driver::Error| error.to_string();
    let tree = datasets.tree();
    // Of an attempt before.
    tree.discard_seed(group).map_err(text)?;
    let new = NewDataset {
        mountpoint: Some(datasets.seed_path(group)),
        ..NewDataset::default()
    };
    let target = tree.seed_target(group, me, 0).map_err(text)?;
    let full = tree
        .receive_full(&target, &new, Changes::Keep)
        .map_err(text)?;
    let mut next = feed(full, &mut pieces)?;
    if let Next::Cut = next {
        return Err("it was cut".to_owned());
    }
    let mut round = 0;
    while let Next::Increment { base_guid } = next {
        round += 1;
        let target = tree.seed_target(group, me, round).map_err(text)?;
        let increment = tree
            .receive_increment(&target, base_guid, Changes::Keep)
            .map_err(text)
            .and_then(|increment| feed(increment, &mut pieces));
        next = increment.unwrap_or_else(|why| {
            tracing::info!(%group, why, "an increment is not taken; the recovery brings what it has");
            Next::Cut
        });
    }
    match next {
        Next::Dropped => return Err("it was broken off".to_owned()),
        Next::Cut
            if tree
                .resume_token(&tree.seed(group))
                .map_err(text)?
                .is_some() =>
        {
            tree.discard_partial(&tree.seed(group)).map_err(text)?;
        }
        _ => {}
    }
    stripped(root, datasets, group)
}

/// Receives one stream.
fn feed(mut receiving: Receiving, pieces: &mut mpsc::Receiver<Piece>) -> Result<Next, String> {
    let text = |error: zfs_driver::Error| error.to_string();
    loop {
        let next = match pieces.blocking_recv() {
            Some(Piece::Bytes(bytes)) => match receiving.write_all(&bytes) {
                Ok(()) => continue,
                Err(error) => {
                    let _ = receiving.cancel();
                    return Err(error.to_string());
                }
            },
            Some(Piece::Increment { base_guid }) => Next::Increment { base_guid },
            Some(Piece::End) => Next::Done,
            cut => {
                receiving.cancel().map_err(text)?;
                return Ok(match cut {
                    None => Next::Dropped,
                    Some(_) => Next::Cut,
                });
            }
        };
        receiving.finish().map_err(text)?;
        return Ok(next);
    }
}

fn stripped(root: &Root, datasets: &Datasets, group: PgKey) -> Result<Stripped, String> {
    let stripped = datasets.with_seed(group, |path| strip(path, group, root.machine()));
    stripped.map_err(|error| error.to_string())
}
