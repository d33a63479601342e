//! The clients as seen by the process that breaks the cluster: processes that tell what they do.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, ensure};

use crate::history::History;
use crate::operation::{Operation, Record};

/// A process with clients of one mount; killed with the value.
#[derive(Debug)]
pub(crate) struct Clients {
    child: Child,
    stdin: Option<ChildStdin>,
    reader: Option<JoinHandle<Result<()>>>,
}

impl Clients {
    /// Starts this program again to do some work, and listens to what it tells.
    ///
    /// # Errors
    ///
    /// If it can't be started.
    pub(crate) fn start(words: &[&str], log: &Path, history: &Arc<History>) -> Result<Self> {
        let errors = File::options().create(true).append(true).open(log)?;
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(std::env::current_exe()?)
            .arg("clients")
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("can't start clients")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("no pipe to clients")?;
        let history = Arc::clone(history);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let record: Record = serde_json::from_str(&line?)?;
                history.add(record);
            }
            Ok(())
        });
        Ok(Self {
            child,
            stdin,
            reader: Some(reader),
        })
    }

    /// Tells it which operations to perform; it ends after them.
    ///
    /// # Errors
    ///
    /// If it does not listen.
    pub(crate) fn tell(&mut self, operations: &[Operation]) -> Result<()> {
        let mut stdin = self.stdin.take().context("it was asked to end")?;
        let mut lines = Vec::new();
        for operation in operations {
            serde_json::to_writer(&mut lines, operation)?;
            lines.push(b'\n');
        }
        // Aside, because the pipe is shorter than the list, and nobody may wait for a mount here.
        thread::spawn(move || stdin.write_all(&lines));
        Ok(())
    }

    /// Asks it to end after the operations that are under way.
    pub(crate) fn ask_to_end(&mut self) {
        self.stdin = None;
    }

    /// Whether it has ended, with everything it told taken in.
    ///
    /// # Errors
    ///
    /// If it failed.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(false);
        };
        if let Some(reader) = self.reader.take() {
            match reader.join() {
                Ok(told) => told.context("what a client told")?,
                Err(_) => anyhow::bail!("a reader panicked"),
            }
        }
        ensure!(status.success(), "clients ended with {status}; see logs");
        Ok(true)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // It may have ended; one that hangs in a mount ends when the mount is gone.
        let _ = self.child.kill();
    }
}
