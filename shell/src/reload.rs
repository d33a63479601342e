//! Taking over a changed configuration at SIGHUP, without a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::link::Wire;
use crate::signals::Hangups;
use crate::telemetry;

/// A configuration of which something can change while the process runs.
pub trait Reload: Serialize {
    /// The wire options, shared with all who use them.
    fn wire(&self) -> &Wire;

    /// What is logged.
    fn log(&self) -> &str;

    /// Takes over what else holds at once from the file that was read again. What this one's clones share changes
    /// for all of them.
    fn take_over(&self, newer: &Self) {
        let _ = newer;
    }
}

/// What came of a changed file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    /// Changed keys that hold from now on.
    pub applied: BTreeSet<String>,
    /// Changed keys that hold after a restart.
    pub after_restart: BTreeSet<String>,
}

/// Whether a change of the key holds without a restart.
#[must_use]
pub fn is_online(key: &str) -> bool {
    matches!(key, "log" | "scrub_days" | "scrub_bytes_per_s") || key.starts_with("wire.")
}

/// All keys of a configuration with their values; those of a table as `table.key`.
#[must_use]
pub fn keys(configuration: &impl Serialize) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let Ok(Value::Object(fields)) = serde_json::to_value(configuration) else {
        return found;
    };
    for (key, value) in fields {
        match value {
            Value::Object(inner) => {
                found.extend(inner.into_iter().map(|(k, v)| (format!("{key}.{k}"), v)));
            }
            value => {
                found.insert(key, value);
            }
        }
    }
    found
}

/// What a process runs with, and the file that it came from.
#[derive(Debug)]
pub struct Reloader<C, E> {
    file: PathBuf,
    load: fn(&Path) -> Result<C, E>,
    configuration: C,
    running: BTreeMap<String, Value>,
}

impl<C: Reload + Clone, E: Display> Reloader<C, E> {
    /// Of a process that runs with `configuration`, which `load` took from `file` and checked.
    pub fn new(file: &Path, configuration: &C, load: fn(&Path) -> Result<C, E>) -> Self {
        Self {
            file: file.to_owned(),
            load,
            configuration: configuration.clone(),
            running: keys(configuration),
        }
    }

    /// Reads the file again and takes over what can change online.
    ///
    /// # Errors
    ///
    /// What is wrong with the file; then nothing changes.
    pub fn reload(&mut self) -> Result<Changes, E> {
        let configuration = (self.load)(&self.file)?;
        let wanted = keys(&configuration);
        let mut changes = Changes::default();
        for (key, value) in &wanted {
            if self.running.get(key) == Some(value) {
                continue;
            }
            if is_online(key) {
                changes.applied.insert(key.clone());
                self.running.insert(key.clone(), value.clone());
            } else {
                // What runs stays noted, so that it is said again until the restart.
                changes.after_restart.insert(key.clone());
            }
        }
        self.configuration.wire().set(configuration.wire().get());
        self.configuration.take_over(&configuration);
        telemetry::choose(configuration.log());
        Ok(changes)
    }

    /// Does so at every SIGHUP, and logs what came of it.
    pub async fn at_hangups(mut self, mut hangups: Hangups) -> Infallible {
        loop {
            hangups.next().await;
            let file = self.file.display().to_string();
            match self.reload() {
                Ok(changes) if changes == Changes::default() => {
                    tracing::info!(file, "configuration read again: nothing has changed");
                }
                Ok(changes) => {
                    let list = |keys: &BTreeSet<String>| -> String {
                        keys.iter()
                            .map(String::as_str)
                            .collect::<Vec<_>>()
                            .join(", ")
                    };
                    if !changes.applied.is_empty() {
                        let keys = list(&changes.applied);
                        tracing::info!(file, keys, "configuration read again: in force now");
                    }
                    if !changes.after_restart.is_empty() {
                        let keys = list(&changes.after_restart);
                        tracing::warn!(
                            file,
                            keys,
                            "configuration read again: in force only after a restart"
                        );
                    }
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::error!(error, "configuration not read again: the old one stays");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::WireOptions;
    use serde::Deserialize;

    #[derive(Clone, Deserialize, Serialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        id: u64,
        #[serde(default)]
        wire: Wire,
        #[serde(default)]
        log: String,
    }

    impl Reload for Sample {
        fn wire(&self) -> &Wire {
            &self.wire
        }

        fn log(&self) -> &str {
            &self.log
        }
    }

    fn load(path: &Path) -> Result<Sample, crate::config::ConfigError> {
        crate::config::load(path)
    }

    fn names(keys: &BTreeSet<String>) -> Vec<&str> {
        keys.iter().map(String::as_str).collect()
    }

    #[test]
    fn online_keys_are_taken_over_and_others_named_until_the_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sample.toml");
        std::fs::write(&file, "id = 1\n").unwrap();
        let sample = load(&file).unwrap();
        let mut reloader = Reloader::new(&file, &sample, load);
        assert_eq!(reloader.reload().unwrap(), Changes::default());

        std::fs::write(&file, "id = 2\n[wire]\nkeepalive_ms = 700\n").unwrap();
        let first = reloader.reload().unwrap();
        let second = reloader.reload().unwrap();

        assert_eq!(names(&first.applied), ["wire.keepalive_ms"]);
        assert_eq!(names(&first.after_restart), ["id"]);
        assert_eq!(sample.wire.get().keepalive_ms, 700);
        assert!(second.applied.is_empty());
        assert_eq!(names(&second.after_restart), ["id"]);
    }

    #[test]
    fn wrong_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sample.toml");
        std::fs::write(&file, "id = 1\n").unwrap();
        let sample = load(&file).unwrap();
        let mut reloader = Reloader::new(&file, &sample, load);

        for text in [
            "id = 1\n[wire]\nkeepalive_ms = 700\ncompression = \"rar\"\n",
            "id =",
        ] {
            std::fs::write(&file, text).unwrap();
            assert!(reloader.reload().is_err());
            assert_eq!(sample.wire.get(), WireOptions::default());
        }
        std::fs::remove_file(&file).unwrap();
        assert!(reloader.reload().is_err());
    }
}
