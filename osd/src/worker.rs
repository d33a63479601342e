//! Threads the server can't do without: if one panics, the process ends.
//!
//! A server that goes on without one of them keeps its leases and answers nobody. Ended, it is
//! missed at once, and started again by whoever looks after it.

use std::io;
use std::thread::{self, JoinHandle};

/// Starts a thread whose panic ends the process.
pub(crate) fn spawn(
    name: String,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(move || {
        let _ends = EndsProcess;
        work();
    })
}

struct EndsProcess;

impl Drop for EndsProcess {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!(
                thread = thread::current().name().unwrap_or_default(),
                "a thread of the object server panicked: the server ends, start it again"
            );
            // Not an orderly end: nobody knows what the thread left half done.
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    const CHILD: &str = "OXFS_TEST_WORKER_PANICS";

    /// Runs itself again in a process that may end.
    #[test]
    fn panic_of_a_worker_ends_the_process() {
        if std::env::var_os(CHILD).is_some() {
            let worker = spawn("worker".to_owned(), || panic!("as the test wants")).unwrap();
            let _ = worker.join();
            return;
        }

        let status = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "worker::tests::panic_of_a_worker_ends_the_process",
            ])
            .env(CHILD, "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();

        assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}");
    }
}
