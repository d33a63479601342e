//! The sending end: snapshots, `zfs send`, and the streams that receivers ask for piece by piece.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::peer::request::Op;
use proto::peer::response::Reply;
use proto::peer::{self, SeedOpen, SeedOpened, SeedPiece};
use shell::link::{Payload, Responder};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use types::{Fault, OsdId, PgKey};
use zfs_driver::{Base, Sending, Snapshot, SnapshotName, StreamOptions, TransferHandle};

use super::counts::Counts;
use super::limits::{IDLE, LOOK, PIECE_BYTES, SENT_MAX};
use crate::pacer::Pacer;
use crate::store_root::{Datasets, Root};

/// Streams that are being sent.
pub(crate) struct Senders {
    root: Arc<Root>,
    pacer: Pacer,
    counts: Arc<Counts>,
    streams: Mutex<HashMap<u64, Arc<Stream>>>,
    turns: Arc<Semaphore>,
}

impl fmt::Debug for Senders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Senders").finish_non_exhaustive()
    }
}

/// One of them.
struct Stream {
    to: OsdId,
    group: PgKey,
    /// 0: all of the group; later on what has changed since the round before.
    round: u32,
    /// Those of all rounds so far, the newest one last.
    snapshots: Vec<SnapshotName>,
    handle: TransferHandle,
    /// When it was asked for last.
    asked: Mutex<Instant>,
    pieces: tokio::sync::Mutex<Pieces>,
    turn: Arc<OwnedSemaphorePermit>,
}

/// What is to be sent: all of a group, or what has changed since the newest of the snapshots before.
struct Round {
    to: OsdId,
    group: PgKey,
    number: u32,
    before: Vec<SnapshotName>,
    turn: Arc<OwnedSemaphorePermit>,
}

/// What comes out of `zfs send`.
struct Pieces {
    sending: Sending,
    /// The newest piece, which may be asked for again, and where it begins.
    last: Bytes,
    offset: u64,
    is_whole: bool,
}

impl Senders {
    pub(crate) fn new(root: Arc<Root>, pacer: Pacer, counts: Arc<Counts>) -> Arc<Self> {
        Arc::new(Self {
            root,
            pacer,
            counts,
            streams: Mutex::default(),
            turns: Arc::new(Semaphore::new(SENT_MAX)),
        })
    }

    /// Answers a request about streams of a group.
    pub(crate) async fn answer(
        self: Arc<Self>,
        (from, group): (OsdId, PgKey),
        op: Op,
        responder: Responder,
    ) {
        match op {
            Op::SeedOpen(ask) => {
                let opened = self.open((from, group), ask).await;
                tracing::debug!(%group, to = %from, ?opened, "asked for a placement group as a whole");
                responder.ok(&reply(Reply::SeedOpened(opened)), Payload::none());
            }
            Op::SeedRead(ask) => match self.read(from, &ask).await {
                Ok((bytes, end)) => {
                    let size = bytes.len() as u64;
                    self.pacer.sent(size, false);
                    self.counts.sent(size);
                    self.pacer.submit(size, move || {
                        let piece = reply(Reply::SeedPiece(SeedPiece { end }));
                        responder.ok(&piece, Payload::of(bytes));
                    });
                }
                Err(why) => responder.fault(Fault::surface(libc::EIO, why)),
            },
            Op::SeedClose(ask) => {
                if let Some(stream) = self.find(ask.seed, from) {
                    self.close(ask.seed, stream).await;
                }
                responder.ok(&peer::Response::default(), Payload::none());
            }
            _ => responder.fault(Fault::surface(libc::EPROTO, "this is not about a stream")),
        }
    }

    async fn open(self: &Arc<Self>, (to, group): (OsdId, PgKey), ask: SeedOpen) -> SeedOpened {
        let refused = |why: String| SeedOpened {
            refused: why,
            ..SeedOpened::default()
        };
        let before: Vec<_> = {
            let streams = self.lock();
            let same = |stream: &Stream| stream.to == to && stream.group == group;
            let same = streams.iter().filter(|(_, stream)| same(stream));
            same.map(|(seed, stream)| (*seed, Arc::clone(stream)))
                .collect()
        };
        // The receiver has forgotten them.
        for (seed, stream) in before {
            if seed != ask.after {
                self.close(seed, stream).await;
            }
        }
        let this = Arc::clone(self);
        let opened = blocking(move || Ok(this.opened((to, group), &ask))).await;
        opened.unwrap_or_else(|error| refused(error.to_string()))
    }

    /// Blocks.
    fn opened(&self, (to, group): (OsdId, PgKey), ask: &SeedOpen) -> SeedOpened {
        let refused = |why: String| SeedOpened {
            refused: why,
            ..SeedOpened::default()
        };
        let Some(datasets) = self.root.datasets() else {
            return refused("its store is not on ZFS".to_owned());
        };
        let options = StreamOptions {
            large_blocks: ask.large_blocks,
            compressed: ask.compressed,
        };
        if ask.after != 0 {
            let opened = self.follow(datasets, to, ask.after, options);
            return opened.unwrap_or_else(|error| refused(error.to_string()));
        }
        let found = match self.look(datasets, group) {
            Ok(found) => found,
            Err(error) => return refused(error.to_string()),
        };
        let each = found.bytes.checked_div(found.objects).unwrap_or(0);
        if found.bytes < ask.bytes_min || each < ask.object_bytes_min {
            return SeedOpened {
                refused: format!("it has {} bytes in {} objects", found.bytes, found.objects),
                small: true,
                ..found
            };
        }
        if ask.look_only {
            return found;
        }
        let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else {
            return SeedOpened {
                later: true,
                ..found
            };
        };
        let first = Round {
            to,
            group,
            number: 0,
            before: Vec::new(),
            turn: Arc::new(turn),
        };
        match self.begin(datasets, first, options) {
            Ok(begun) => SeedOpened {
                bytes: found.bytes,
                objects: found.objects,
                ..begun
            },
            Err(error) => refused(error.to_string()),
        }
    }

    /// Begins with what has changed since a stream that is whole, which it takes the place of.
    fn follow(
        &self,
        datasets: &Datasets,
        to: OsdId,
        after: u64,
        options: StreamOptions,
    ) -> io::Result<SeedOpened> {
        let gone = || io::Error::other("there is no such stream any more");
        let stream = self.find(after, to).ok_or_else(gone)?;
        // While this is held nobody takes it for idle.
        let pieces = stream.pieces.blocking_lock();
        if !pieces.is_whole {
            return Err(io::Error::other("the stream before is not whole"));
        }
        let next = Round {
            to,
            group: stream.group,
            number: stream.round + 1,
            before: stream.snapshots.clone(),
            turn: Arc::clone(&stream.turn),
        };
        let begun = self
            .begin(datasets, next, options)
            .map_err(io::Error::other)?;
        // Its snapshots are the new one's now.
        self.lock().remove(&after);
        drop(pieces);
        Ok(begun)
    }

    /// What is here of a group.
    fn look(&self, datasets: &Datasets, group: PgKey) -> io::Result<SeedOpened> {
        if !datasets.is_ready(group) {
            return Err(io::Error::other("its dataset of the group is not ready"));
        }
        let tree = datasets.tree();
        let info = tree.info(&tree.group(group)).map_err(io::Error::other)?;
        Ok(SeedOpened {
            bytes: info.referenced_bytes,
            objects: self.root.names(group)?.len() as u64,
            ..SeedOpened::default()
        })
    }

    fn begin(
        &self,
        datasets: &Datasets,
        round: Round,
        options: StreamOptions,
    ) -> Result<SeedOpened, zfs_driver::Error> {
        let Round {
            to, group, number, ..
        } = round;
        let tree = datasets.tree();
        let options = options.shared(datasets.pool().stream_options()?);
        let Snapshot { name, guid, .. } = tree.snapshot_seed(group, to, number)?;
        let mut snapshots = round.before;
        let base = snapshots.last().map(Base::Snapshot);
        let sending = match tree.send(&name, base, options) {
            Ok(sending) => sending,
            Err(error) => {
                self.destroy(&name);
                return Err(error);
            }
        };
        snapshots.push(name);
        let stream = Arc::new(Stream {
            to,
            group,
            round: number,
            snapshots,
            handle: sending.handle(),
            asked: Mutex::new(Instant::now()),
            pieces: tokio::sync::Mutex::new(Pieces {
                sending,
                last: Bytes::new(),
                offset: 0,
                is_whole: false,
            }),
            turn: round.turn,
        });
        let seed = rand::random_range(1..=u64::MAX);
        self.lock().insert(seed, stream);
        tracing::info!(%group, %to, round = number, "a placement group is sent as a whole");
        Ok(SeedOpened {
            seed,
            guid,
            ..SeedOpened::default()
        })
    }

    async fn read(&self, from: OsdId, ask: &peer::SeedRead) -> Result<(Bytes, bool), String> {
        let Some(stream) = self.find(ask.seed, from) else {
            return Err("there is no such stream any more".to_owned());
        };
        stream.note_asked();
        if ask.wait {
            return Ok((Bytes::new(), false));
        }
        let offset = ask.offset;
        let asked = Arc::clone(&stream);
        let piece = blocking(move || asked.pieces.blocking_lock().at(offset)).await;
        stream.note_asked();
        piece.map_err(|error| error.to_string())
    }

    /// Closes streams that nobody asks for any more, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let idle: Vec<_> = {
                let streams = self.lock();
                let idle = streams
                    .iter()
                    .filter(|(_, stream)| stream.idle_for() >= IDLE);
                idle.map(|(seed, stream)| (*seed, Arc::clone(stream)))
                    .collect()
            };
            for (seed, stream) in idle {
                tracing::warn!(
                    group = %stream.group, to = %stream.to,
                    "nobody asks for the stream of a placement group any more; it is given up"
                );
                self.close(seed, stream).await;
            }
        }
    }

    /// Closes all streams: the server stops.
    pub(crate) async fn close_all(&self) {
        let all: Vec<_> = self.lock().drain().collect();
        for (seed, stream) in all {
            self.close(seed, stream).await;
        }
    }

    async fn close(&self, seed: u64, stream: Arc<Stream>) {
        self.lock().remove(&seed);
        stream.handle.cancel();
        let names = stream.snapshots.clone();
        drop(stream);
        let root = Arc::clone(&self.root);
        // Whoever waits for that has nothing to lose by it.
        let _ = blocking(move || {
            names.iter().for_each(|name| destroy(&root, name));
            Ok(())
        })
        .await;
    }

    fn destroy(&self, name: &SnapshotName) {
        destroy(&self.root, name);
    }

    fn find(&self, seed: u64, to: OsdId) -> Option<Arc<Stream>> {
        let streams = self.lock();
        streams.get(&seed).filter(|stream| stream.to == to).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn destroy(root: &Root, name: &SnapshotName) {
    let Some(datasets) = root.datasets() else {
        return;
    };
    match datasets.tree().destroy_seed_snapshot(name) {
        Ok(()) => {}
        // With its dataset.
        Err(error) if error.is_missing() => {}
        Err(error) => tracing::warn!(
            snapshot = %name, %error,
            "a snapshot that was sent can't be destroyed; the next start tries again"
        ),
    }
}

impl Stream {
    fn note_asked(&self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long nobody has asked; while somebody waits for a piece, not at all.
    fn idle_for(&self) -> Duration {
        match self.pieces.try_lock() {
            Ok(_) => self
                .asked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .elapsed(),
            Err(_) => Duration::ZERO,
        }
    }
}

impl Pieces {
    /// The piece at an offset: the next one, or the newest once more.
    fn at(&mut self, offset: u64) -> io::Result<(Bytes, bool)> {
        let next = self.offset + self.last.len() as u64;
        if offset == next && !self.is_whole {
            self.last = self.next()?;
            self.offset = next;
        } else if offset != self.offset {
            return Err(io::Error::other(format!(
                "byte {offset} of the stream is not there any more"
            )));
        }
        Ok((self.last.clone(), self.is_whole))
    }

    fn next(&mut self) -> io::Result<Bytes> {
        let mut bytes = Vec::with_capacity(PIECE_BYTES);
        while bytes.len() < PIECE_BYTES {
            match self.sending.next_piece().map_err(io::Error::other)? {
                Some(piece) => bytes.extend_from_slice(&piece),
                None => {
                    self.is_whole = true;
                    break;
                }
            }
        }
        Ok(bytes.into())
    }
}

fn reply(reply: Reply) -> peer::Response {
    peer::Response {
        reply: Some(reply),
        ..peer::Response::default()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}
