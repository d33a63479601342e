//! The threads beside a store on ZFS: one looks after the pool now and then, one makes and destroys datasets.
//!
//! Both run commands that may hang with the pool, so nobody waits for them at the end.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};

use crate::config::POOL_LOOK;
use crate::store_root::Root;
use crate::worker;

/// Ends the threads when it is dropped, after the command that each runs then.
#[derive(Debug)]
pub(crate) struct PoolWatch {
    root: Arc<Root>,
    _alive: Sender<()>,
}

impl PoolWatch {
    /// Starts the threads; none for a directory store.
    pub(crate) fn start(root: &Arc<Root>) -> io::Result<Option<Self>> {
        let Some(datasets) = root.datasets() else {
            return Ok(None);
        };
        datasets.start()?;
        let (alive, ended) = mpsc::channel();
        let watched = Arc::clone(root);
        let thread = worker::spawn("pool-watch".to_owned(), move || {
            while ended.recv_timeout(POOL_LOOK) == Err(RecvTimeoutError::Timeout) {
                watched.look();
            }
        })?;
        drop(thread);
        Ok(Some(Self {
            root: Arc::clone(root),
            _alive: alive,
        }))
    }
}

impl Drop for PoolWatch {
    fn drop(&mut self) {
        if let Some(datasets) = self.root.datasets() {
            datasets.stop();
        }
    }
}
