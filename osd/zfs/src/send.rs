//! Sending a snapshot: `zfs send` as something to read from.

use std::io::{self, Read};
use std::process::ChildStdout;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};

use crate::error::Error;
use crate::name::{BookmarkName, DatasetName, SnapshotName};
use crate::process::{ASK_LIMIT, CHANGE_LIMIT, Running, in_thread};
use crate::stream::{CHUNK_BYTES, CHUNKS, ResumeToken, STALL_LIMIT, StreamOptions, TransferHandle};
use crate::tree::Tree;

/// What an increment builds upon: the receiver must have that snapshot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Base<'a> {
    /// A snapshot that the sender still has.
    Snapshot(&'a SnapshotName),
    /// What is left of one.
    Bookmark(&'a BookmarkName),
}

impl Base<'_> {
    fn as_str(&self) -> &str {
        match self {
            Self::Snapshot(name) => name.as_str(),
            Self::Bookmark(name) => name.as_str(),
        }
    }

    fn dataset(&self) -> DatasetName {
        match self {
            Self::Snapshot(name) => name.dataset(),
            Self::Bookmark(name) => name.dataset(),
        }
    }
}

/// A stream that is read. It ends only if it is whole: a stream that was cut gives an error instead of
/// its end. Dropping it ends the program.
#[derive(Debug)]
pub struct Sending {
    running: Running,
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    piece_done: usize,
    handle: TransferHandle,
    estimated_bytes: Option<u64>,
    is_whole: bool,
}

impl Tree {
    /// Starts to send a snapshot, all of it or what changed since another.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`] about a dataset; [`Error::Unsupported`] for a bookmark where
    /// there are none. That a snapshot is missing is told by the first read.
    pub fn send(
        &self,
        snapshot: &SnapshotName,
        base: Option<Base<'_>>,
        options: StreamOptions,
    ) -> Result<Sending, Error> {
        let abilities = self.tools().abilities();
        self.check_ours(&snapshot.dataset())?;
        if let Some(base) = base {
            self.check_ours(&base.dataset())?;
            if matches!(base, Base::Bookmark(_)) && !abilities.bookmarks {
                return Err(Error::Unsupported {
                    what: "sending from a bookmark",
                    remedy: "send from a snapshot, or install OpenZFS 0.7 or newer",
                });
            }
        }
        let mut words: Vec<&str> = options.words().collect();
        if let Some(base) = &base {
            words.extend(["-i", base.as_str()]);
        }
        words.push(snapshot.as_str());
        self.start_send(&words)
    }

    /// Starts to send the rest of a stream whose receiver was cut.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where there is no such thing; [`Error::Failed`] if the snapshot is gone or the
    /// token is none; [`Error::Missing`], [`Error::Foreign`] about the dataset that it names.
    pub fn send_resumed(&self, token: &ResumeToken) -> Result<Sending, Error> {
        self.check_resumable()?;
        // The token came from elsewhere: it must not make us send somebody else's dataset.
        let words = ["send", "-nvP", "-t", token.as_str()];
        let text = self.tools().zfs(words).run_both(ASK_LIMIT)?;
        let named = named_in(&text).and_then(|name| SnapshotName::new(name).ok());
        let Some(snapshot) = named else {
            return Err(Error::Unreadable {
                command: "zfs send -nvP -t".to_owned(),
                what: "no snapshot is named in the token",
            });
        };
        self.check_ours(&snapshot.dataset())?;
        self.start_send(&["-t", token.as_str()])
    }

    pub(crate) fn check_resumable(&self) -> Result<(), Error> {
        if self.tools().abilities().resumable_receive {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: "going on with a stream that was cut",
            remedy: "send it again from its beginning, or install OpenZFS 0.7 or newer",
        })
    }

    fn start_send(&self, words: &[&str]) -> Result<Sending, Error> {
        let estimated_bytes = self.estimate(words);
        let words = ["send"].into_iter().chain(words.iter().copied());
        let (running, stdout) = self.tools().zfs(words).start_reading()?;
        let handle = TransferHandle::new(running.killer());
        let (give, pieces) = mpsc::sync_channel(CHUNKS);
        in_thread(move || pump(stdout, &give)).map_err(|error| running.broken(error))?;
        Ok(Sending {
            running,
            pieces,
            piece: Vec::new(),
            piece_done: 0,
            handle,
            estimated_bytes,
            is_whole: false,
        })
    }

    /// Bytes that a stream will have; none if the programs can't tell. Why they can't, sending tells.
    fn estimate(&self, words: &[&str]) -> Option<u64> {
        if !self.tools().abilities().send_estimate {
            return None;
        }
        let words = ["send", "-nvP"].into_iter().chain(words.iter().copied());
        size_in(&self.tools().zfs(words).run_both(ASK_LIMIT).ok()?)
    }
}

/// Reads the program's output until somebody stops listening.
fn pump(mut stdout: ChildStdout, give: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut piece = vec![0; CHUNK_BYTES];
        let read = match stdout.read(&mut piece) {
            Ok(0) => return,
            Ok(count) => {
                piece.truncate(count);
                Ok(piece)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let is_last = read.is_err();
        if give.send(read).is_err() || is_last {
            return;
        }
    }
}

impl Sending {
    /// Bytes that the stream will have, if the programs can tell.
    #[must_use]
    pub const fn estimated_bytes(&self) -> Option<u64> {
        self.estimated_bytes
    }

    /// What watches and cancels it.
    #[must_use]
    pub fn handle(&self) -> TransferHandle {
        self.handle.clone()
    }

    /// The next piece; none at the end of a whole stream. Blocks for at most ten minutes.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`], [`Error::TimedOut`], [`Error::Cancelled`]: the stream is not whole.
    pub fn next_piece(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if self.is_whole {
            return Ok(None);
        }
        match self.pieces.recv_timeout(STALL_LIMIT) {
            Ok(Ok(piece)) => {
                self.handle.add(piece.len());
                Ok(Some(piece))
            }
            Ok(Err(error)) => Err(self.running.broken(error)),
            Err(RecvTimeoutError::Timeout) => {
                self.handle.cancel();
                Err(self.running.stalled(STALL_LIMIT))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let ended = self.running.succeed(CHANGE_LIMIT);
                if self.handle.is_cancelled() {
                    return Err(Error::Cancelled {
                        command: self.running.text().to_owned(),
                    });
                }
                ended?;
                self.is_whole = true;
                Ok(None)
            }
        }
    }
}

impl Read for Sending {
    /// As [`Sending::next_piece`]; its errors are inside.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece_done == self.piece.len() && !buffer.is_empty() {
            self.piece = self
                .next_piece()
                .map_err(io::Error::other)?
                .unwrap_or_default();
            self.piece_done = 0;
        }
        let rest = self.piece.get(self.piece_done..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        self.piece_done += count;
        Ok(count)
    }
}

/// The number of the line `size <number>`.
fn size_in(text: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "size").then(|| words.next()?.parse().ok())?
    })
}

/// The snapshot of the line `toname = <snapshot>`.
fn named_in(text: &str) -> Option<&str> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix("toname = "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the format of OpenZFS 2.2.
    #[test]
    fn estimates_and_tokens_are_read() {
        let text = "full\ttank/a@b\t10518512\nsize\t10518512\n";
        let token = "resume token contents:\nnvlist version: 0\n\tobject = 0x6\n\toffset = 0x40000\n\t\
                     bytes = 0x57000\n\ttoguid = 0x1234\n\ttoname = tank/a@b\nfull\ttank/a@b\t99\n\
                     size\t99\n";

        assert_eq!(size_in(text), Some(10_518_512));
        assert_eq!(size_in("incremental\ta\ttank/a@b\t5\nsize\t-\n"), None);
        assert_eq!(named_in(token), Some("tank/a@b"));
        assert_eq!(size_in(token), Some(99));
        assert_eq!(named_in(text), None);
    }
}
