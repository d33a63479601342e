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

    /// All open inodes.
    pub(crate) fn inodes(&self) -> Vec<u64> {
        lock(&self.open).keys().copied().collect()
    }

    fn all(&self) -> Vec<Arc<File>> {
        lock(&self.open).values().map(|e| e.file.clone()).collect()
    }

    /// Opens everything in a new session: the old one's opens are gone.
    pub(crate) async fn reopen(&self) {
        for file in self.all() {
            let _gate = file.gate.lock().await;
            let (read, write) = {
                let mut state = lock(&file.state);
                let was = (state.registered_read, state.registered_write);
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
                outcome = file.report(true).await.and(outcome);
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
            let last_writer = state.writers == 0 && state.registered_write;
            (last_writer, state.writers == 0 && state.readers == 0)
        };
        let mut outcome = Ok(());
        if last_writer {
            self.drain().await;
            outcome = self.report(true).await;
        }
        let release = last && std::mem::take(&mut lock(&self.state).registered_read);
        if release {
            let op = Op::Release(mrc::Release { inode: self.inode });
            outcome = self.shared.metadata.ask(op).await.map(|_| ()).and(outcome);
        }
        outcome
    }
}
