//! Limits of the planner, each with its reason.

use types::Duration;

/// Cluster settings: every leader has to plan with the same ones.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// How long a server may be down before its replicas are rebuilt elsewhere. Default 10 min: longer
    /// than a restart with a check of the disks, far shorter than it takes two more servers to die.
    pub grace: Duration,
    /// How long a server that is up may lack something of a group and make no progress until it is taken for
    /// ill: another one gets its part. Default 10 min: as long as a server that is down is waited for, and
    /// longer than it takes to compare the largest group.
    pub patience: Duration,
    /// Changes under way that copy to or from one server. Default 2: one keeps a disk busy, the second
    /// fills the pauses of the first; more only take from the clients. 0 begins no copies.
    pub changes_per_server_max: u32,
    /// Changes under way in the cluster. Default 64: two for each server of a cluster of 32, and few
    /// enough for the leader to follow each. 0 begins none.
    pub changes_max: usize,
    /// Part of a server's capacity that no plan uses, in percent. Default 5: files grow while they
    /// are copied, and a file system that is nearly full gets slow before it refuses.
    pub reserve_percent: u32,
    /// Nothing begins but for groups of which one sound copy is left. Default false.
    pub paused: bool,
    /// Whether groups move from full servers to empty ones. Default true.
    pub rebalance: bool,
    /// Difference of fill (used / capacity) between two servers that is worth moving data, in
    /// percentage points; of the number of groups, in percent, for groups that hold nothing. Default
    /// 10: well above what growth between two heartbeats and rough estimates of sizes make up.
    pub rebalance_percent: u32,
    /// The wrong edit that is switched on, for tests of the simulation.
    #[cfg(feature = "mutants")]
    pub mutant: Option<crate::Mutant>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(600),
            patience: Duration::from_secs(600),
            changes_per_server_max: 2,
            changes_max: 64,
            reserve_percent: 5,
            paused: false,
            rebalance: true,
            rebalance_percent: 10,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// A limit that makes no sense.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitsError {
    /// A share is out of range.
    #[error("{name} = {percent} is out of range; choose {min} to {max}")]
    OutOfRange {
        /// Name of the limit.
        name: &'static str,
        /// Value found.
        percent: u32,
        /// Least value.
        min: u32,
        /// Greatest value.
        max: u32,
    },
}

impl Limits {
    /// Checks each value.
    ///
    /// # Errors
    ///
    /// [`LimitsError`], naming the first one that is out of range.
    pub fn validated(self) -> Result<Self, LimitsError> {
        for (name, percent, min, max) in [
            // 90: with a larger reserve nothing could ever be rebuilt.
            ("reserve_percent", self.reserve_percent, 0, 90),
            // 1: without any threshold data would follow every write.
            ("rebalance_percent", self.rebalance_percent, 1, 100),
        ] {
            if percent < min || percent > max {
                return Err(LimitsError::OutOfRange {
                    name,
                    percent,
                    min,
                    max,
                });
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_a_threshold_of_nothing_is_not() {
        assert!(Limits::default().validated().is_ok());

        let limits = Limits {
            rebalance_percent: 0,
            ..Limits::default()
        };

        let error = limits.validated().unwrap_err();
        assert_eq!(
            error.to_string(),
            "rebalance_percent = 0 is out of range; choose 1 to 100"
        );
    }
}
