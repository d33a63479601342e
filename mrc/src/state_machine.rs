//! What Raft decided, applied to the index; checkpoints out of it and into it.
//!
//! A batch of entries becomes one batch of the index that also holds the position of its last
//! entry. Nothing here waits for the disk: the log is the truth, and after a crash Raft repeats the
//! entries behind the position the engine kept. Only [`CheckpointBuilder`] flushes, because Raft
//! purges the log behind a checkpoint.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt};
use mrc_core::keys;
use mrc_core::{Effects, Entries, Index, IndexError, Overlay};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use prost::Message as _;
use proto::index::Command;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::checkpoint::{self, Received};
use crate::config::{APPLY_ENTRIES_MAX, DRAIN_BYTES, FLUSH_BYTES};
use crate::consensus::{CheckpointMeta, LogId, Outcome, Payload, StoredMembership, TypeConfig};
use crate::index_buffer::BufferedIndex;
use crate::log_writer::lock;

/// A checkpoint with what it contains.
pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Checkpoint>;

/// Entries of a whole index.
pub(crate) enum Checkpoint {
    /// Of this server's index, as it was at one position.
    Live(Entries<'static>),
    /// Received into a file.
    Received(Received),
}

/// How far the index is, kept in the index itself.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Position {
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
}

impl Position {
    fn meta(&self) -> CheckpointMeta {
        CheckpointMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        }
    }

    fn read(index: &dyn Index) -> io::Result<Self> {
        match index.get(keys::APPLIED).map_err(io::Error::other)? {
            Some(bytes) => postcard::from_bytes(&bytes).map_err(io::Error::other),
            None => Ok(Self::default()),
        }
    }
}

/// The index with its position; clones are handles of the same one.
#[derive(Clone)]
pub(crate) struct StateMachine {
    index: Arc<BufferedIndex>,
    position: Arc<Mutex<Position>>,
    /// Held while the index and its position change, so that a checkpoint sees them agree.
    changing: Arc<tokio::sync::Mutex<()>>,
    /// Bytes of commands applied since the last flush began.
    dirty_bytes: Arc<AtomicU64>,
    /// Held while the index is flushed: until then nobody may take it for flushed.
    flushing: Arc<tokio::sync::Mutex<()>>,
    events: Arc<Events>,
    /// Why the index could not be flushed, for good: what failed to reach the disk once may be
    /// taken for written the next time.
    failure: Arc<watch::Sender<Option<String>>>,
}

/// What the shell looks after when entries were applied.
#[derive(Debug, Default)]
pub(crate) struct Events {
    seen: Mutex<Effects>,
    /// Something for the janitor.
    pub janitor: Notify,
    /// The index buffers much that the engine does not have.
    pub drain: Notify,
    /// The index holds much that is not flushed.
    pub flush: Notify,
}

impl Events {
    fn add(&self, effects: Effects) {
        if effects == Effects::default() {
            return;
        }
        let mut seen = lock(&self.seen);
        seen.map_changed |= effects.map_changed;
        seen.orphaned |= effects.orphaned;
        seen.garbage |= effects.garbage;
        seen.session_ended |= effects.session_ended;
        seen.purge |= effects.purge;
        drop(seen);
        self.janitor.notify_one();
    }

    /// What happened since the last call.
    pub(crate) fn take(&self) -> Effects {
        std::mem::take(&mut lock(&self.seen))
    }
}

impl StateMachine {
    /// # Errors
    ///
    /// An index that can't be read.
    pub(crate) fn new(index: Arc<BufferedIndex>) -> io::Result<Self> {
        let position = Position::read(&*index)?;
        if position.applied.is_none() {
            remove_remains(&index).map_err(io::Error::other)?;
        }
        Ok(Self {
            index,
            position: Arc::new(Mutex::new(position)),
            changing: Arc::default(),
            dirty_bytes: Arc::default(),
            flushing: Arc::default(),
            events: Arc::default(),
            failure: Arc::new(watch::Sender::new(None)),
        })
    }

    pub(crate) fn index(&self) -> &Arc<BufferedIndex> {
        &self.index
    }

    pub(crate) fn events(&self) -> &Arc<Events> {
        &self.events
    }

    pub(crate) fn position(&self) -> Position {
        lock(&self.position).clone()
    }

    /// Leader of the newest entry applied, without cloning the membership.
    pub(crate) fn applied(&self) -> Option<LogId> {
        lock(&self.position).applied
    }

    /// Makes what was applied survive a power failure; returns up to where.
    pub(crate) async fn flush(&self) -> io::Result<Position> {
        let _flushing = self.flushing.lock().await;
        // What is applied meanwhile may be flushed, too: this is a lower bound.
        let position = self.position();
        if let Some(failure) = &*self.failure.borrow() {
            return Err(io::Error::other(failure.clone()));
        }
        if self.dirty_bytes.swap(0, Ordering::Relaxed) > 0 {
            let index = Arc::clone(&self.index);
            self.checked(blocking(move || index.flush()).await)?;
        }
        Ok(position)
    }

    /// Hands what was applied to the engine, without waiting for the disk.
    pub(crate) async fn drain(&self) -> io::Result<()> {
        if self.index.buffered_bytes() == 0 {
            return Ok(());
        }
        let index = Arc::clone(&self.index);
        self.checked(blocking(move || index.drain()).await)
    }

    /// All entries as they are at one position of the log, and which that is.
    pub(crate) async fn freeze(&self) -> io::Result<(u64, Entries<'static>)> {
        let _changing = self.changing.lock().await;
        let applied = self.applied().map_or(0, |id| id.index);
        let index = Arc::clone(&self.index);
        let entries = blocking(move || index.snapshot()).await?;
        Ok((applied, entries))
    }

    fn checked(&self, result: io::Result<()>) -> io::Result<()> {
        result.inspect_err(|error| {
            self.failure.send_replace(Some(error.to_string()));
        })
    }

    /// Becomes `Some` when the index can't be flushed any more; the server must stop then.
    pub(crate) fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.subscribe()
    }

    pub(crate) fn apply_batch(&self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let mut overlay = Overlay::new();
        let mut position = self.position();
        let mut effects = Effects::default();
        let mut answers: Vec<(ApplyResponder<TypeConfig>, Outcome)> = Vec::new();
        let mut bytes = 0;
        for (entry, responder) in batch {
            let outcome = match &entry.payload {
                Payload::Blank => Outcome::done(),
                Payload::Normal(proposal) => {
                    bytes += proposal.0.len() as u64;
                    let command = Command::decode(&proposal.0[..]).map_err(io::Error::other)?;
                    let applied = mrc_core::apply(&*self.index, &mut overlay, &command)
                        .map_err(io::Error::other)?;
                    merge(&mut effects, applied.effects);
                    Outcome(applied.reply)
                }
                Payload::Membership(membership) => {
                    position.membership =
                        StoredMembership::new(Some(entry.log_id), membership.clone());
                    Outcome::done()
                }
            };
            position.applied = Some(entry.log_id);
            answers.extend(responder.map(|responder| (responder, outcome)));
        }
        let encoded = postcard::to_stdvec(&position).map_err(io::Error::other)?;
        overlay.put(keys::APPLIED, encoded);
        self.index
            .apply(overlay.into_batch())
            .map_err(io::Error::other)?;
        // Counted before the position shows it: who sees the position must see that it is not flushed.
        let before = self.dirty_bytes.fetch_add(bytes + 1, Ordering::Relaxed);
        *lock(&self.position) = position;
        // Only now: an answer must be readable at once by whoever hears of it.
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        self.events.add(effects);
        if self.index.buffered_bytes() > DRAIN_BYTES {
            self.events.drain.notify_one();
        }
        if before < FLUSH_BYTES && before + bytes + 1 >= FLUSH_BYTES {
            self.events.flush.notify_one();
        }
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Checkpoint;
    type SnapshotBuilder = CheckpointBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let position = self.position();
        Ok((position.applied, position.membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batch = Vec::new();
        loop {
            let entry = entries.next().await.transpose()?;
            let ended = entry.is_none();
            batch.extend(entry);
            if !batch.is_empty() && (ended || batch.len() >= APPLY_ENTRIES_MAX) {
                let _changing = self.changing.lock().await;
                self.apply_batch(std::mem::take(&mut batch))?;
            }
            if ended {
                return Ok(());
            }
        }
    }

    async fn get_snapshot_builder(&mut self) -> CheckpointBuilder {
        CheckpointBuilder(self.clone())
    }

    async fn install_snapshot(
        &mut self,
        meta: &CheckpointMeta,
        snapshot: Checkpoint,
    ) -> Result<(), io::Error> {
        let _changing = self.changing.lock().await;
        let index = Arc::clone(&self.index);
        blocking(move || match snapshot {
            Checkpoint::Live(mut entries) => index.install(&mut entries),
            Checkpoint::Received(received) => {
                // Before anything is replaced by it: it lay on a disk meanwhile.
                for entry in checkpoint::read(&received)? {
                    entry?;
                }
                index.install(&mut checkpoint::read(&received)?)
            }
        })
        .await?;
        let position = Position::read(&*self.index)?;
        if position.applied != meta.last_log_id {
            return Err(io::Error::other(
                "the checkpoint is not of the position it was sent as",
            ));
        }
        *lock(&self.position) = position;
        self.events.add(Effects {
            map_changed: true,
            orphaned: true,
            garbage: true,
            session_ended: true,
            purge: true,
        });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let _changing = self.changing.lock().await;
        let position = self.position();
        if position.applied.is_none() {
            return Ok(None);
        }
        let index = Arc::clone(&self.index);
        let entries = blocking(move || index.snapshot()).await?;
        Ok(Some(Snapshot {
            meta: position.meta(),
            snapshot: Checkpoint::Live(entries),
        }))
    }
}

/// Flushes the index, which makes it a checkpoint.
pub(crate) struct CheckpointBuilder(StateMachine);

impl RaftSnapshotBuilder<TypeConfig> for CheckpointBuilder {
    type SnapshotData = Checkpoint;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let position = self.0.flush().await?;
        Ok(Snapshot {
            meta: position.meta(),
            // Raft wants to know only that it is there; who needs the entries asks again.
            snapshot: Checkpoint::Live(Box::new(std::iter::empty())),
        })
    }
}

/// Empties an index without a position: what is in it is of before an install that did not come to
/// its end, and commands of the log must not be applied on top of it.
fn remove_remains(index: &BufferedIndex) -> Result<(), IndexError> {
    let mut is_empty = true;
    for entry in index.snapshot()?.take(1) {
        entry?;
        is_empty = false;
    }
    if is_empty {
        return Ok(());
    }
    tracing::warn!("emptying an index that a checkpoint was to replace when the server ended");
    index.install(&mut std::iter::empty())
}

fn merge(into: &mut Effects, more: Effects) {
    into.map_changed |= more.map_changed;
    into.orphaned |= more.orphaned;
    into.garbage |= more.garbage;
    into.session_ended |= more.session_ended;
    into.purge |= more.purge;
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(io::Error::other),
        Err(_) => Err(io::Error::other("the index engine panicked")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use bytes::Bytes;
    use mrc_core::{Batch, IndexRead, MemoryIndex, Visitor};

    use super::*;
    use crate::damage::Damage;

    /// Flushes when it is told to.
    struct Slow {
        index: MemoryIndex,
        go_on: Mutex<mpsc::Receiver<()>>,
    }

    impl IndexRead for Slow {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
            self.index.get(key)
        }
        fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visitor<'_>) -> Result<(), IndexError> {
            self.index.scan(from, to, visit)
        }
    }

    impl Index for Slow {
        fn apply(&self, batch: Batch) -> Result<(), IndexError> {
            self.index.apply(batch)
        }
        fn flush(&self) -> Result<(), IndexError> {
            lock(&self.go_on).recv().map_err(IndexError::engine)
        }
        fn snapshot(&self) -> Result<Entries<'static>, IndexError> {
            self.index.snapshot()
        }
        fn install(
            &self,
            entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes), IndexError>>,
        ) -> Result<(), IndexError> {
            self.index.install(entries)
        }
    }

    #[test]
    fn what_an_install_left_half_done_is_not_built_upon() {
        let index = Arc::new(BufferedIndex::new(
            Box::new(MemoryIndex::new()),
            Damage::default(),
        ));
        let mut batch = Batch::new();
        batch.put("key", "of before the install");
        index.apply(batch).unwrap();

        let machine = StateMachine::new(Arc::clone(&index)).unwrap();

        assert_eq!(machine.applied(), None);
        assert_eq!(index.get(b"key").unwrap(), None);
    }

    #[tokio::test]
    async fn nobody_is_told_that_all_is_flushed_while_it_is_being_flushed() {
        let (go_on, gate) = mpsc::channel();
        let engine = Slow {
            index: MemoryIndex::new(),
            go_on: Mutex::new(gate),
        };
        let machine = StateMachine::new(Arc::new(BufferedIndex::new(
            Box::new(engine),
            Damage::default(),
        )))
        .unwrap();
        machine.apply_batch(Vec::new()).unwrap();

        let mut first = std::pin::pin!(machine.flush());
        let mut second = std::pin::pin!(machine.flush());
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut second).is_pending());

        go_on.send(()).unwrap();
        first.await.unwrap();
        second.await.unwrap();
    }
}
