//! Makes a new cluster's directory: identity, secret, addresses and one configuration per server.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use shell::link::Role;
use shell::local::{ClusterFile, FORMAT, LocalCluster, LocalServer, Member};
use types::{ClusterId, Secret};

use crate::config::SERVERS_PER_ROLE;
use crate::ports;

/// The right to run the cluster in a directory; ends with the process.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

/// Makes the directory if it is missing and takes its lock. None: another `oxfs up` has it.
pub(crate) fn take(dir: &Path) -> Result<Option<Lock>> {
    let shown = dir.display();
    match fs::metadata(dir) {
        Ok(metadata) => ensure!(
            metadata.is_dir(),
            "{shown} is not a directory; give a directory"
        ),
        Err(_) => make_private(dir)?,
    }
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("up.lock"))
        .with_context(|| format!("can't write into {shown}; give a directory you may write to"))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(Lock(lock))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("can't lock {shown}"))
        }
    }
}

/// Opens the cluster in a locked directory, or makes one with so many servers of each role. `store` is a dataset,
/// or none for directories, if anything is asked for.
pub(crate) fn open_or_make(
    dir: &Path,
    single: bool,
    store: Option<Option<&str>>,
) -> Result<LocalCluster> {
    let cluster = if dir.join("cluster.toml").exists() {
        let cluster = LocalCluster::open(dir)?;
        check_store(&cluster, store)?;
        cluster
    } else {
        refuse_foreign(dir)?;
        let dataset = store.flatten();
        if let Some(dataset) = dataset {
            zfs_driver::DatasetName::new(dataset).context("--zfs-dataset")?;
        }
        make(dir, if single { 1 } else { SERVERS_PER_ROLE }, dataset)?
    };
    // Only now it is known to be ours.
    make_private(dir)?;
    for folder in ["config", "logs", "run"] {
        make_private(&cluster.dir().join(folder))?;
    }
    for server in cluster.servers() {
        write_config(&cluster, &server)?;
    }
    Ok(cluster)
}

/// Makes a directory for its owner only; one that others could enter is closed, and that is said.
fn make_private(dir: &Path) -> Result<()> {
    let shown = dir.display();
    let closed = shell::statedir::make_private(dir)
        .with_context(|| format!("can't make {shown} a directory of yours alone"))?;
    if closed {
        let _ = writeln!(
            std::io::stdout(),
            "others could read {shown}; it is closed to them now"
        );
    }
    Ok(())
}

fn refuse_foreign(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("can't list {}", dir.display()))?;
    for entry in entries {
        let name = entry?.file_name();
        // What an `up` that was killed early leaves behind.
        let ours = ["up.lock", "secret", "cluster.toml.new", "lost+found"];
        if !ours.iter().any(|our| name == *our) {
            bail!(
                "{} is not empty and holds no cluster; give an empty or new directory",
                dir.display()
            );
        }
    }
    Ok(())
}

/// Refuses another kind of store than the cluster was made with.
fn check_store(cluster: &LocalCluster, store: Option<Option<&str>>) -> Result<()> {
    let Some(wanted) = store else {
        return Ok(());
    };
    let servers = cluster.servers();
    let Some(osd) = servers.iter().find(|server| server.role == Role::Osd) else {
        return Ok(());
    };
    let present = cluster.zfs_dataset(osd);
    let fits = present == wanted.map(|dataset| format!("{dataset}/{}", osd.name()));
    let made = present.map_or_else(
        || "directories".to_owned(),
        |dataset| format!("the dataset {dataset}"),
    );
    ensure!(
        fits,
        "{} was made with other stores: {} has {made}; leave out --store and --zfs-dataset",
        cluster.dir().display(),
        osd.name()
    );
    Ok(())
}

fn make(dir: &Path, servers_per_role: u64, dataset: Option<&str>) -> Result<LocalCluster> {
    let secret = Secret::from_bytes(rand::random());
    let path = dir.join("secret");
    let write_secret = || -> std::io::Result<()> {
        // One of a killed `up` was never used.
        if path.exists() {
            fs::remove_file(&path)?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(format!("{}\n", secret.to_hex()).as_bytes())?;
        file.sync_all()
    };
    write_secret().with_context(|| format!("can't write {}", path.display()))?;
    let count = usize::try_from(servers_per_role)?;
    let mut ports = ports::choose(2 * count)?.into_iter();
    let mut members = || -> Vec<Member> {
        (1..=servers_per_role)
            .zip(ports.by_ref())
            .map(|(id, port)| Member {
                id,
                address: format!("127.0.0.1:{port}"),
            })
            .collect()
    };
    let file = ClusterFile {
        format: FORMAT,
        cluster: ClusterId(rand::random()).to_string(),
        mrc: members(),
        osd: members(),
        zfs_dataset: dataset.map(str::to_owned),
    };
    Ok(LocalCluster::create(dir, file)?)
}

/// A metadata server's configuration file, as far as we choose it.
#[derive(Serialize)]
struct MrcFile<'a> {
    cluster: String,
    secret_file: &'a Path,
    id: u64,
    listen: &'a str,
    dir: &'a Path,
    members: Vec<Member>,
    metrics_listen: String,
}

/// An object server's configuration file, as far as we choose it.
#[derive(Serialize)]
struct OsdFile<'a> {
    cluster: String,
    secret_file: &'a Path,
    id: u64,
    listen: &'a str,
    dir: &'a Path,
    mrc: Vec<String>,
    metrics_listen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zfs_dataset: Option<String>,
}

/// Writes a server's configuration, unless there is one, which its owner may have changed.
pub(crate) fn write_config(cluster: &LocalCluster, server: &LocalServer) -> Result<()> {
    let name = server.name();
    let path = cluster.config_file(&name);
    if path.exists() {
        return Ok(());
    }
    let text = config_text(cluster, server)?;
    shell::statedir::replace_file(&path, text.as_bytes())
        .with_context(|| format!("can't write {}", path.display()))
}

fn config_text(cluster: &LocalCluster, server: &LocalServer) -> Result<String> {
    let secret_file = cluster.secret_file();
    let metrics_listen = metrics_address(cluster)?;
    let dir = cluster.state_dir(&server.name());
    let text = if server.role == Role::Mrc {
        let mrcs = cluster
            .servers()
            .into_iter()
            .filter(|other| other.role == Role::Mrc);
        let members = mrcs
            .map(|other| Member {
                id: other.id,
                address: other.address,
            })
            .collect();
        toml::to_string(&MrcFile {
            cluster: cluster.cluster().to_string(),
            secret_file: &secret_file,
            id: server.id,
            listen: &server.address,
            dir: &dir,
            members,
            metrics_listen,
        })?
    } else {
        let zfs_dataset = cluster.zfs_dataset(server);
        toml::to_string(&OsdFile {
            cluster: cluster.cluster().to_string(),
            secret_file: &secret_file,
            id: server.id,
            listen: &server.address,
            dir: &dir,
            mrc: cluster.mrc_addresses(),
            metrics_listen,
            store: zfs_dataset.as_ref().map(|_| "zfs"),
            zfs_dataset,
        })?
    };
    Ok(text)
}

/// Where a server may serve its numbers: a port that no server of the cluster has for anything, running or not.
fn metrics_address(cluster: &LocalCluster) -> Result<String> {
    let port = |address: &str| address.rsplit_once(':')?.1.parse::<u16>().ok();
    let servers = cluster.servers();
    let numbers = servers.iter().filter_map(|server| {
        let config = fs::read_to_string(cluster.config_file(&server.name())).ok()?;
        let config: toml::Table = config.parse().ok()?;
        port(config.get("metrics_listen")?.as_str()?)
    });
    let taken = servers.iter().filter_map(|server| port(&server.address));
    let taken: HashSet<u16> = taken.chain(numbers).collect();
    // One more than are taken: one of them is not.
    let free = ports::choose(taken.len() + 1)?.into_iter();
    let mut free = free.filter(|port| !taken.contains(port));
    let port = free.next().context("no free port")?;
    Ok(format!("127.0.0.1:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn made_cluster_is_found_again_with_the_same_identity_and_ports() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("cluster");
        let _lock = take(&dir).unwrap().unwrap();

        let made = open_or_make(&dir, false, None).unwrap();
        let again = open_or_make(&dir, true, None).unwrap();

        assert_eq!(made.cluster(), again.cluster());
        assert_eq!(made.servers(), again.servers());
        assert_eq!(made.servers().len(), 6);
        let mode = fs::metadata(made.secret_file())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        for closed in ["", "config", "logs", "run"] {
            let mode = fs::metadata(dir.join(closed)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{closed}");
        }
        assert!(made.identity(Role::Admin).is_ok());
    }

    #[test]
    fn single_cluster_has_one_server_of_each_role() {
        let dir = tempfile::tempdir().unwrap();

        let cluster = open_or_make(dir.path(), true, None).unwrap();

        let names: Vec<_> = cluster.servers().iter().map(LocalServer::name).collect();
        assert_eq!(names, ["mrc-1", "osd-1"]);
    }

    #[test]
    fn second_user_of_a_directory_gets_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path()).unwrap();

        assert!(first.is_some());
        assert!(take(dir.path()).unwrap().is_none());
        drop(first);
        assert!(take(dir.path()).unwrap().is_some());
    }

    #[test]
    fn file_and_foreign_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();

        assert!(
            take(&file)
                .unwrap_err()
                .to_string()
                .contains("not a directory")
        );
        let error = open_or_make(dir.path(), false, None)
            .unwrap_err()
            .to_string();
        assert!(error.contains("not empty"), "{error}");
    }

    #[test]
    fn every_server_has_a_port_of_its_own_for_its_numbers() {
        let dir = tempfile::tempdir().unwrap();

        let cluster = open_or_make(dir.path(), false, None).unwrap();

        let mut addresses = HashSet::new();
        for server in cluster.servers() {
            let text = fs::read_to_string(cluster.config_file(&server.name())).unwrap();
            let config: toml::Table = text.parse().unwrap();
            addresses.insert(config["metrics_listen"].as_str().unwrap().to_owned());
            addresses.insert(server.address);
        }
        assert_eq!(addresses.len(), 12);
    }

    #[test]
    fn configuration_that_was_changed_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = open_or_make(dir.path(), true, None).unwrap();
        let path = cluster.config_file("osd-1");
        fs::write(&path, "mine").unwrap();

        open_or_make(dir.path(), true, None).unwrap();

        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn store_on_zfs_is_remembered_and_another_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let bad = open_or_make(dir.path(), true, Some(Some("tank"))).unwrap_err();
        assert!(format!("{bad:#}").contains("\"tank\""), "{bad:#}");

        open_or_make(dir.path(), true, Some(Some("tank/oxfs"))).unwrap();
        let cluster = open_or_make(dir.path(), true, None).unwrap();

        let config = fs::read_to_string(cluster.config_file("osd-1")).unwrap();
        let config: osd::Config = toml::from_str(&config).unwrap();
        assert_eq!(config.zfs_dataset.as_deref(), Some("tank/oxfs/osd-1"));
        config.validated().unwrap();
        for other in [None, Some("tank/other")] {
            let error = open_or_make(dir.path(), true, Some(other)).unwrap_err();
            assert!(error.to_string().contains("tank/oxfs/osd-1"), "{error}");
        }
    }
}
