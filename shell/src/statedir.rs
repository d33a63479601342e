//! A server's state directory: whose it is, and that only one process uses it.
//!
//! The file `IDENTITY` says format, cluster, role, id and the store's own id. It is written when the
//! directory is empty, and compared at every start. A directory that another server was only
//! started on, as with a wrong cluster id in its configuration, is taken over. The file `LOCK` is locked while a
//! process uses the directory; the kernel unlocks it when the process ends, however it ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use types::ClusterId;

use crate::link::Role;

/// Format of state directories that this release writes; newer ones are refused, older ones are read and
/// become this one, since from then on they may hold what older releases do not know. 2: records of objects
/// with the first id of changes, and metadata logs with reports of leftovers. 3: indexes of metadata
/// servers with checksums.
pub const FORMAT: u32 = 3;

const IDENTITY: &str = "IDENTITY";
const LOCK: &str = "LOCK";

/// Mode of the directories: nobody but the owner.
const PRIVATE: u32 = 0o700;

/// Whose a state directory is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// What the server is.
    pub role: Role,
    /// Its number.
    pub id: u64,
}

/// A locked state directory of ours.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    store_uuid: String,
    is_new: bool,
    _lock: File,
}

/// A state directory that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateDirError {
    /// A file operation failed.
    #[error("can't {doing} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
    /// Another process uses it.
    #[error("{} is in use by another process; stop that first", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It holds something else.
    #[error("{} is not empty and has no file {IDENTITY}, so it is no state directory; give an empty or new directory", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// The file `IDENTITY` is damaged.
    #[error("{} is damaged ({reason}); restore it, or give an empty directory so that the server is rebuilt from the others", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It was written by a newer release.
    #[error("{} says format {found}, this release knows 1 to {FORMAT}; run the newer release, or give an empty directory so that the server is rebuilt from the others", path.display())]
    Newer {
        /// The file `IDENTITY` of the directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It is of another server.
    #[error("{} belongs to {found}, not to {wanted}; check `cluster`, `id` and `dir` in the configuration, or give an empty directory", path.display())]
    Other {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who we are.
        wanted: String,
    },
}

/// What every format of a file has: the rest may be otherwise in newer ones.
#[derive(Deserialize)]
pub(crate) struct AnyFormat {
    pub(crate) format: u32,
}

#[derive(Clone, Deserialize, Serialize)]
struct IdentityFile {
    format: u32,
    cluster: String,
    role: String,
    id: u64,
    store_uuid: String,
}

impl StateDir {
    /// Opens and locks a state directory, making it if it is missing or empty. One of another
    /// server is taken over if `is_unused` says of it that this server never got anything from its
    /// cluster.
    ///
    /// # Errors
    ///
    /// Each variant of [`StateDirError`]; nothing was changed then, except that an empty directory
    /// or its lock file may have been made.
    pub fn open(
        path: &Path,
        owner: Owner,
        is_unused: impl FnOnce(&Path) -> bool,
    ) -> Result<Self, StateDirError> {
        if !path.is_dir() {
            make_private(path).map_err(|cause| failed("make directory", path, cause))?;
        }
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|cause| failed("open", &lock_path, cause))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StateDirError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(cause)) => return Err(failed("lock", &lock_path, cause)),
        }
        let file = path.join(IDENTITY);
        let (store_uuid, is_new) = match fs::read_to_string(&file) {
            Ok(text) => match check(path, &file, &text, owner) {
                Err(StateDirError::Other { found, .. }) if is_unused(path) => {
                    tracing::info!(dir = %path.display(), %found, "taking over a directory that was never used");
                    (write(&file, owner)?, true)
                }
                checked => (checked?, false),
            },
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                refuse_foreign(path)?;
                (write(&file, owner)?, true)
            }
            Err(cause) => return Err(failed("read", &file, cause)),
        };
        // Only now it is known to be ours.
        if make_private(path).map_err(|cause| failed("close to others", path, cause))? {
            tracing::warn!(dir = %path.display(), "others could read the directory; it is closed to them now");
        }
        Ok(Self {
            path: path.to_owned(),
            store_uuid,
            is_new,
            _lock: lock,
        })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Drawn when the directory was made, 32 hexadecimal digits: the same server with another
    /// directory is a new one to the cluster.
    #[must_use]
    pub fn store_uuid(&self) -> &str {
        &self.store_uuid
    }

    /// Whether this call made the directory or took it over: it holds nothing yet.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.is_new
    }
}

fn check(dir: &Path, file: &Path, text: &str, owner: Owner) -> Result<String, StateDirError> {
    let damaged = |error: toml::de::Error| StateDirError::Damaged {
        path: file.to_owned(),
        reason: error.message().replace('\n', " "),
    };
    let any: AnyFormat = toml::from_str(text).map_err(damaged)?;
    if any.format > FORMAT {
        return Err(StateDirError::Newer {
            path: file.to_owned(),
            found: any.format,
        });
    }
    let found: IdentityFile = toml::from_str(text).map_err(damaged)?;
    let describe = |role: &str, id: u64, cluster: &str| format!("{role} {id} of cluster {cluster}");
    let wanted = describe(owner.role.name(), owner.id, &owner.cluster.to_string());
    let is = describe(&found.role, found.id, &found.cluster);
    if is != wanted {
        return Err(StateDirError::Other {
            path: dir.to_owned(),
            found: is,
            wanted,
        });
    }
    if found.format < FORMAT {
        tracing::info!(dir = %dir.display(), from = found.format, to = FORMAT, "taking over the directory of an older release");
        let found = IdentityFile {
            format: FORMAT,
            ..found.clone()
        };
        put(file, &found)?;
    }
    Ok(found.store_uuid)
}

fn refuse_foreign(dir: &Path) -> Result<(), StateDirError> {
    let entries = fs::read_dir(dir).map_err(|cause| failed("list", dir, cause))?;
    for entry in entries {
        let name = entry
            .map_err(|cause| failed("list", dir, cause))?
            .file_name();
        // What a start that was killed leaves behind, and what mkfs puts into every file system.
        if name != LOCK && name != "IDENTITY.new" && name != "lost+found" {
            return Err(StateDirError::Foreign {
                path: dir.to_owned(),
            });
        }
    }
    Ok(())
}

/// Makes the identity of a directory that holds nothing, and gives the store's own id.
fn write(file: &Path, owner: Owner) -> Result<String, StateDirError> {
    let identity = IdentityFile {
        format: FORMAT,
        cluster: owner.cluster.to_string(),
        role: owner.role.name().to_owned(),
        id: owner.id,
        store_uuid: format!("{:032x}", rand::random::<u128>()),
    };
    put(file, &identity)?;
    Ok(identity.store_uuid)
}

fn put(file: &Path, identity: &IdentityFile) -> Result<(), StateDirError> {
    let text = toml::to_string(identity).map_err(|error| StateDirError::Damaged {
        path: file.to_owned(),
        reason: error.to_string(),
    })?;
    replace_file(file, text.as_bytes()).map_err(|cause| failed("write", file, cause))
}

fn failed(doing: &'static str, path: &Path, cause: io::Error) -> StateDirError {
    StateDirError::Io {
        doing,
        path: path.to_owned(),
        cause,
    }
}

/// Makes a directory that only its owner may enter, or closes one that others could enter: what it
/// holds is readable for each file's owner only, and no mode here says whose that is. Missing
/// directories above it are made as usual. Returns whether it had to be closed.
///
/// # Errors
///
/// Of the file system.
pub fn make_private(path: &Path) -> io::Result<bool> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(PRIVATE).create(path) {
        Ok(()) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error),
    }
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(false);
    }
    fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE))?;
    Ok(true)
}

/// Replaces a small file so that a crash at any moment leaves the old or the new content, and the
/// new one is on stable storage on return.
///
/// # Errors
///
/// Of the file system; the old content is still there.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner {
        cluster: ClusterId(7),
        role: Role::Osd,
        id: 2,
    };

    #[test]
    fn directory_keeps_its_identity_across_starts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");

        let first = StateDir::open(&path, OWNER, |_| false).unwrap();
        let uuid = first.store_uuid().to_owned();
        assert!(first.is_new());
        drop(first);
        let second = StateDir::open(&path, OWNER, |_| false).unwrap();

        assert!(!second.is_new());
        assert_eq!(second.store_uuid(), uuid);
        assert_eq!(uuid.len(), 32);
    }

    #[test]
    fn directory_is_closed_to_others_whoever_made_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;

        drop(StateDir::open(&path, OWNER, |_| false).unwrap());
        assert_eq!(mode(), 0o700);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(make_private(&path).unwrap());
        assert_eq!(mode(), 0o700);
        assert!(!make_private(&path).unwrap());
    }

    #[test]
    fn second_user_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path(), OWNER, |_| false).unwrap();

        let error = StateDir::open(dir.path(), OWNER, |_| false).unwrap_err();
        assert!(matches!(error, StateDirError::InUse { .. }), "{error}");

        drop(first);
        assert!(StateDir::open(dir.path(), OWNER, |_| false).is_ok());
    }

    #[test]
    fn another_cluster_role_or_id_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        drop(StateDir::open(dir.path(), OWNER, |_| false).unwrap());
        let others = [
            Owner {
                cluster: ClusterId(8),
                ..OWNER
            },
            Owner {
                role: Role::Mrc,
                ..OWNER
            },
            Owner { id: 3, ..OWNER },
        ];

        for other in others {
            let error = StateDir::open(dir.path(), other, |_| false)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("belongs to osd 2 of cluster 0000"),
                "{error}"
            );
        }
    }

    #[test]
    fn directory_of_another_server_is_taken_over_if_it_was_never_used() {
        let dir = tempfile::tempdir().unwrap();
        let other = Owner {
            cluster: ClusterId(8),
            ..OWNER
        };
        let first = StateDir::open(dir.path(), other, |_| true).unwrap();
        let of_other = first.store_uuid().to_owned();
        drop(first);

        let taken = StateDir::open(dir.path(), OWNER, |_| true).unwrap();

        assert!(taken.is_new());
        assert_ne!(taken.store_uuid(), of_other);
        drop(taken);
        let again = StateDir::open(dir.path(), OWNER, |_| false).unwrap();
        assert!(!again.is_new(), "its owner's directory is not asked about");
    }

    #[test]
    fn directory_of_an_older_format_is_kept_and_then_refused_by_older_releases() {
        let dir = tempfile::tempdir().unwrap();
        let made = StateDir::open(dir.path(), OWNER, |_| false).unwrap();
        let store_uuid = made.store_uuid().to_owned();
        drop(made);
        let file = dir.path().join(IDENTITY);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("format = 3", "format = 1")).unwrap();

        let taken = StateDir::open(dir.path(), OWNER, |_| false).unwrap();

        assert_eq!(taken.store_uuid(), store_uuid);
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }

    #[test]
    fn newer_format_damaged_identity_and_foreign_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(StateDir::open(dir.path(), OWNER, |_| false).unwrap());
        let file = dir.path().join(IDENTITY);
        let text = fs::read_to_string(&file).unwrap();

        fs::write(&file, text.replace("format = 3", "format = 9")).unwrap();
        let newer = StateDir::open(dir.path(), OWNER, |_| false).unwrap_err();
        let said = newer.to_string();
        let names = [
            "IDENTITY says format 9",
            "knows 1 to 3",
            "run the newer release",
        ];
        assert!(names.iter().all(|name| said.contains(name)), "{said}");
        assert!(matches!(newer, StateDirError::Newer { found: 9, .. }));
        // Of which nothing but its number is known.
        fs::write(&file, "format = 9\nowner = [1, 2]\n").unwrap();
        let newer = StateDir::open(dir.path(), OWNER, |_| true).unwrap_err();
        assert!(matches!(newer, StateDirError::Newer { found: 9, .. }));
        let kept = fs::read_to_string(&file).unwrap();
        assert_eq!(kept, "format = 9\nowner = [1, 2]\n", "it stays as it is");

        fs::write(&file, &text[..20]).unwrap();
        let damaged = StateDir::open(dir.path(), OWNER, |_| false).unwrap_err();
        assert!(matches!(damaged, StateDirError::Damaged { .. }));

        fs::rename(&file, dir.path().join("precious")).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let foreign = StateDir::open(dir.path(), OWNER, |_| false).unwrap_err();
        assert!(matches!(foreign, StateDirError::Foreign { .. }));
        let mode = fs::metadata(dir.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "what is not ours stays as it is");
    }

    #[test]
    fn killed_first_start_leaves_a_directory_that_can_be_used() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("IDENTITY.new"), "form").unwrap();

        assert!(
            StateDir::open(dir.path(), OWNER, |_| false)
                .unwrap()
                .is_new()
        );
    }
}
