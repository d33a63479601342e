//! A cluster on this machine: what `oxfs up` writes into its directory, and who of it is running.
//!
//! ```text
//! DIR/cluster.toml        which servers there are and where (public)
//! DIR/secret              the cluster's secret, mode 0600
//! DIR/config/osd-2.toml   a server's configuration
//! DIR/osd-2/              its state
//! DIR/logs/osd-2.log      its log
//! DIR/run/osd-2.json      its process, while it runs
//! DIR/run/killed          who had to be killed when the cluster was ended, for `oxfs down` to tell
//! ```

mod process;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use types::ClusterId;

use crate::config::{self, ConfigError};
use crate::link::{Identity, Role, Wire};
use crate::statedir::{AnyFormat, replace_file};

pub use process::{Process, ProcessId};

/// Format of `cluster.toml` that this release writes; newer ones are refused.
pub const FORMAT: u32 = 1;

/// A server of a local cluster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its number among those of its role.
    pub id: u64,
    /// Where it listens.
    pub address: String,
}

/// The content of `cluster.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFile {
    /// Format of the file.
    pub format: u32,
    /// Cluster id.
    pub cluster: String,
    /// Metadata servers.
    pub mrc: Vec<Member>,
    /// Object servers.
    pub osd: Vec<Member>,
    /// Dataset below which each object server has one of its own for its store; none: directory stores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zfs_dataset: Option<String>,
}

/// A local cluster's directory.
#[derive(Clone, Debug)]
pub struct LocalCluster {
    dir: PathBuf,
    file: ClusterFile,
    cluster: ClusterId,
}

/// One server of a local cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LocalServer {
    /// What it is.
    pub role: Role,
    /// Its number.
    pub id: u64,
    /// Where it listens.
    pub address: String,
}

impl LocalServer {
    /// As commands take it: `osd-2`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}", self.role, self.id)
    }
}

/// A directory that can't be used as a local cluster's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// There is no cluster in it.
    #[error("{} holds no cluster (there is no {}); make one with `oxfs up --dir {} --mount MNT`", dir.display(), dir.join("cluster.toml").display(), dir.display())]
    None {
        /// The directory.
        dir: PathBuf,
    },
    /// It was made by a newer release.
    #[error("{} has format {found}, this release knows 1 to {FORMAT}; run the newer release", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A file in it is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
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
}

impl LocalCluster {
    /// Writes the description of a new cluster into an existing directory.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn create(dir: &Path, file: ClusterFile) -> Result<Self, LocalError> {
        let path = dir.join("cluster.toml");
        let text = toml::to_string(&file).unwrap_or_default();
        replace_file(&path, text.as_bytes()).map_err(|cause| LocalError::Io {
            doing: "write",
            path,
            cause,
        })?;
        Self::open(dir)
    }

    /// Dataset of an object server's store on ZFS; none for a directory store.
    #[must_use]
    pub fn zfs_dataset(&self, server: &LocalServer) -> Option<String> {
        let above = self.file.zfs_dataset.as_ref()?;
        Some(format!("{above}/{}", server.name()))
    }

    /// Adds an object server at `address` to the description, with the next number.
    ///
    /// # Errors
    ///
    /// [`LocalError`] if it can't be written.
    pub fn add_osd(mut self, address: String) -> Result<(Self, LocalServer), LocalError> {
        let id = self.next_osd();
        self.file.osd.push(Member {
            id,
            address: address.clone(),
        });
        let server = LocalServer {
            role: Role::Osd,
            id,
            address,
        };
        Ok((Self::create(&self.dir, self.file)?, server))
    }

    /// Adds a metadata server at `address` to the description, with the next number.
    ///
    /// # Errors
    ///
    /// [`LocalError`] if it can't be written.
    pub fn add_mrc(mut self, address: String) -> Result<(Self, LocalServer), LocalError> {
        let numbers = self.file.mrc.iter().map(|mrc| mrc.id);
        let id = numbers.max().unwrap_or(0).saturating_add(1);
        self.file.mrc.push(Member {
            id,
            address: address.clone(),
        });
        let server = LocalServer {
            role: Role::Mrc,
            id,
            address,
        };
        Ok((Self::create(&self.dir, self.file)?, server))
    }

    /// Takes metadata servers out of the description; their directories stay.
    ///
    /// # Errors
    ///
    /// [`LocalError`] if it can't be written.
    pub fn remove_mrcs(mut self, ids: &[u64]) -> Result<Self, LocalError> {
        self.file.mrc.retain(|mrc| !ids.contains(&mrc.id));
        Self::create(&self.dir, self.file)
    }

    /// Takes an object server out of the description; its directory stays.
    ///
    /// # Errors
    ///
    /// [`LocalError`] if it can't be written.
    pub fn remove_osd(mut self, id: u64) -> Result<Self, LocalError> {
        self.file.osd.retain(|osd| osd.id != id);
        Self::create(&self.dir, self.file)
    }

    /// The number that another object server would get.
    #[must_use]
    pub fn next_osd(&self) -> u64 {
        let numbers = self.file.osd.iter().map(|osd| osd.id);
        numbers.max().unwrap_or(0).saturating_add(1)
    }

    /// Reads the description of the cluster in `dir`.
    ///
    /// # Errors
    ///
    /// [`LocalError`].
    pub fn open(dir: &Path) -> Result<Self, LocalError> {
        let path = dir.join("cluster.toml");
        if !path.exists() {
            return Err(LocalError::None {
                dir: dir.to_owned(),
            });
        }
        let any: AnyFormat = config::load(&path)?;
        if any.format > FORMAT {
            return Err(LocalError::Newer {
                path,
                found: any.format,
            });
        }
        let file: ClusterFile = config::load(&path)?;
        let cluster = config::cluster_id(&file.cluster, &path)?;
        // Absolute, because servers are started with paths in it from wherever we are.
        let dir = fs::canonicalize(dir).map_err(|cause| LocalError::Io {
            doing: "find",
            path: dir.to_owned(),
            cause,
        })?;
        Ok(Self { dir, file, cluster })
    }

    /// The directory, absolute.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The cluster's id.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// All servers, metadata servers first.
    #[must_use]
    pub fn servers(&self) -> Vec<LocalServer> {
        let of = |role, members: &[Member]| {
            members
                .iter()
                .map(|member| LocalServer {
                    role,
                    id: member.id,
                    address: member.address.clone(),
                })
                .collect::<Vec<_>>()
        };
        let mut servers = of(Role::Mrc, &self.file.mrc);
        servers.extend(of(Role::Osd, &self.file.osd));
        servers
    }

    /// Addresses of the metadata servers.
    #[must_use]
    pub fn mrc_addresses(&self) -> Vec<String> {
        let addresses = self.file.mrc.iter().map(|member| member.address.clone());
        addresses.collect()
    }

    /// Who this process is to the cluster's servers.
    ///
    /// # Errors
    ///
    /// If the secret can't be read.
    pub fn identity(&self, role: Role) -> Result<Identity, LocalError> {
        Ok(Identity {
            cluster: self.cluster,
            secret: config::load_secret(&self.secret_file())?,
            role,
            id: u64::from(std::process::id()),
            wire: Wire::default(),
        })
    }

    /// The file with the secret.
    #[must_use]
    pub fn secret_file(&self) -> PathBuf {
        self.dir.join("secret")
    }

    /// A server's configuration.
    #[must_use]
    pub fn config_file(&self, name: &str) -> PathBuf {
        self.dir.join("config").join(format!("{name}.toml"))
    }

    /// A server's state directory.
    #[must_use]
    pub fn state_dir(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A process's log.
    #[must_use]
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// All processes that were started and not ended in order, running or not.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let Ok(entries) = fs::read_dir(self.dir.join("run")) else {
            return Vec::new();
        };
        let mut processes: Vec<Process> = entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|end| end == "json"))
            .filter_map(|entry| Process::read(&entry.path()))
            .collect();
        processes.sort_by(|a, b| a.name.cmp(&b.name));
        processes
    }

    /// The process of this name, if it runs.
    #[must_use]
    pub fn running(&self, name: &str) -> Option<Process> {
        Process::read(&self.run_file(name)).filter(|process| process.process.is_running())
    }

    /// Remembers a process.
    ///
    /// # Errors
    ///
    /// If the file can't be written.
    pub fn remember(&self, process: &Process) -> io::Result<()> {
        fs::create_dir_all(self.dir.join("run"))?;
        process.write(&self.run_file(&process.name))
    }

    /// Leaves word that these processes did not end when asked and were killed.
    pub fn note_killed(&self, names: &[String]) {
        // Only the words of `oxfs down` depend on it.
        let _ = fs::write(self.killed_file(), names.join("\n"));
    }

    /// Takes that word: the names, or nothing.
    #[must_use]
    pub fn take_killed(&self) -> Vec<String> {
        let text = fs::read_to_string(self.killed_file()).unwrap_or_default();
        // Not there is as good as removed.
        let _ = fs::remove_file(self.killed_file());
        text.lines().map(str::to_owned).collect()
    }

    fn killed_file(&self) -> PathBuf {
        self.dir.join("run").join("killed")
    }

    /// Forgets a process that ended.
    pub fn forget(&self, name: &str) {
        // A file that is left only names a process that does not run.
        let _ = fs::remove_file(self.run_file(name));
    }

    fn run_file(&self, name: &str) -> PathBuf {
        self.dir.join("run").join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> ClusterFile {
        let member = |id: u64| Member {
            id,
            address: format!("127.0.0.1:{id}"),
        };
        ClusterFile {
            format: FORMAT,
            cluster: ClusterId(5).to_string(),
            mrc: vec![member(1)],
            osd: vec![member(2), member(3)],
            zfs_dataset: None,
        }
    }

    #[test]
    fn description_round_trips_and_names_its_servers() {
        let dir = tempfile::tempdir().unwrap();

        let made = LocalCluster::create(dir.path(), file()).unwrap();

        assert_eq!(made.cluster(), ClusterId(5));
        let names: Vec<_> = made.servers().iter().map(LocalServer::name).collect();
        assert_eq!(names, ["mrc-1", "osd-2", "osd-3"]);
        assert_eq!(made.mrc_addresses(), ["127.0.0.1:1"]);
    }

    #[test]
    fn each_object_server_has_a_dataset_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let with = ClusterFile {
            zfs_dataset: Some("tank/oxfs".to_owned()),
            ..file()
        };

        let made = LocalCluster::create(dir.path(), with).unwrap();

        let servers = made.servers();
        let dataset = |name: &str| {
            let server = servers.iter().find(|server| server.name() == name);
            made.zfs_dataset(server.unwrap())
        };
        assert_eq!(dataset("osd-3").as_deref(), Some("tank/oxfs/osd-3"));
    }

    #[test]
    fn directory_without_cluster_and_newer_format_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = LocalCluster::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("oxfs up"), "{error}");

        let newer = ClusterFile {
            format: 9,
            ..file()
        };
        let error = LocalCluster::create(dir.path(), newer).unwrap_err();
        assert!(matches!(error, LocalError::Newer { found: 9, .. }));
        let file = dir.path().join("cluster.toml");
        let unknown = "format = 9\nregions = [\"a\"]\n";
        fs::write(&file, unknown).unwrap();
        let said = LocalCluster::open(dir.path()).unwrap_err().to_string();
        let names = ["cluster.toml has format 9", "knows 1 to 1", "run the newer"];
        assert!(names.iter().all(|name| said.contains(name)), "{said}");
        assert_eq!(fs::read_to_string(&file).unwrap(), unknown);
    }

    #[test]
    fn remembered_process_is_found_while_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = LocalCluster::create(dir.path(), file()).unwrap();
        let mut process = Process {
            name: "osd-2".to_owned(),
            role: "osd".to_owned(),
            id: 2,
            address: "127.0.0.1:2".to_owned(),
            dir: dir.path().to_owned(),
            process: ProcessId::of(std::process::id()).unwrap(),
        };

        cluster.remember(&process).unwrap();
        assert_eq!(cluster.running("osd-2"), Some(process.clone()));
        assert_eq!(cluster.processes(), [process.clone()]);

        // The pid now belongs to somebody who started at another time.
        process.process.started_ticks += 1;
        cluster.remember(&process).unwrap();
        assert_eq!(cluster.running("osd-2"), None);
        assert!(!process.process.signal(nix::sys::signal::Signal::SIGKILL));

        cluster.forget("osd-2");
        assert!(cluster.processes().is_empty());

        cluster.note_killed(&["mount-1".to_owned(), "osd-2".to_owned()]);
        assert_eq!(cluster.take_killed(), ["mount-1", "osd-2"]);
        assert!(cluster.take_killed().is_empty());
    }
}
