//! Ending an object server so that the next start trusts what it left.

use std::fs;
use std::io;
use std::path::Path;

use lease::Saved;
use shell::statedir::replace_file;

use super::{Error, Failure, LEASES, Running};
use crate::config::SHUTDOWN_TIME;
use crate::file_io::is_no_space;

impl Running {
    /// Returns once the server can't go on.
    pub(super) async fn failed(&self) -> Option<Failure> {
        let mut failed = self.failed.clone();
        let failure = failed.wait_for(Option::is_some).await;
        failure.ok().and_then(|failure| failure.clone())
    }

    pub(super) async fn stop(mut self) -> Result<(), Error> {
        tracing::info!("stopping: making all objects clean");
        self.pacer.let_go();
        let clean = self.shards.shut_down();
        if tokio::time::timeout(SHUTDOWN_TIME, clean).await.is_err() {
            tracing::warn!(
                "some objects could not be made clean in time; they are compared at the next start"
            );
        }
        self.senders.close_all().await;
        let saved = self.leases.stop();
        if let Some(stop) = self.stop_server.take() {
            let _ = stop.send(());
        }
        let served = (&mut self.server).await;
        let finished = tokio::task::spawn_blocking(move || self.finish(saved));
        match finished.await {
            Ok(result) => result?,
            Err(error) => return Err(Error::Thread(io::Error::other(error))),
        }
        match served {
            Ok(result) => Ok(result?),
            Err(error) => Err(Error::Thread(io::Error::other(error))),
        }
    }

    /// Ends the threads and leaves the store so that the next start trusts it.
    fn finish(mut self, saved: Option<Saved>) -> Result<(), Error> {
        self.shards.close();
        self.pool.stop();
        self.reaper.stop();
        self.watch = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if self.root.is_poisoned() {
            // Nobody knows what is stable, so nothing may be called clean.
            return Ok(());
        }
        let path = self.dir.path();
        let failed = |doing| {
            move |cause| Error::Store {
                doing,
                path: path.to_owned(),
                cause,
            }
        };
        self.root.sync_all().map_err(failed("sync the store in"))?;
        if let Some(saved) = saved {
            match replace_file(&path.join(LEASES), &saved.encode()) {
                // Without them the next start keeps quiet for a lease time.
                Err(error) if is_no_space(&error) => {
                    tracing::warn!(%error, "the leases are not saved");
                }
                saved => saved.map_err(failed("save the leases in"))?,
            }
        }
        let forgotten = self.root.forget_failure();
        forgotten.map_err(failed("forget the failed write in"))?;
        self.boot.mark_clean()?;
        Ok(())
    }
}

/// Reads the votes of the last run and removes them durably: they may be used once.
pub(super) fn take_saved(dir: &Path) -> io::Result<Option<Saved>> {
    let path = dir.join(LEASES);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    fs::remove_file(&path)?;
    fs::File::open(dir)?.sync_all()?;
    match Saved::decode(&bytes) {
        Ok(saved) => Ok(Some(saved)),
        Err(error) => {
            tracing::warn!(%error, "starting without the saved leases");
            Ok(None)
        }
    }
}
