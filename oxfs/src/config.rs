//! How long the launcher waits for what.

use std::time::Duration;

/// Until a cluster that was just started is usable. Starting takes about a second; a minute covers
/// a machine that is compiling something, and replaying a long log.
pub(crate) const READY_PATIENCE: Duration = Duration::from_secs(60);

/// Until a process that was asked to end has ended; then it is killed. Servers write down what they
/// hold, which a busy disk delays by seconds.
pub(crate) const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at processes that are about to start or end.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Between two looks at processes that are expected to run on.
pub(crate) const WATCH_INTERVAL: Duration = Duration::from_millis(300);

/// How long one metadata server may take to say what it knows while we wait for a leader.
pub(crate) const STATUS_TIMEOUT: Duration = Duration::from_millis(500);

/// Servers that are slow to start are waited for so long once a majority serves. 10 s: reading back
/// a long log; who is later comes by itself.
pub(crate) const STRAGGLER_PATIENCE: Duration = Duration::from_secs(10);

/// Between the death of a process and its next start by `up --restart`; twice as long after each
/// start that was in vain, so that one that can't start does not keep the machine busy.
pub(crate) const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The longest of these pauses. 60 s: what somebody repaired is found within a minute.
pub(crate) const RESTART_PAUSE_MAX: Duration = Duration::from_secs(60);

/// A process that ran for so long has started well. 10 s: what can't start ends within a second.
pub(crate) const RESTART_SETTLED: Duration = Duration::from_secs(10);

/// Lines of a log shown when a process ends at its start: the last is its error.
pub(crate) const LOG_LINES_SHOWN: usize = 5;

/// Servers of each role in a cluster made by `oxfs up`: the least that survives the death of one.
pub(crate) const SERVERS_PER_ROLE: u64 = 3;

/// Name of the volume that `oxfs up` makes and mounts.
pub(crate) const DEFAULT_VOLUME: &str = "default";

/// Ports are chosen from here up to where the kernel takes ports for outgoing connections, so that
/// none of those sits on a server's port while it is down.
pub(crate) const PORT_FIRST: u16 = 10_240;

/// Ports tried before giving up on finding a free one.
pub(crate) const PORT_TRIES_MAX: u32 = 10_000;

/// How long a mount may take to say that it is dead, which the kernel does at once.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a port in use may take to become free before a server is not started. 3 s: a killed
/// server that had much memory is gone after some 100 ms; a person still waits for the answer.
pub(crate) const PORT_PATIENCE: Duration = Duration::from_secs(3);

/// Between two looks at such a port. 20 ms: not noticed by a person.
pub(crate) const PORT_PAUSE: Duration = Duration::from_millis(20);
