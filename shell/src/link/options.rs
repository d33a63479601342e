//! What an operator chooses about links: the table `[wire]` of every process's configuration.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::watch;

use super::counts::Counts;
use super::encoding::Agreed;

/// What payloads are compressed with.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Nothing.
    #[default]
    None,
    /// Runs of zeros are not sent.
    Hole,
    /// LZ4 blocks.
    Lz4,
    /// Zstandard at its fastest regular level (RFC 8878).
    Zstd,
}

/// What payloads are checked with when they arrive.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    /// CRC-32C, from the bytes' first owner to where they are used.
    #[default]
    Crc32c,
    /// SHA-256 of what travels, besides.
    Sha256,
    /// Nothing.
    None,
}

macro_rules! words {
    ($kind:ident: $($value:ident = $word:literal),+) => {
        impl $kind {
            /// All of them.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$value),+];

            /// As in configurations and on the wire.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $word),+
                }
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $kind {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                Self::ALL.into_iter().find(|it| it.name() == text).ok_or(())
            }
        }
    };
}

words!(Compression: None = "none", Hole = "hole", Lz4 = "lz4", Zstd = "zstd");
words!(Checksum: Crc32c = "crc32c", Sha256 = "sha256", None = "none");

/// How the links that this process opens behave. Unknown keys are refused.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WireOptions {
    /// What payloads are compressed with, in both directions; those of less than 1 KiB never are,
    /// nor those that would grow. Default `none`: a local network is faster than any compressor.
    pub compression: Compression,
    /// What payloads are checked with, in both directions. Default `crc32c`: costs nearly nothing.
    pub checksum: Checksum,
    /// Address of this machine that connections are made from. Default: what the system's routes
    /// choose.
    pub source_address: Option<IpAddr>,
    /// How long a connection may be silent before it is probed, in milliseconds. Default 1000: a
    /// probe costs 17 bytes, and the end of an idle connection is known before it is needed.
    pub keepalive_ms: u64,
    /// How long the other process may leave a probe unanswered before the connection counts as
    /// dead, in milliseconds. Default 5000: frozen processes are noticed by the deadlines of
    /// requests long before, and most of them go on.
    pub keepalive_timeout_ms: u64,
    /// How long the other machine may leave what was sent to it unacknowledged before the
    /// connection counts as dead, in milliseconds. Default 2000: TCP sends again after 0.2, 0.6 and
    /// 1.4 s, and then ever more seldom, so that it would notice the end of a long cut late; a new
    /// connection is tried twice per second.
    pub network_timeout_ms: u64,
    /// How long the other machine may take to accept a connection before another attempt, in
    /// milliseconds. Default 500: many times the longest way around the earth.
    pub dial_timeout_ms: u64,
    /// How long connecting may take with everything, in milliseconds. Default 2000: a busy server
    /// answers within that.
    pub connect_timeout_ms: u64,
}

impl Default for WireOptions {
    fn default() -> Self {
        Self {
            compression: Compression::None,
            checksum: Checksum::Crc32c,
            source_address: None,
            keepalive_ms: 1000,
            keepalive_timeout_ms: 5000,
            network_timeout_ms: 2000,
            dial_timeout_ms: 500,
            connect_timeout_ms: 2000,
        }
    }
}

/// A wire option whose value can't be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`wire.{key}` is {value}; it must be between {min} and {max}")]
pub struct WireError {
    /// The setting.
    pub key: &'static str,
    /// Value found.
    pub value: u64,
    /// Least value.
    pub min: u64,
    /// Greatest value.
    pub max: u64,
}

impl WireOptions {
    /// Checks every value and the relations between them.
    ///
    /// # Errors
    ///
    /// A [`WireError`] that names the key, its value and what is allowed.
    pub fn check(&self) -> Result<(), WireError> {
        let ranges = [
            ("keepalive_ms", self.keepalive_ms, 100, 60_000),
            (
                "keepalive_timeout_ms",
                self.keepalive_timeout_ms,
                100,
                600_000,
            ),
            ("network_timeout_ms", self.network_timeout_ms, 100, 600_000),
            ("dial_timeout_ms", self.dial_timeout_ms, 10, 60_000),
            // An attempt has dialling in it.
            (
                "connect_timeout_ms",
                self.connect_timeout_ms,
                self.dial_timeout_ms,
                60_000,
            ),
        ];
        for (key, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                return Err(WireError {
                    key,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }

    /// What is told to the other end.
    pub(crate) const fn agreed(&self) -> Agreed {
        Agreed {
            compression: self.compression,
            checksum: self.checksum,
        }
    }

    /// Whether a connection made with these options differs from one made with `other`.
    pub(crate) fn makes_another_connection(&self, other: &Self, has_payloads: bool) -> bool {
        let mut other = other.clone();
        // These are looked at when a connection is made.
        other.dial_timeout_ms = self.dial_timeout_ms;
        other.connect_timeout_ms = self.connect_timeout_ms;
        if !has_payloads {
            other.compression = self.compression;
            other.checksum = self.checksum;
        }
        *self != other
    }

    pub(crate) const fn keepalive(&self) -> Duration {
        Duration::from_millis(self.keepalive_ms)
    }

    pub(crate) const fn keepalive_timeout(&self) -> Duration {
        Duration::from_millis(self.keepalive_timeout_ms)
    }

    pub(crate) const fn network_timeout(&self) -> Duration {
        Duration::from_millis(self.network_timeout_ms)
    }

    pub(crate) const fn dial_timeout(&self) -> Duration {
        Duration::from_millis(self.dial_timeout_ms)
    }

    pub(crate) const fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }
}

/// The wire options of a process, shared by all its links and by all clones.
#[derive(Clone, Debug)]
pub struct Wire {
    options: Arc<watch::Sender<WireOptions>>,
    counts: Arc<Counts>,
}

impl Default for Wire {
    fn default() -> Self {
        Self::new(WireOptions::default())
    }
}

impl Wire {
    /// These options.
    #[must_use]
    pub fn new(options: WireOptions) -> Self {
        Self {
            options: Arc::new(watch::Sender::new(options)),
            counts: Arc::default(),
        }
    }

    /// What became of the requests of all links that use it.
    #[must_use]
    pub const fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// What they are now.
    #[must_use]
    pub fn get(&self) -> WireOptions {
        self.options.borrow().clone()
    }

    /// Changes them. Links whose connection they concern make a new one, and leave the old one when
    /// its requests are answered.
    pub fn set(&self, options: WireOptions) {
        self.options.send_if_modified(|current| {
            let changed = *current != options;
            *current = options;
            changed
        });
    }

    /// Hears of changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<WireOptions> {
        self.options.subscribe()
    }
}

impl<'de> Deserialize<'de> for Wire {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        WireOptions::deserialize(deserializer).map(Self::new)
    }
}

impl Serialize for Wire {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.get().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_allowed_and_a_value_outside_is_named_with_its_bounds() {
        assert!(WireOptions::default().check().is_ok());
        let short = WireOptions {
            dial_timeout_ms: 3000,
            ..WireOptions::default()
        };

        let text = short.check().unwrap_err().to_string();

        assert_eq!(
            text,
            "`wire.connect_timeout_ms` is 2000; it must be between 3000 and 60000"
        );
    }
}
