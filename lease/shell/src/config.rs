//! Limits of the lease shell, each with its reason.

use types::Duration;

/// Lease messages in one frame. 10,000: half a megabyte, all a host may want to say in one step.
pub(crate) const LEASE_MESSAGES_MAX: usize = 10_000;

/// Cells looked at for a person while the host is locked. 1,000: some 100 us.
pub(crate) const LIST_AT_ONCE_MAX: usize = 1000;

/// Timers are looked at this often at most, so they fire at most this late. 1 ms: every lease sets some,
/// and a wake-up of the thread for each costs more than all else that a single lease needs. Nothing
/// that is safe rests on them: whether a lease is valid is read off the clock.
pub(crate) const TIMER_GRAIN: Duration = Duration::from_millis(1);
