//! Telling the metadata cluster how long files are, while other mounts write and truncate them.
//!
//! Only the object knows its length at every moment. The metadata cluster is told of it afterwards,
//! and not in the order in which the object was changed: a size from before another mount's
//! truncation must not raise what the truncation set, and a truncation must not cut off what was
//! written behind it and reported before it. Where the order is unknown the cluster answers EAGAIN;
//! then the object is asked, after the cluster, and what it shows is true unless the file was changed
//! once more.
//!
//! Source: the truncate epochs of XtreemFS; Hupfeld et al., *The XtreemFS architecture*, CCPE 2008.

use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{self, Attr};
use proto::osd;

use crate::attr::SetAttributes;
use crate::config::SIZE_TRIES_MAX;
use crate::errno::Errno;
use crate::file::{File, State};
use crate::lock;
use crate::names::MISFIT;
use crate::oxfs::OxFs;

/// Of a size that comes too late.
const OUTDATED: Errno = Errno(libc::EAGAIN);

/// Whether a report says that this mount writes the file no more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Closing {
    /// It goes on.
    No,
    /// A descriptor was closed that may have duplicates, also in other programs: the file stays open.
    Flushed,
    /// The last descriptor for writing is gone.
    Last,
}

impl State {
    /// Takes over what the metadata cluster said, unless it is older than what it said before.
    pub(crate) fn know(&mut self, attr: &Attr) {
        self.mode = attr.mode;
        self.group = attr.gid;
        if attr.data_version >= self.data_version {
            self.data_version = attr.data_version;
            self.truncate_epoch = attr.truncate_epoch;
            self.size = attr.size_bytes;
        }
    }

    /// A change is taken that the metadata cluster will have to be told of.
    pub(crate) fn owe(&mut self) {
        self.owed_since.get_or_insert(self.truncate_epoch);
    }

    /// Everything that was changed before a truncation is gone with it.
    pub(crate) fn forget_settled_debt(&mut self) {
        if self.written_end == 0 && self.mtime.is_none() && self.changes.is_idle() {
            self.owed_since = None;
        }
    }
}

/// What follows is done with the file's gate held.
impl File {
    /// Whether somebody else truncated the file after this mount wrote what it has not reported: then
    /// only the object knows how long the file is.
    pub(crate) fn is_outdated(&self, attr: &Attr) -> bool {
        let state = lock(&self.state);
        let older = |epoch| epoch < attr.truncate_epoch;
        state.written_end > attr.size_bytes && state.owed_since.is_some_and(older)
    }

    /// Tells the metadata cluster the size and time of what was written, and whether we write on.
    pub(crate) async fn report(&self, closing: Closing) -> Result<(), Errno> {
        let read_only = {
            let state = lock(&self.state);
            state.readers > 0 && !state.registered_read
        };
        // Else an unlinked file that programs still have open could go.
        match closing {
            Closing::Last if read_only => {
                self.register_read().await?;
            }
            Closing::Flushed => {
                let _reading = self.reading.lock().await;
                return self.report_once(closing).await;
            }
            Closing::Last | Closing::No => {}
        }
        self.report_once(closing).await
    }

    async fn report_once(&self, closing: Closing) -> Result<(), Errno> {
        let (end, mtime, close, owed_since) = {
            let mut state = lock(&self.state);
            let idle = state.changes.is_idle();
            let close = closing != Closing::No && idle;
            // A leader that comes meanwhile is told.
            state.told_read |= close && closing == Closing::Flushed;
            // From here on a write registers again, after this.
            state.registered_write &= !close;
            let owed_since = state.owed_since;
            if idle {
                // What is written from here on is newer than what is known now.
                state.owed_since = None;
            }
            if !close && state.written_end == 0 && state.mtime.is_none() {
                return Ok(());
            }
            self.begin_report(&mut state);
            (state.written_end, state.mtime, close, owed_since)
        };
        let stays_open = close && closing == Closing::Flushed;
        let outcome = self
            .tell((end, mtime), (close, stays_open), owed_since)
            .await;
        let mut state = lock(&self.state);
        let attr = match outcome {
            Ok(attr) => attr,
            Err(errno) => {
                state.owed_since = owed_since.or(state.owed_since);
                self.end_report(&mut state, None);
                return Err(errno);
            }
        };
        if state.written_end == end {
            state.written_end = 0;
        }
        if state.mtime == mtime {
            state.mtime = None;
        }
        self.end_report(&mut state, Some(&attr));
        Ok(())
    }

    async fn tell(
        &self,
        (end, mtime): (u64, Option<i64>),
        (close, stays_open): (bool, bool),
        owed_since: Option<u64>,
    ) -> Result<Attr, Errno> {
        let known = lock(&self.state).truncate_epoch;
        let mut written = mrc::Written {
            inode: self.inode,
            size_at_least_bytes: end,
            mtime_ns: mtime,
            close,
            stays_open,
            truncate_epoch: owed_since.unwrap_or(known),
        };
        for _ in 0..SIZE_TRIES_MAX {
            match self.shared.metadata.change(Op::Written(written)).await {
                Err(OUTDATED) => {}
                outcome => return attr_of(outcome?),
            }
            let (attr, length) = self.ask_length().await?;
            written.size_at_least_bytes = length;
            written.truncate_epoch = attr.truncate_epoch;
            // The truncation's time is later than the writes'.
            written.mtime_ns = mtime.filter(|mtime| *mtime > attr.mtime_ns);
        }
        Err(self.truncated_again_and_again())
    }

    /// What the metadata cluster says now, and how long the object is after that.
    async fn ask_length(&self) -> Result<(Attr, u64), Errno> {
        let get = Op::GetAttr(mrc::GetAttr { inode: self.inode });
        let attr = attr_of(self.shared.metadata.ask(get).await?)?;
        let stat = osd::request::Op::Stat(osd::Stat {});
        let (response, _) = self.ask_object(stat).await?;
        Ok((attr, response.length_bytes))
    }

    fn truncated_again_and_again(&self) -> Errno {
        tracing::error!(
            inode = self.inode,
            tries = SIZE_TRIES_MAX,
            "other mounts change the file's size so often that this mount's can't be recorded; \
             close the file again"
        );
        Errno(libc::EIO)
    }
}

impl OxFs {
    /// Sets the size and other attributes of a file whose object was truncated to `size` just now;
    /// `data_version` is what was known before.
    pub(crate) async fn record_truncation(
        &self,
        file: &File,
        set: SetAttributes,
        size: u64,
        data_version: u64,
    ) -> Result<Attr, Errno> {
        let mut size = (size, data_version);
        for _ in 0..SIZE_TRIES_MAX {
            match self.set_attr(file.inode, set, Some(size)).await {
                Err(OUTDATED) => {}
                outcome => return outcome,
            }
            let (attr, length) = file.ask_length().await?;
            size = (length, attr.data_version);
        }
        Err(file.truncated_again_and_again())
    }
}

fn attr_of(reply: Reply) -> Result<Attr, Errno> {
    match reply {
        Reply::Entry(mrc::Entry { attr: Some(attr) }) => Ok(attr),
        _ => Err(MISFIT),
    }
}
