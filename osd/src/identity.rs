//! Whose store a directory is: the `IDENTITY` file, and the lock that keeps a second process out.
//!
//! The file also counts starts. The count is raised and made durable before the server does
//! anything else, because it serves as the epoch of objects born under this start.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use types::{ClusterId, OsdId};

/// Format of everything in the directory that this program writes.
const FORMAT: u32 = 1;
const ROLE: &str = "osd";
const IDENTITY: &str = "IDENTITY";
const LOCK: &str = "LOCK";

/// Why a directory can't be used as this server's store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The directory can't be made, read or written.
    #[error("store directory {path} can't be used: {source}; check that it exists and is writable")]
    Unusable {
        /// File or directory concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("store directory {path} is in use by another process; stop that one first")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It has files in it, but none that says whose store it is.
    #[error(
        "directory {path} is not empty and has no {IDENTITY} file; name an empty directory to make a new store"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// The `IDENTITY` file does not say what it should.
    #[error("{path} is damaged ({reason}); restore it, or name an empty directory to rebuild")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// Written by a newer program.
    #[error(
        "store {path} has format {found}, this program knows {FORMAT}; use the program that wrote it"
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Format found.
        found: u32,
    },
    /// It belongs to another cluster, role or server.
    #[error("store {path} is of {found}, the configuration says {expected}; check `dir`")]
    Other {
        /// The directory.
        path: PathBuf,
        /// Owner found.
        found: String,
        /// Owner expected.
        expected: String,
    },
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    format: u32,
    cluster: String,
    role: String,
    id: u64,
    store: String,
    boot: u64,
    clean: bool,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// A store directory that is ours: locked, identified, its start counted.
#[derive(Debug)]
pub(crate) struct Identity {
    dir: PathBuf,
    fields: Fields,
    was_clean: bool,
    /// Held as long as the process uses the directory.
    _lock: File,
}

impl Identity {
    /// Locks the directory, checks whose it is (or makes it ours if it is empty), counts the start.
    pub(crate) fn open(dir: &Path, cluster: ClusterId, osd: OsdId) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(|source| unusable(dir, source))?;
        let lock = lock(dir)?;
        let mut fields = match fs::read_to_string(dir.join(IDENTITY)) {
            Ok(text) => parse(dir, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                refuse_foreign(dir)?;
                Fields {
                    format: FORMAT,
                    cluster: cluster.to_string(),
                    role: ROLE.to_owned(),
                    id: osd.0,
                    store: format!("{:032x}", rand::random::<u128>()),
                    boot: 0,
                    clean: false,
                }
            }
            Err(source) => return Err(unusable(&dir.join(IDENTITY), source)),
        };
        let owner = |cluster: &str, role: &str, id| format!("cluster {cluster}, {role} {id}");
        let found = owner(&fields.cluster, &fields.role, fields.id);
        let expected = owner(&cluster.to_string(), ROLE, osd.0);
        if found != expected {
            return Err(StoreError::Other {
                path: dir.to_owned(),
                found,
                expected,
            });
        }
        let was_clean = fields.clean;
        fields.boot += 1;
        fields.clean = false;
        let identity = Self {
            dir: dir.to_owned(),
            fields,
            was_clean,
            _lock: lock,
        };
        identity.save()?;
        Ok(identity)
    }

    /// Number of this start, from 1.
    pub(crate) const fn boot(&self) -> u64 {
        self.fields.boot
    }

    /// Drawn when the store was made, 32 hexadecimal digits.
    pub(crate) fn store_uuid(&self) -> &str {
        &self.fields.store
    }

    /// Whether the last run ended with everything synced.
    pub(crate) const fn was_clean(&self) -> bool {
        self.was_clean
    }

    /// Whether this is the first start on an empty directory.
    pub(crate) const fn is_new(&self) -> bool {
        self.fields.boot == 1
    }

    /// Marks that everything is synced and the process ends.
    pub(crate) fn mark_clean(&mut self) -> Result<(), StoreError> {
        self.fields.clean = true;
        self.save()
    }

    fn save(&self) -> Result<(), StoreError> {
        let path = self.dir.join(IDENTITY);
        let text = toml::to_string(&self.fields).map_err(|error| StoreError::Damaged {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        write_durably(&path, text.as_bytes()).map_err(|source| unusable(&path, source))
    }
}

/// Writes a file aside, makes it stable, and puts it in place: after a crash there is the old
/// content or the new one.
pub(crate) fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = File::create(&aside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    sync_parent(path)
}

/// Makes the entry of `path` in its directory stable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| unusable(&path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
            path: dir.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(unusable(&path, source)),
    }
}

fn parse(dir: &Path, text: &str) -> Result<Fields, StoreError> {
    let damaged = |error: toml::de::Error| StoreError::Damaged {
        path: dir.join(IDENTITY),
        reason: error.message().to_owned(),
    };
    // The format first: a newer one may have fields this program does not know.
    let found = toml::from_str::<FormatOnly>(text).map_err(damaged)?.format;
    if found > FORMAT {
        return Err(StoreError::Newer {
            path: dir.to_owned(),
            found,
        });
    }
    toml::from_str(text).map_err(damaged)
}

/// A directory without identity must be empty, or somebody's files would be mixed with ours.
fn refuse_foreign(dir: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(dir).map_err(|source| unusable(dir, source))?;
    for entry in entries {
        let name = entry.map_err(|source| unusable(dir, source))?.file_name();
        if name != LOCK && name != "IDENTITY.new" && name != "lost+found" {
            return Err(StoreError::Foreign {
                path: dir.to_owned(),
            });
        }
    }
    Ok(())
}

fn unusable(path: &Path, source: io::Error) -> StoreError {
    StoreError::Unusable {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(7);

    fn open(dir: &Path) -> Result<Identity, StoreError> {
        Identity::open(dir, CLUSTER, OsdId(2))
    }

    #[test]
    fn starts_are_counted_and_the_clean_mark_lasts_for_one_start() {
        let dir = tempfile::tempdir().unwrap();

        let mut first = open(dir.path()).unwrap();
        let store = first.store_uuid().to_owned();
        assert!(first.is_new() && first.boot() == 1 && !first.was_clean());
        first.mark_clean().unwrap();
        drop(first);
        let second = open(dir.path()).unwrap();
        assert!(second.was_clean() && second.boot() == 2 && !second.is_new());
        drop(second);
        let third = open(dir.path()).unwrap();

        assert!(!third.was_clean() && third.boot() == 3);
        assert_eq!(third.store_uuid(), store);
    }

    #[test]
    fn store_of_another_server_cluster_or_newer_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());

        let other_id = Identity::open(dir.path(), CLUSTER, OsdId(3)).unwrap_err();
        let other_cluster = Identity::open(dir.path(), ClusterId(8), OsdId(2)).unwrap_err();
        assert!(other_id.to_string().contains("osd 2"), "{other_id}");
        assert!(matches!(other_cluster, StoreError::Other { .. }));

        let path = dir.path().join(IDENTITY);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("format = 1", "format = 9\nzeal = 3")).unwrap();
        let newer = open(dir.path()).unwrap_err();
        assert!(matches!(newer, StoreError::Newer { found: 9, .. }));

        fs::write(&path, "format = 1\nboot = true").unwrap();
        let damaged = open(dir.path()).unwrap_err();
        assert!(matches!(damaged, StoreError::Damaged { .. }));
    }

    #[test]
    fn second_process_and_foreign_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _held = open(dir.path()).unwrap();
        assert!(matches!(
            open(dir.path()).unwrap_err(),
            StoreError::InUse { .. }
        ));

        let foreign = tempfile::tempdir().unwrap();
        fs::write(foreign.path().join("thesis.txt"), "x").unwrap();
        assert!(matches!(
            open(foreign.path()).unwrap_err(),
            StoreError::Foreign { .. }
        ));
    }
}
