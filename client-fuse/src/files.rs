//! The inodes with open descriptors: opening, reporting and closing them at the metadata cluster.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use client_core::Change;
use proto::mrc;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;

use crate::errno::Errno;
use crate::file::File;
use crate::lock;
use crate::names::MISFIT;
use crate::shared::Shared;
use crate::size::Closing;

struct Entry {
    file: Arc<File>,
    /// Descriptors and operations that need the file; it is forgotten with the last.
    users: usize,
}

/// All of them.
pub(crate) struct Files {
    shared: Arc<Shared>,
    open: Mutex<HashMap<u64, Entry>>,
}

impl Files {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            open: Mutex::default(),
        }
    }

    /// The file, if it is open here.
    pub(crate) fn get(&self, inode: u64) -> Option<Arc<File>> {
        lock(&self.open).get(&inode).map(|entry| entry.file.clone())
    }

    /// The file, which will be kept until [`Files::leave`].
    pub(crate) fn enter(&self, inode: u64) -> Arc<File> {
        let mut open = lock(&self.open);
        let entry = open.entry(inode).or_insert_with(|| Entry {
            file: File::new(self.shared.clone(), inode),
            users: 0,
        });
        entry.users += 1;
        entry.file.clone()
    }

    pub(crate) fn leave(&self, inode: u64) {
        let mut open = lock(&self.open);
        if let Some(entry) = open.get_mut(&inode) {
            entry.users -= 1;
            if entry.users == 0 {
                open.remove(&inode);
            }
        }
    }

    /// What a new leader is to be told: the files of which it will hear when nobody reads them any
    /// more. That others are open for writing is on record.
    pub(crate) fn readers(&self) -> Vec<u64> {
        let open = lock(&self.open);
        let told = open.iter().filter(|(_, entry)| entry.file.is_told_read());
        told.map(|(inode, _)| *inode).collect()
    }

    /// A leader was told that these files are open. Those that were closed meanwhile it may have heard of
    /// before: it is told once more.
    pub(crate) async fn release_closed(&self, told: &[u64]) -> Result<(), Errno> {
        let mut outcome = Ok(());
        for inode in told {
            if self.get(*inode).is_some_and(|file| file.is_told_read()) {
                continue;
            }
            let file = self.enter(*inode);
            let _gate = file.gate.lock().await;
            outcome = file.release_again().await.and(outcome);
            self.leave(*inode);
        }
        outcome
    }

    pub(crate) fn all(&self) -> Vec<Arc<File>> {
        lock(&self.open).values().map(|e| e.file.clone()).collect()
    }

    /// Opens everything in a new session: the old one's opens are gone.
    pub(crate) async fn reopen(&self) {
        for file in self.all() {
            let _gate = file.gate.lock().await;
            let (read, write) = {
                let mut state = lock(&file.state);
                // One that was written and flushed counts as a reader, too, until its last descriptor goes.
                let in_use = state.readers + state.writers > 0;
                let read = state.registered_read || state.told_read && in_use;
                let was = (read, state.registered_write);
                state.registered_read = false;
                was
            };
            let outcome = async {
                if write {
                    file.register_write().await?;
                }
                if read {
                    file.register_read().await?;
                }
                Ok::<(), Errno>(())
            };
            if let Err(errno) = outcome.await {
                tracing::error!(
                    inode = file.inode,
                    %errno,
                    "a file that is open could not be opened in the new session; \
                     programs that use it will see errors"
                );
            }
        }
    }

    /// Drains and reports everything, for unmounting.
    pub(crate) async fn close_all(&self) -> Result<(), Errno> {
        let mut outcome = Ok(());
        for file in self.all() {
            let _gate = file.gate.lock().await;
            file.drain().await;
            if file.error_count() > 0 {
                outcome = Err(Errno(libc::EIO));
            }
            let registered = lock(&file.state).registered_write;
            if registered {
                outcome = file.report(Closing::Last).await.and(outcome);
            }
        }
        outcome
    }
}

/// What follows is done with the file's gate held.
impl File {
    /// Records that we write.
    pub(crate) async fn register_write(&self) -> Result<mrc::Attr, Errno> {
        let op = Op::OpenWrite(mrc::OpenWrite { inode: self.inode });
        match self.shared.metadata.change(op).await? {
            Reply::Opened(opened) => {
                self.opened(&opened, true);
                lock(&self.state).registered_write = true;
                opened.attr.ok_or(MISFIT)
            }
            _ => Err(MISFIT),
        }
    }

    /// Tells the leader that the file is open.
    pub(crate) async fn register_read(&self) -> Result<mrc::Attr, Errno> {
        let _reading = self.reading.lock().await;
        self.tell_read().await
    }

    /// Opens the file for reading, or says that nobody does.
    pub(crate) async fn enter_read(&self) -> Result<(), Errno> {
        let Err(errno) = self.register_read().await else {
            return Ok(());
        };
        let unused = {
            let state = lock(&self.state);
            state.writers == 0 && state.readers == 0
        };
        if unused {
            // Why it could not be opened is what the program wants to know.
            let _ = self.release_read().await;
        }
        Err(errno)
    }

    /// Tells the leader that nobody reads the file here any more, if it may believe that somebody does.
    async fn release_read(&self) -> Result<(), Errno> {
        let _reading = self.reading.lock().await;
        let told = {
            let mut state = lock(&self.state);
            state.registered_read = false;
            state.released = true;
            std::mem::take(&mut state.told_read)
        };
        if told {
            self.tell_released().await
        } else {
            Ok(())
        }
    }

    /// Tells the leader once more that nobody reads the file here, unless somebody does again.
    async fn release_again(&self) -> Result<(), Errno> {
        let _reading = self.reading.lock().await;
        if self.is_told_read() {
            return Ok(());
        }
        self.tell_released().await
    }

    /// Makes everything acknowledged stable on a quorum.
    pub(crate) async fn sync_objects(&self) -> Result<(), Errno> {
        // Also if this descriptor wrote nothing: what was written through others counts, too,
        // on this mount or another.
        self.alone(Change::Sync).await.map(|_| ())
    }

    /// The last descriptor of its kind goes.
    pub(crate) async fn close_descriptor(&self, write: bool) -> Result<(), Errno> {
        let (last_writer, last) = {
            let mut state = lock(&self.state);
            if write {
                state.writers -= 1;
            } else {
                state.readers -= 1;
            }
            state.released = false;
            let last_writer = state.writers == 0 && state.registered_write;
            (last_writer, state.writers == 0 && state.readers == 0)
        };
        let mut outcome = Ok(());
        if last_writer {
            self.drain().await;
            outcome = self.report(Closing::Last).await;
        }
        if last {
            outcome = self.release_read().await.and(outcome);
        }
        outcome
    }
}

impl File {
    /// Whether a leader may believe that the file is open for reading here.
    pub(crate) fn is_told_read(&self) -> bool {
        lock(&self.state).told_read
    }

    /// Gets a new right to read. Without the gate, whose holder may wait for that.
    pub(crate) async fn renew_read(&self) -> Result<(), Errno> {
        let _reading = self.reading.lock().await;
        let closed = {
            let state = lock(&self.state);
            state.released && state.writers == 0 && state.readers == 0
        };
        if closed {
            // To read ahead: no leader would hear that nobody reads.
            return Err(Errno(libc::EBADF));
        }
        self.tell_read().await.map(|_| ())
    }
}

/// What follows is done with `reading` held.
impl File {
    async fn tell_read(&self) -> Result<mrc::Attr, Errno> {
        // Before it is: another leader may be told meanwhile what is open here.
        lock(&self.state).told_read = true;
        let op = Op::Open(mrc::Open {
            inode: self.inode,
            renew_write: false,
        });
        match self.shared.metadata.ask(op).await? {
            Reply::Opened(opened) => {
                self.opened(&opened, false);
                lock(&self.state).registered_read = true;
                opened.attr.ok_or(MISFIT)
            }
            _ => Err(MISFIT),
        }
    }

    async fn tell_released(&self) -> Result<(), Errno> {
        let op = Op::Release(mrc::Release { inode: self.inode });
        self.shared.metadata.ask(op).await.map(|_| ())
    }
}
