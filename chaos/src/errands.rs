//! What an administrator is to say to the cluster: one thing after the other, each until it was heard.

use std::collections::VecDeque;
use std::process::Child;

use anyhow::Result;

use crate::cluster::Cluster;

/// Commands that wait to be given. 100: some 20 minutes of drains; nobody has heard any in all that time.
const WAITING_MAX: usize = 100;

/// Exit status of `xfs-admin`.
const PARTLY_DONE: i32 = 3;

/// Commands of `xfs-admin` that are still to be done.
#[derive(Debug, Default)]
pub(crate) struct Errands {
    waiting: VecDeque<Vec<String>>,
    running: Option<Child>,
}

impl Errands {
    /// Adds one, as words behind `xfs-admin`.
    ///
    /// # Errors
    ///
    /// If too many wait.
    pub(crate) fn add(&mut self, words: &[&str]) -> Result<()> {
        anyhow::ensure!(
            self.waiting.len() < WAITING_MAX,
            "{WAITING_MAX} commands wait and nobody hears them: {:?}",
            self.waiting.front()
        );
        let words = words.iter().map(|word| (*word).to_owned());
        self.waiting.push_back(words.collect());
        Ok(())
    }

    /// Goes on with the first; whether nothing is left.
    ///
    /// # Errors
    ///
    /// If a process can't be started or asked.
    pub(crate) fn go_on(&mut self, cluster: &Cluster) -> Result<bool> {
        if let Some(child) = &mut self.running {
            let Some(status) = child.try_wait()? else {
                return Ok(false);
            };
            self.running = None;
            // Partly done: not every object server has said that it knows, but all will be told.
            if status.success() || status.code() == Some(PARTLY_DONE) {
                self.waiting.pop_front();
            }
        }
        let Some(words) = self.waiting.front() else {
            return Ok(true);
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.running = Some(cluster.start_admin(&words)?);
        Ok(false)
    }
}

impl Drop for Errands {
    fn drop(&mut self) {
        if let Some(child) = &mut self.running {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
