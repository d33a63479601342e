//! Signals as futures.

use std::future::Future;
use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Done at the first SIGTERM or SIGINT. From this call on, not only from the first poll, they no
/// longer kill the process.
///
/// # Errors
///
/// If the handlers can't be installed.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn termination() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// SIGHUPs, which ask for reloading the configuration.
#[derive(Debug)]
pub struct Hangups(tokio::signal::unix::Signal);

impl Hangups {
    /// Listens to them from now on.
    ///
    /// # Errors
    ///
    /// If the handler can't be installed.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, raise};

    #[tokio::test]
    async fn hangup_and_termination_arrive_as_futures() {
        let mut hangups = Hangups::new().unwrap();
        let terminated = termination().unwrap();

        raise(Signal::SIGHUP).unwrap();
        hangups.next().await;

        raise(Signal::SIGTERM).unwrap();
        terminated.await;
    }
}
