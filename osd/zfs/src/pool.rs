//! A pool: its health, room and features, and its scrub.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::name::PoolName;
use crate::numbers::rounded;
use crate::properties::{Values, table};
use crate::status::PoolStatus;
use crate::stream::StreamOptions;
use crate::tools::Tools;

/// A pool. No method changes anything in it but the two that start and stop a scrub.
#[derive(Clone, Debug)]
pub struct Pool {
    tools: Tools,
    name: PoolName,
}

/// Room in a pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolSpace {
    /// Bytes of all devices, redundancy included.
    pub size_bytes: u64,
    /// Of these, bytes taken.
    pub allocated_bytes: u64,
    /// Of these, bytes free.
    pub free_bytes: u64,
    /// Whether these three are exact; old versions round them to three digits.
    pub is_exact: bool,
    /// Bytes that data takes, without redundancy; always exact.
    pub data_bytes: u64,
    /// Bytes that data can still take, without redundancy; always exact.
    pub available_bytes: u64,
}

/// What a pool's format holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PoolFeatures {
    /// Version of the format; none since features are counted instead.
    pub version: Option<u32>,
    /// Features of the format, and whether each is on (`enabled` or `active`).
    pub features: BTreeMap<String, bool>,
}

impl PoolFeatures {
    fn parse(text: &str) -> Self {
        let mut pool = Self::default();
        for (property, value) in table(text) {
            if let Some(feature) = property.strip_prefix("feature@") {
                let is_on = matches!(value, "enabled" | "active");
                pool.features.insert(feature.to_owned(), is_on);
            } else if property == "version" {
                pool.version = value.parse().ok();
            }
        }
        pool
    }

    /// Whether a feature is on.
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.features.get(feature).copied().unwrap_or(false)
    }
}

impl Pool {
    /// The pool of a name, which need not exist yet.
    #[must_use]
    pub const fn new(tools: Tools, name: PoolName) -> Self {
        Self { tools, name }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &PoolName {
        &self.name
    }

    /// Its health.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if there is no such pool; [`Error::TimedOut`] if it hangs;
    /// [`Error::Unreadable`].
    pub fn status(&self) -> Result<PoolStatus, Error> {
        let name = self.name.as_str();
        let text = if self.tools.abilities().exact_errors {
            self.tools.ask_zpool(["status", "-p", name])?
        } else {
            self.tools.ask_zpool(["status", name])?
        };
        PoolStatus::parse(&text).ok_or_else(|| Error::Unreadable {
            command: format!("zpool status {name}"),
            what: "no pool or no state",
        })
    }

    /// Its room.
    ///
    /// # Errors
    ///
    /// As [`Pool::status`].
    pub fn space(&self) -> Result<PoolSpace, Error> {
        let name = self.name.as_str();
        let is_exact = self.tools.abilities().exact_sizes;
        let columns = "size,allocated,free";
        let text = if is_exact {
            self.tools.ask_zpool(["list", "-Hp", "-o", columns, name])?
        } else {
            self.tools.ask_zpool(["list", "-H", "-o", columns, name])?
        };
        let numbers: Option<Vec<_>> = text.split_whitespace().map(rounded).collect();
        let Some(&[size_bytes, allocated_bytes, free_bytes]) = numbers.as_deref() else {
            return Err(Error::Unreadable {
                command: format!("zpool list -o {columns} {name}"),
                what: "not three sizes",
            });
        };
        let columns = "name,property,value,source";
        let words = ["get", "-Hp", "-o", columns, "used,available", name];
        let text = self.tools.ask_zfs(words)?;
        let values = Values::of(&text, name, "zfs get used,available");
        Ok(PoolSpace {
            size_bytes,
            allocated_bytes,
            free_bytes,
            is_exact,
            data_bytes: values.number("used")?,
            available_bytes: values.number("available")?,
        })
    }

    /// What its format holds.
    ///
    /// # Errors
    ///
    /// As [`Pool::status`].
    pub fn features(&self) -> Result<PoolFeatures, Error> {
        let text = self.tools.ask_zpool(["get", "all", self.name.as_str()])?;
        Ok(PoolFeatures::parse(&text))
    }

    /// How streams from or into this pool may be written.
    ///
    /// # Errors
    ///
    /// As [`Pool::status`].
    pub fn stream_options(&self) -> Result<StreamOptions, Error> {
        let abilities = self.tools.abilities();
        let features = self.features()?;
        Ok(StreamOptions {
            large_blocks: abilities.large_block_send && features.has("large_blocks"),
            // What is not lz4 or zstd every pool can hold.
            compressed: abilities.compressed_send
                && features.has("lz4_compress")
                && features.has("zstd_compress"),
        })
    }

    /// Starts a scrub; nothing happens if one runs.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if there is no such pool or it resilvers; [`Error::TimedOut`] if it hangs.
    pub fn start_scrub(&self) -> Result<(), Error> {
        let started = self.tools.change_zpool(["scrub", self.name.as_str()]);
        unless_said(started, "currently scrubbing")
    }

    /// Stops a scrub; nothing happens if none runs.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if there is no such pool; [`Error::TimedOut`] if it hangs.
    pub fn stop_scrub(&self) -> Result<(), Error> {
        let stopped = self.tools.change_zpool(["scrub", "-s", self.name.as_str()]);
        unless_said(stopped, "no active scrub")
    }
}

/// A failure that says this is none.
fn unless_said(outcome: Result<(), Error>, phrase: &str) -> Result<(), Error> {
    match outcome {
        Err(Error::Failed { said, .. }) if said.contains(phrase) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_of_zfs_fuse_has_a_version_and_no_features() {
        // In the format of zfs-fuse 0.7.0.
        let text = "NAME  PROPERTY       VALUE       SOURCE\n\
                    tank  size           504M        -\n\
                    tank  version        23          default\n\
                    tank  comment        \n";

        let features = PoolFeatures::parse(text);

        assert_eq!(features.version, Some(23));
        assert!(features.features.is_empty());
        assert!(!features.has("large_blocks"));
    }

    #[test]
    fn pool_of_openzfs_has_features_and_no_version() {
        // In the format of OpenZFS 2.2.
        let text = "NAME  PROPERTY                       VALUE                          SOURCE\n\
                    tank  version                        -                              default\n\
                    tank  feature@async_destroy          enabled                        local\n\
                    tank  feature@large_blocks           active                         local\n\
                    tank  feature@zstd_compress          disabled                       local\n";

        let features = PoolFeatures::parse(text);

        assert_eq!(features.version, None);
        assert!(features.has("async_destroy") && features.has("large_blocks"));
        assert!(!features.has("zstd_compress") && !features.has("unheard_of"));
    }
}
