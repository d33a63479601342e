//! Programs that are killed while they wait.
//!
//! The FUSE library does not pass on the kernel's interrupts, and the kernel lets a process die
//! only after its request was answered. So while a request waits long, its caller is looked at:
//! if it has been killed (a fatal signal reaches every thread as SIGKILL), the request is answered
//! with EINTR and goes on without anybody waiting.

use std::future::Future;
use std::time::Duration;

use crate::errno::Errno;

/// How often the caller of a waiting request is looked at. 500 ms: a person who pressed Ctrl-C
/// waits no longer, and it costs nothing while requests are answered in time.
const LOOK: Duration = Duration::from_millis(500);

/// Bit of SIGKILL in the masks of `/proc`.
const SIGKILL_BIT: u64 = 1 << (libc::SIGKILL - 1);

/// Runs `work` to its end; `reply` gets its outcome, or EINTR before, if thread `caller` was
/// killed. What `work` brought about then is given to `undo`.
pub(crate) async fn answer<T>(
    caller: u32,
    work: impl Future<Output = Result<T, Errno>>,
    reply: impl FnOnce(Result<T, Errno>),
    undo: impl AsyncFnOnce(T),
) {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            outcome = &mut work => return reply(outcome),
            () = tokio::time::sleep(LOOK) => {}
        }
        if is_killed(caller) {
            break;
        }
    }
    reply(Err(Errno(libc::EINTR)));
    // Half-done work would leave a slot or a count behind.
    if let Ok(done) = work.await {
        undo(done).await;
    }
}

/// Whether a SIGKILL waits for the thread.
fn is_killed(thread: u32) -> bool {
    // 0: the kernel itself asks.
    if thread == 0 {
        return false;
    }
    let Ok(status) = std::fs::read_to_string(format!("/proc/{thread}/status")) else {
        return false;
    };
    pending_signals(&status) & SIGKILL_BIT != 0
}

fn pending_signals(status: &str) -> u64 {
    status
        .lines()
        .filter_map(|line| {
            let mask = line
                .strip_prefix("SigPnd:")
                .or_else(|| line.strip_prefix("ShdPnd:"))?;
            u64::from_str_radix(mask.trim(), 16).ok()
        })
        .fold(0, |all, mask| all | mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_kill_is_seen_in_either_mask() {
        let own = "Name:\tcat\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n";
        let shared = "SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n";
        let other = "SigPnd:\t0000000000000002\nShdPnd:\t0000000000004000\n";

        assert_ne!(pending_signals(own) & SIGKILL_BIT, 0);
        assert_ne!(pending_signals(shared) & SIGKILL_BIT, 0);
        assert_eq!(pending_signals(other) & SIGKILL_BIT, 0);
    }

    #[tokio::test]
    async fn outcome_of_work_that_ends_in_time_is_the_reply() {
        let mut seen = None;

        let reply = |outcome| seen = Some(outcome);
        answer(std::process::id(), async { Ok(7) }, reply, async |_| {
            panic!("nothing is to be undone");
        })
        .await;

        assert_eq!(seen, Some(Ok(7)));
    }
}
