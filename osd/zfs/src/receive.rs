//! Receiving a snapshot: `zfs receive` as something to write to.
//!
//! What is received becomes visible in one step at the end. Until then a dataset shows what it showed
//! before; one that was made to receive is empty.
//!
//! A receive is ended by ending its input. Killing the program is not enough: zfs-fuse goes on reading
//! from the pipe until whoever writes to it closes it.
//!
//! `-F` takes a dataset back to the snapshot that an increment builds upon, and newer versions of ZFS
//! destroy newer snapshots for it. It is used only on datasets of the cluster, only if the caller said
//! [`Changes::Discard`], and never if there are newer snapshots: those are a history that somebody may
//! want to keep.

use std::io::{self, Write};
use std::process::ChildStdin;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::Duration;

use crate::error::Error;
use crate::name::{DatasetName, SnapshotName};
use crate::process::{CHANGE_LIMIT, Running, in_thread};
use crate::snapshots::Snapshot;
use crate::stream::{CHUNK_BYTES, CHUNKS, ResumeToken, STALL_LIMIT, TransferHandle};
use crate::tree::{NewDataset, Tree};

/// How long a receive may take to notice that its stream was cut. 30 s: it writes what it has, and removes
/// it again, or keeps it to go on later.
const CANCEL_LIMIT: Duration = Duration::from_secs(30);

/// Attempts to remove a dataset that is busy. 100, with the pause 10 s: where the program was killed, the
/// module or the daemon removes what was received after it.
const REMOVE_ATTEMPTS: u32 = 100;

/// Pause between two attempts. 100 ms: a program is started for each.
const REMOVE_PAUSE: Duration = Duration::from_millis(100);

/// What happens to what was written into a dataset since its newest snapshot, or ever if it has none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Changes {
    /// It is kept: the receive is refused if there is any.
    Keep,
    /// It is lost.
    Discard,
}

/// What is left of a receive that was cancelled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Remains {
    /// Nothing: the dataset is as it was before, or gone if it was made for this.
    Nothing,
    /// The dataset is as it was before, or empty if it was made for this, and the receive can go on where
    /// it was.
    Resumable(ResumeToken),
    /// All of it: the stream had ended just before.
    Snapshot(Snapshot),
}

/// A stream that is written. Until [`Receiving::finish`] says so nothing is received. Dropping it ends the
/// program but, unlike [`Receiving::cancel`], may leave an empty dataset that was made for it.
#[derive(Debug)]
pub struct Receiving {
    tree: Tree,
    target: SnapshotName,
    is_made: bool,
    running: Running,
    full: Option<SyncSender<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
    handle: TransferHandle,
}

impl Tree {
    /// Starts to receive a full stream as a snapshot of a dataset, which is made if it is missing, and must
    /// have no snapshots if not. It must not be mounted writable, and stays unmounted.
    ///
    /// # Errors
    ///
    /// [`Error::Foreign`], [`Error::Outside`], [`Error::HasSnapshots`], [`Error::InUse`]; [`Error::Failed`]
    /// if it exists and the changes should be kept. Nothing happened.
    pub fn receive_full(
        &self,
        target: &SnapshotName,
        new: &NewDataset,
        changes: Changes,
    ) -> Result<Receiving, Error> {
        let dataset = target.dataset();
        self.check_inside(&dataset)?;
        let is_made = match (self.check_ours(&dataset), changes) {
            (Err(error), _) if error.is_missing() => true,
            (Err(error), _) => return Err(error),
            // Says that it exists.
            (Ok(()), Changes::Keep) => true,
            (Ok(()), Changes::Discard) => false,
        };
        if is_made {
            // With the mark from its first moment; a stream could not bring it.
            self.make(&dataset, new)?;
        } else {
            self.check_quiet(&dataset)?;
            if let Some(snapshot) = self.snapshots(&dataset)?.first() {
                return Err(Error::HasSnapshots {
                    dataset: dataset.to_string(),
                    snapshot: snapshot.name.to_string(),
                });
            }
        }
        // The dataset that bears the mark is replaced by what the stream brings.
        let started = self.start_receive(target, true, is_made);
        if started.is_err() && is_made {
            self.remove_made(&dataset);
        }
        started
    }

    /// Starts to receive an increment as a snapshot of a dataset that has the snapshot it builds upon,
    /// given by its guid. The dataset must not be mounted writable.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`], [`Error::NoBase`], [`Error::Diverged`], [`Error::InUse`].
    /// Nothing happened.
    pub fn receive_increment(
        &self,
        target: &SnapshotName,
        base_guid: u64,
        changes: Changes,
    ) -> Result<Receiving, Error> {
        let dataset = target.dataset();
        self.check_inside(&dataset)?;
        self.check_quiet(&dataset)?;
        check_base(&self.snapshots(&dataset)?, &dataset, base_guid)?;
        self.start_receive(target, changes == Changes::Discard, false)
    }

    /// Starts to receive the rest of a stream that was cut.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`]; [`Error::Missing`], [`Error::Foreign`], [`Error::InUse`].
    pub fn receive_resumed(&self, target: &SnapshotName) -> Result<Receiving, Error> {
        self.check_resumable()?;
        let dataset = target.dataset();
        self.check_inside(&dataset)?;
        self.check_quiet(&dataset)?;
        self.start_receive(target, false, false)
    }

    /// Where a receive into a dataset can go on; none if none was cut, or all that was cut is lost.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`].
    pub fn resume_token(&self, dataset: &DatasetName) -> Result<Option<ResumeToken>, Error> {
        self.check_ours(dataset)?;
        if self.check_resumable().is_err() {
            return Ok(None);
        }
        let text = self.ask(dataset, "receive_resume_token")?;
        let values = crate::properties::Values::of(&text, dataset.as_str(), "zfs get");
        values
            .text("receive_resume_token")
            .map(ResumeToken::new)
            .transpose()
    }

    /// Forgets what a receive that was cut had received so far.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`]; [`Error::Missing`], [`Error::Foreign`]; [`Error::Failed`] if there is nothing.
    pub fn discard_partial(&self, dataset: &DatasetName) -> Result<(), Error> {
        self.check_resumable()?;
        self.check_ours(dataset)?;
        self.tools().change_zfs(["receive", "-A", dataset.as_str()])
    }

    /// Refuses a dataset that programs could be writing to.
    fn check_quiet(&self, dataset: &DatasetName) -> Result<(), Error> {
        let info = self.info(dataset)?;
        if info.is_mounted && !info.is_readonly {
            return Err(Error::InUse {
                dataset: dataset.to_string(),
            });
        }
        Ok(())
    }

    fn start_receive(
        &self,
        target: &SnapshotName,
        is_forced: bool,
        is_made: bool,
    ) -> Result<Receiving, Error> {
        let abilities = self.tools().abilities();
        let mut words = vec!["receive"];
        words.extend(abilities.unmounted_receive.then_some("-u"));
        words.extend(abilities.resumable_receive.then_some("-s"));
        words.extend(is_forced.then_some("-F"));
        words.push(target.as_str());
        let (running, stdin) = self.tools().zfs(words).start_writing()?;
        let handle = TransferHandle::new(running.killer());
        let (give, full) = mpsc::sync_channel(CHUNKS);
        let (give_back, empty) = mpsc::channel();
        for _ in 0..CHUNKS {
            // The other end is in this function.
            let _ = give_back.send(Vec::with_capacity(CHUNK_BYTES));
        }
        let counter = handle.clone();
        in_thread(move || pump(stdin, &full, &give_back, &counter))
            .map_err(|error| running.broken(error))?;
        Ok(Receiving {
            tree: self.clone(),
            target: target.clone(),
            is_made,
            running,
            full: Some(give),
            empty,
            handle,
        })
    }

    /// Removes a dataset that was made for a receive that failed; it is empty, so what goes wrong is told
    /// to the log only.
    fn remove_made(&self, dataset: &DatasetName) {
        let mut removed = self.destroy(dataset);
        for _ in 1..REMOVE_ATTEMPTS {
            match &removed {
                Err(Error::Failed { said, .. }) if said.contains("busy") => {}
                _ => break,
            }
            thread::sleep(REMOVE_PAUSE);
            removed = self.destroy(dataset);
        }
        if let Err(error) = removed {
            tracing::warn!(%dataset, %error, "an empty dataset could not be removed");
        }
    }
}

/// Refuses an increment that does not build upon the newest snapshot.
fn check_base(snapshots: &[Snapshot], dataset: &DatasetName, guid: u64) -> Result<(), Error> {
    let base = snapshots.iter().find(|snapshot| snapshot.guid == guid);
    let (Some(base), Some(newest)) = (base, snapshots.last()) else {
        return Err(Error::NoBase {
            dataset: dataset.to_string(),
            guid,
        });
    };
    if newest.guid == guid {
        return Ok(());
    }
    Err(Error::Diverged {
        dataset: dataset.to_string(),
        base: base.name.to_string(),
        newest: newest.name.to_string(),
    })
}

/// Writes what comes to the program's input, which ends when nothing comes any more.
fn pump(
    mut stdin: ChildStdin,
    full: &Receiver<Vec<u8>>,
    give_back: &Sender<Vec<u8>>,
    counter: &TransferHandle,
) {
    while let Ok(mut piece) = full.recv() {
        // Why the program doesn't read any more it says itself.
        if stdin.write_all(&piece).is_err() {
            return;
        }
        counter.add(piece.len());
        piece.clear();
        if give_back.send(piece).is_err() {
            return;
        }
    }
}

impl Receiving {
    /// What watches and cancels it.
    #[must_use]
    pub fn handle(&self) -> TransferHandle {
        self.handle.clone()
    }

    /// Says that all was written, and waits until it is received. Blocks for at most ten minutes.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if the stream is not whole or does not fit, [`Error::TimedOut`],
    /// [`Error::Cancelled`]: the dataset is as it was, gone if it was made for this, or can go on
    /// receiving: see [`Tree::resume_token`]. What was written whole before somebody cancelled it may be
    /// received all the same.
    pub fn finish(mut self) -> Result<Snapshot, Error> {
        self.full = None;
        let ended = self.running.succeed(CHANGE_LIMIT);
        let ended = if self.handle.is_cancelled() {
            Err(self.cancelled())
        } else {
            ended
        };
        let snapshot = ended.and_then(|()| self.tree.find_snapshot(&self.target));
        if snapshot.is_err() {
            self.tidy();
        }
        snapshot
    }

    /// Ends it before its end, and removes what can't be continued. Blocks for about a minute at most, and
    /// for as long as removing an empty dataset takes.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] if the program can't be killed; [`Error::Failed`] if ZFS doesn't answer.
    pub fn cancel(mut self) -> Result<Remains, Error> {
        // The end of its input lets it remove what it has; killing it would leave that to the kernel.
        self.full = None;
        if self.running.wait_at_most(CANCEL_LIMIT)?.is_none() {
            self.handle.cancel();
            self.running.wait(CANCEL_LIMIT)?;
        }
        match self.tree.find_snapshot(&self.target) {
            Ok(snapshot) => return Ok(Remains::Snapshot(snapshot)),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        Ok(match self.tidy() {
            Some(token) => Remains::Resumable(token),
            None => Remains::Nothing,
        })
    }

    /// Removes a dataset that was made for this, unless the receive can go on.
    fn tidy(&self) -> Option<ResumeToken> {
        let dataset = self.target.dataset();
        let token = match self.tree.resume_token(&dataset) {
            Ok(token) => token,
            Err(error) => {
                tracing::warn!(%dataset, %error, "a dataset that was to receive can't be asked");
                return None;
            }
        };
        if token.is_none() && self.is_made {
            self.tree.remove_made(&dataset);
        }
        token
    }

    fn cancelled(&self) -> Error {
        Error::Cancelled {
            command: self.running.text().to_owned(),
        }
    }

    /// Gives a piece to the program. Blocks for at most ten minutes.
    fn give(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        if self.handle.is_cancelled() {
            return Err(self.cancelled());
        }
        let mut piece = match self.empty.recv_timeout(STALL_LIMIT) {
            Ok(piece) => piece,
            Err(RecvTimeoutError::Timeout) => {
                self.handle.cancel();
                return Err(self.running.stalled(STALL_LIMIT));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(self.why_ended()),
        };
        let count = bytes.len().min(CHUNK_BYTES);
        piece.extend_from_slice(bytes.get(..count).unwrap_or_default());
        match self.full.as_ref().map(|full| full.send(piece)) {
            Some(Ok(())) => Ok(count),
            _ => Err(self.why_ended()),
        }
    }

    /// Why the program takes no more.
    fn why_ended(&mut self) -> Error {
        let ended = self.running.succeed(CANCEL_LIMIT);
        if self.handle.is_cancelled() {
            return self.cancelled();
        }
        ended.err().unwrap_or_else(|| Error::Unreadable {
            command: self.running.text().to_owned(),
            what: "it ended well before its input did",
        })
    }
}

impl Write for Receiving {
    /// Takes up to 128 KiB; errors are [`Error`]s inside.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.give(bytes).map_err(io::Error::other)
    }

    /// Does nothing: only [`Receiving::finish`] tells that something was received.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(name: &str, guid: u64) -> Snapshot {
        Snapshot {
            name: SnapshotName::new(name).unwrap(),
            guid,
            created_s: 0,
            used_bytes: 0,
            referenced_bytes: 0,
            created_txg: guid,
        }
    }

    #[test]
    fn increment_must_build_upon_the_newest_snapshot() {
        let dataset = DatasetName::new("tank/d").unwrap();
        let snapshots = [snapshot("tank/d@a", 1), snapshot("tank/d@b", 2)];

        check_base(&snapshots, &dataset, 2).unwrap();
        let diverged = check_base(&snapshots, &dataset, 1).unwrap_err();
        assert!(matches!(diverged, Error::Diverged { .. }), "{diverged}");
        for snapshots in [&snapshots[..], &[]] {
            let error = check_base(snapshots, &dataset, 3).unwrap_err();
            assert!(matches!(error, Error::NoBase { guid: 3, .. }), "{error}");
        }
    }
}
