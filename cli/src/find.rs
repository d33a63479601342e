//! Which cluster is meant, and what proves that we may ask it.

use shell::config;
use shell::link::{Identity, Role, Wire};
use shell::local::LocalCluster;

use crate::arguments::Arguments;
use crate::outcome::Failure;

/// A cluster to talk to.
#[derive(Debug)]
pub(crate) struct Found {
    /// Who we are to it.
    pub(crate) identity: Identity,
    /// Metadata servers to ask first.
    pub(crate) addresses: Vec<String>,
    /// Its directory, if it runs on this machine.
    pub(crate) local: Option<LocalCluster>,
}

/// Finds the cluster that the options name.
pub(crate) fn cluster(arguments: &Arguments) -> Result<Found, Failure> {
    // All that names another cluster was given: the directory is only what OXFS_DIR happens to say.
    let elsewhere =
        !arguments.mrc.is_empty() && arguments.cluster.is_some() && arguments.secret_file.is_some();
    if let Some(dir) = arguments.dir.as_ref().filter(|_| !elsewhere) {
        let local = LocalCluster::open(dir)?;
        let addresses = if arguments.mrc.is_empty() {
            local.mrc_addresses()
        } else {
            arguments.mrc.clone()
        };
        return Ok(Found {
            identity: local.identity(Role::Admin)?,
            addresses,
            local: Some(local),
        });
    }
    if arguments.mrc.is_empty() {
        return Err(Failure::usage(
            "no cluster is named; give --dir DIR of a cluster on this machine, or --mrc \
             ADDR[,ADDR...] with --cluster ID and --secret-file FILE",
        ));
    }
    let (Some(id), Some(secret_file)) = (&arguments.cluster, &arguments.secret_file) else {
        return Err(Failure::usage(format!(
            "{} wants a proof that we belong to its cluster; give --cluster ID and --secret-file \
             FILE, or --dir DIR of a cluster on this machine",
            arguments.mrc.join(",")
        )));
    };
    let cluster = id
        .parse()
        .map_err(|error| Failure::usage(format!("--cluster: {error}")))?;
    Ok(Found {
        identity: Identity {
            cluster,
            secret: config::load_secret(secret_file)?,
            role: Role::Admin,
            id: u64::from(std::process::id()),
            wire: Wire::default(),
        },
        addresses: arguments.mrc.clone(),
        local: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn refusal(line: &str) -> String {
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        cluster(&arguments).unwrap_err().message().to_owned()
    }

    #[test]
    fn cluster_that_is_named_in_full_wins_over_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "ab".repeat(32)).unwrap();
        let line = format!(
            "xfs-admin --dir /nowhere --mrc a:1 --cluster {} --secret-file {} status",
            "1".repeat(32),
            secret.display()
        );
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();

        let found = cluster(&arguments).unwrap();

        assert!(found.local.is_none());
        assert_eq!(found.addresses, ["a:1"]);
    }

    #[test]
    fn unnamed_unproved_and_missing_clusters_are_told_what_to_give() {
        assert!(refusal("xfs-admin status").contains("--dir DIR"));

        let unproved = refusal("xfs-admin --mrc 127.0.0.1:1 status");
        assert!(unproved.contains("127.0.0.1:1") && unproved.contains("--secret-file"));

        let dir = tempfile::tempdir().unwrap();
        let none = refusal(&format!("xfs-admin --dir {} status", dir.path().display()));
        assert!(none.contains("oxfs up"), "{none}");

        let bad = refusal("xfs-admin --mrc a:1 --cluster 12 --secret-file f status");
        assert!(bad.contains("--cluster") && bad.contains("12"), "{bad}");
    }
}
