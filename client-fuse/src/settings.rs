//! The optional configuration file of a mount: what is too much for mount options, or may change
//! while programs use the mount.

use std::path::Path;

use serde::{Deserialize, Serialize};
use shell::config::{ConfigError, load};
use shell::link::{Wire, WireError};
use shell::reload::Reload;
use shell::telemetry::{self, DEFAULT_LOG, LogError};

/// Settings of a mount, all read again at SIGHUP; unknown keys are refused.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What is logged, unless `RUST_LOG` says so: a level, or levels of modules. Default
    /// `info,openraft=error`: changes of state and worse.
    pub log: String,
    /// How the links to servers behave; all clones share it.
    pub wire: Wire,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            log: DEFAULT_LOG.to_owned(),
            wire: Wire::default(),
        }
    }
}

/// A configuration file that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// It can't be read.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// `log` says nothing that could be logged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A wire option can't be used.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl Settings {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// [`SettingsError`].
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let settings: Self = load(path)?;
        telemetry::check(&settings.log)?;
        settings.wire.get().check()?;
        Ok(settings)
    }
}

impl Reload for Settings {
    fn wire(&self) -> &Wire {
        &self.wire
    }

    fn log(&self) -> &str {
        &self.log
    }
}
