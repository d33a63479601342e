//! Limits of the lease shell, each with its reason.

/// Lease messages in one frame. 10,000: half a megabyte, all a host may want to say in one step.
pub(crate) const LEASE_MESSAGES_MAX: usize = 10_000;
