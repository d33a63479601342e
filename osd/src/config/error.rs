//! What is wrong with a configuration.

use shell::config::PublicAddress;
use shell::link::WireError;
use shell::telemetry::LogError;
use types::IdError;

/// A setting whose value can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// `cluster` is no cluster id.
    #[error("`cluster`: {0}")]
    Cluster(#[from] IdError),
    /// A number is outside its range.
    #[error("`{key}` is {value}; it must be between {min} and {max}")]
    Range {
        /// The setting.
        key: &'static str,
        /// Value found.
        value: u64,
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// A new primary would give up before it may decide.
    #[error(
        "`idle_ms` is {idle_ms}, which is not above `trust_grace_ms` ({trust_grace_ms}); raise it"
    )]
    IdleTooShort {
        /// Value found.
        idle_ms: u64,
        /// What it must exceed.
        trust_grace_ms: u64,
    },
    /// A store on ZFS without a dataset.
    #[error(
        "`store` is \"zfs\" and there is no `zfs_dataset`; give a dataset for this server alone, such as \
         \"tank/oxfs/osd-1\""
    )]
    NoDataset,
    /// A dataset without a store on ZFS.
    #[error(
        "`zfs_dataset` is {dataset:?} and `store` is \"directory\"; set `store = \"zfs\"` or leave it out"
    )]
    UnusedDataset {
        /// Value found.
        dataset: String,
    },
    /// `zfs_dataset` is no dataset's name.
    #[error("`zfs_dataset`: {0}")]
    Dataset(zfs_driver::Error),
    /// No metadata server is named.
    #[error("`mrc` names no metadata server; give at least one address")]
    NoMrc,
    /// The address of a metadata server has no host or no port.
    #[error("`mrc` names {address:?}; give HOST:PORT, such as \"10.0.0.1:7000\" or \"[::1]:7000\"")]
    MrcAddress {
        /// Text found.
        address: String,
    },
    /// Messages would travel in the clear over a network.
    #[error(transparent)]
    Network(#[from] PublicAddress),
    /// `log` says nothing that could be logged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A wire option can't be used.
    #[error(transparent)]
    Wire(#[from] WireError),
}
