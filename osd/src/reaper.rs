//! Removes the files of deleted objects on a thread of its own.
//!
//! Giving back the blocks of one file can take a millisecond or more, and deleting a directory tree
//! means thousands of them: a shard must not wait for that. Until its file is gone a deleted object
//! is on the store's list of doomed ones, and absent to everybody.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use osd_core::ObjectKey;

use crate::inbox::Inbox;
use crate::store_root::Root;

/// What happens once the file is gone, or can't be removed.
pub(crate) type OnGone = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The thread and what waits for it.
pub(crate) struct Reaper {
    inbox: Inbox<(ObjectKey, OnGone)>,
}

impl std::fmt::Debug for Reaper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reaper").finish_non_exhaustive()
    }
}

impl Reaper {
    /// Starts the thread.
    pub(crate) fn start(root: Arc<Root>) -> io::Result<(Arc<Self>, JoinHandle<()>)> {
        let reaper = Arc::new(Self {
            // Bounded by the deletions that shards have accepted.
            inbox: Inbox::new(usize::MAX, usize::MAX),
        });
        let serving = Arc::clone(&reaper);
        let thread = thread::Builder::new()
            .name("reaper".to_owned())
            .spawn(move || {
                let mut batch = Vec::new();
                while serving.inbox.take(&mut batch, None) {
                    for (key, on_gone) in batch.drain(..) {
                        on_gone(root.reap(key));
                    }
                }
            })?;
        Ok((reaper, thread))
    }

    /// Removes the file of an object that the store has doomed.
    pub(crate) fn submit(&self, key: ObjectKey, on_gone: OnGone) {
        self.inbox.deliver((key, on_gone));
    }

    /// Lets the thread finish what waits, then end.
    pub(crate) fn stop(&self) {
        self.inbox.close();
    }
}
