//! Programs that end while they wait.
//!
//! The FUSE library does not pass on the kernel's interrupts, and the kernel lets a process die
//! only after its request was answered. So while a request waits long, its caller is looked at. It is
//! answered with EINTR, and goes on without anybody waiting, if the caller
//!
//! - has been killed: a fatal signal reaches every thread as SIGKILL;
//! - dies of a signal and the kernel closes its files: SIGKILL is not pending any more, and another
//!   one would change nothing;
//! - has ended by itself, after a time in which servers that failed are replaced.

use std::future::Future;
use std::time::Duration;

use crate::errno::Errno;

/// How often the caller of a waiting request is looked at. 500 ms: a person who pressed Ctrl-C
/// waits no longer, and it costs nothing while requests are answered in time.
const LOOK: Duration = Duration::from_millis(500);

/// Bit of SIGKILL in the masks of `/proc`.
const SIGKILL_BIT: u64 = 1 << (libc::SIGKILL - 1);

/// How long a program that has ended by itself waits for each file it left open. 10 s: a close that
/// nobody called is still one that others rely on, and a fail-over takes 3 s; nobody could end
/// the program otherwise.
const LEAVE: Duration = Duration::from_secs(10);

/// Flag of a task that runs through exit(2): `PF_EXITING`.
const EXITING_FLAG: u32 = 4;

/// Places in `/proc/TID/stat`, counted from 0 after the name, which may contain anything.
const STAT_FLAGS: usize = 6;
const STAT_EXIT_CODE: usize = 49;

/// The signal in an exit code.
const EXIT_SIGNAL_MASK: u32 = 0x7f;

/// How a caller is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Condition {
    /// It lives, or cannot be looked at.
    Waiting,
    /// It ended by itself.
    Leaving,
    /// It was killed, by whatever signal.
    Killed,
}

/// Runs `work` to its end; `reply` gets its outcome, or EINTR before, if thread `caller` was
/// killed or has ended. What `work` brought about then is given to `undo`.
pub(crate) async fn answer<T>(
    caller: u32,
    work: impl Future<Output = Result<T, Errno>>,
    reply: impl FnOnce(Result<T, Errno>),
    undo: impl AsyncFnOnce(T),
) {
    tokio::pin!(work);
    let mut leaving = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            outcome = &mut work => return reply(outcome),
            () = tokio::time::sleep(LOOK) => {}
        }
        if gives_up(look(caller), &mut leaving) {
            break;
        }
    }
    reply(Err(Errno(libc::EINTR)));
    // Half-done work would leave a slot or a count behind, and what was written is still sent.
    if let Ok(done) = work.await {
        undo(done).await;
    }
}

/// Whether nobody waits any more, looked at every [`LOOK`]; `leaving` is for how long the caller has
/// been about to end.
fn gives_up(condition: Condition, leaving: &mut Duration) -> bool {
    match condition {
        Condition::Waiting => false,
        Condition::Leaving => {
            *leaving += LOOK;
            *leaving > LEAVE
        }
        Condition::Killed => true,
    }
}

fn look(thread: u32) -> Condition {
    // 0: the kernel itself asks.
    if thread == 0 {
        return Condition::Waiting;
    }
    // What can't be read says nothing.
    let read = |name| std::fs::read_to_string(format!("/proc/{thread}/{name}")).unwrap_or_default();
    judge(&read("status"), || read("stat"))
}

/// Looks at `stat` only of a task that has given up its memory, the first that goes when a task
/// ends. A program in execve(2) closes its files while it holds the lock (`exec_update_lock`) that
/// reading `stat` waits for: whoever had to answer that close would wait for itself for ever.
fn judge(status: &str, stat: impl FnOnce() -> String) -> Condition {
    if pending_signals(status) & SIGKILL_BIT != 0 {
        return Condition::Killed;
    }
    if status.is_empty() || status.lines().any(|line| line.starts_with("VmSize:")) {
        return Condition::Waiting;
    }
    let stat = &stat();
    // A stopped program has a signal for an exit code, too: only the flag says that it ends.
    if stat_number(stat, STAT_FLAGS) & EXITING_FLAG == 0 {
        Condition::Waiting
    } else if stat_number(stat, STAT_EXIT_CODE) & EXIT_SIGNAL_MASK == 0 {
        Condition::Leaving
    } else {
        Condition::Killed
    }
}

/// A number of `/proc/TID/stat`; 0 if the kernel does not tell.
fn stat_number(stat: &str, place: usize) -> u32 {
    let after_name = stat.rsplit_once(')').map_or("", |parts| parts.1);
    let field = after_name.split_whitespace().nth(place);
    field.and_then(|field| field.parse().ok()).unwrap_or(0)
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

    const NO_SIGNALS: &str = "Name:\tcat\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\n";

    /// A line as the kernel writes it, of a program with an ugly name.
    fn stat(flags: u32, exit_code: u32) -> String {
        format!(
            "4242 (a ) b) D 1 4242 4242 0 -1 {flags} 1 0 0 0 0 0 0 0 20 0 1 0 99 0 0 \
             18446744073709551615 0 0 0 0 0 0 0 0 0 1 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 {exit_code}\n"
        )
    }

    #[test]
    fn pending_kill_is_seen_in_either_mask() {
        let own = "Name:\tcat\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n";
        let shared = "SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n";
        let other = "SigPnd:\t0000000000000002\nShdPnd:\t0000000000004000\n";
        let judge = |status| judge(status, || stat(0x40_0000, 0));

        assert_eq!(judge(own), Condition::Killed);
        assert_eq!(judge(shared), Condition::Killed);
        assert_eq!(judge(other), Condition::Waiting);
    }

    #[test]
    fn program_that_dies_of_a_signal_is_told_from_one_that_ends_and_one_that_stands_still() {
        let judge = |flags, exit_code| judge(NO_SIGNALS, || stat(flags, exit_code));

        assert_eq!(judge(0x40_0004, 15), Condition::Killed);
        // With a core dump.
        assert_eq!(judge(0x40_0004, 139), Condition::Killed);
        assert_eq!(judge(0x40_0004, 0), Condition::Leaving);
        // exit(1)
        assert_eq!(judge(0x40_0004, 256), Condition::Leaving);
        // SIGSTOP
        assert_eq!(judge(0x40_0000, 19), Condition::Waiting);
    }

    #[test]
    fn program_with_memory_is_not_looked_at_in_a_way_that_waits_for_its_execve() {
        let locked = || -> String { panic!("this would wait for the caller") };

        assert_eq!(
            judge("State:\tD\nVmSize:\t 9 kB\n", locked),
            Condition::Waiting
        );
        assert_eq!(judge("", locked), Condition::Waiting);
    }

    #[test]
    fn own_thread_is_alive() {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();

        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().count();

        assert_eq!(fields, STAT_EXIT_CODE + 1, "{stat}");
        assert_eq!(look(std::process::id()), Condition::Waiting);
    }

    #[test]
    fn killed_is_answered_at_once_and_ended_after_a_time() {
        let looks_until = |condition| {
            let mut leaving = Duration::ZERO;
            (0..1_000).find(|_| gives_up(condition, &mut leaving))
        };

        assert_eq!(looks_until(Condition::Killed), Some(0));
        let looks = looks_until(Condition::Leaving).map(|looks| LOOK * looks);
        assert_eq!(looks, Some(LEAVE));
        assert_eq!(looks_until(Condition::Waiting), None);
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
