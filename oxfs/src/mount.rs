//! `oxfs mount`: a volume of a running cluster, in the background unless told otherwise.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use client_fuse::{Flags, MountOptions, Settings};
use shell::config::load_secret;
use shell::local::{LocalCluster, Process, ProcessId};
use shell::reload::Reloader;
use types::{ClusterId, Secret};

use crate::arguments::MountArguments;
use crate::config::{LOOK_AGAIN, READY_PATIENCE};
use crate::{launch, mountpoint, readiness, serve};

/// Mounts, and returns when the mount can be used or, in the foreground, when it has ended.
pub(crate) fn run(arguments: &MountArguments) -> Result<()> {
    let flags: Flags = arguments.options.join(",").parse()?;
    let membership = membership(arguments, &flags)?;
    let (addresses, volume) = parse_what(&arguments.what, membership.local.as_ref())?;
    let point = mountpoint::check(&arguments.point)?;
    let (settings, reloader) = match &flags.config {
        Some(file) => {
            let settings = Settings::load(file)?;
            let reloader = Reloader::new(file, &settings, Settings::load);
            (settings, Some(reloader))
        }
        None => (Settings::default(), None),
    };
    if !arguments.foreground {
        return in_background(arguments, &point, membership.local.as_ref());
    }
    let options = MountOptions {
        addresses,
        volume,
        mount_point: point.clone(),
        cluster: membership.cluster,
        secret: membership.secret,
        flags,
        wire: settings.wire,
    };
    let record = membership
        .local
        .map(|cluster| Record::new(cluster, point))
        .transpose()?;
    let threads = serve::Threads::HalfOfCpus;
    serve::until_terminated(threads, &settings.log, reloader, async |shutdown| {
        let mounted = || {
            if let Some(record) = &record {
                record.write();
            }
        };
        let ended = client_fuse::mount_and_tell(options, shutdown, mounted).await;
        // One that failed is left in the list: it is not what anybody asked for.
        if let Some(record) = record.as_ref().filter(|_| ended.is_ok()) {
            record.remove();
        }
        Ok(ended?)
    })
}

/// What proves to the cluster that we belong to it.
struct Membership {
    cluster: ClusterId,
    secret: Secret,
    local: Option<LocalCluster>,
}

fn membership(arguments: &MountArguments, flags: &Flags) -> Result<Membership> {
    let secret_file = arguments
        .secret_file
        .as_ref()
        .or(flags.secret_file.as_ref());
    let cluster = arguments.cluster.as_ref().or(flags.cluster.as_ref());
    match (secret_file, cluster, &arguments.dir) {
        (Some(secret_file), Some(cluster), _) => Ok(Membership {
            cluster: cluster.parse().context("--cluster")?,
            secret: load_secret(secret_file)?,
            local: None,
        }),
        (None, None, Some(dir)) => {
            let local = LocalCluster::open(dir)?;
            Ok(Membership {
                cluster: local.cluster(),
                secret: load_secret(&local.secret_file())?,
                local: Some(local),
            })
        }
        (Some(_), None, _) => bail!("--secret-file needs --cluster ID as well"),
        (None, Some(_), _) => bail!("--cluster needs --secret-file FILE as well"),
        (None, None, None) => bail!(
            "the cluster wants a proof that we belong to it: give --dir DIR of a cluster on this \
             machine, or --secret-file FILE and --cluster ID"
        ),
    }
}

/// Takes `MRC[,MRC...]/VOLUME` apart; the addresses may be left out if the cluster is local.
fn parse_what(what: &str, local: Option<&LocalCluster>) -> Result<(Vec<String>, String)> {
    let (addresses, volume) = match (what.rsplit_once('/'), local) {
        (Some((addresses, volume)), _) => {
            let addresses = addresses.split(',').map(str::to_owned).collect();
            (addresses, volume)
        }
        (None, Some(local)) => (local.mrc_addresses(), what),
        (None, None) => {
            bail!("{what:?} names no metadata server; write HOST:PORT[,HOST:PORT...]/VOLUME")
        }
    };
    for address in &addresses {
        let port = address
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() {
            bail!("{address:?} is no address of a metadata server; write HOST:PORT");
        }
    }
    if volume.is_empty() {
        bail!("{what:?} names no volume; write HOST:PORT[,HOST:PORT...]/VOLUME");
    }
    Ok((addresses, volume.to_owned()))
}

/// Starts this program again in the background and waits until it has mounted.
fn in_background(
    arguments: &MountArguments,
    point: &Path,
    local: Option<&LocalCluster>,
) -> Result<()> {
    let number = std::process::id();
    let log = match (&arguments.log, local) {
        (Some(log), _) => log.clone(),
        (None, Some(local)) => local.log_file("mount"),
        (None, None) => std::env::temp_dir().join(format!("oxfs-mount-{number}.log")),
    };
    let again = repeated(arguments, point);
    let again: Vec<_> = again.iter().map(OsString::as_os_str).collect();
    let mut started = launch::mount(&again, log.clone(), point)?;
    let begun = Instant::now();
    while !mountpoint::is_mounted(point)? {
        readiness::check_alive(&mut started)?;
        if begun.elapsed() > READY_PATIENCE {
            bail!(
                "{} is not mounted after {} s; see {}",
                point.display(),
                READY_PATIENCE.as_secs(),
                log.display()
            );
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    println!(
        "mounted {} on {} (pid {}, log {}); `umount {}` ends it",
        arguments.what,
        point.display(),
        started.process.process.pid,
        log.display(),
        point.display()
    );
    Ok(())
}

/// Our own arguments, for the process in the background.
fn repeated(arguments: &MountArguments, point: &Path) -> Vec<OsString> {
    let mut again = vec![arguments.what.clone().into(), point.into()];
    for options in &arguments.options {
        again.extend(["-o".into(), options.into()]);
    }
    if let Some(dir) = &arguments.dir {
        again.extend(["--dir".into(), dir.into()]);
    }
    if let Some(secret_file) = &arguments.secret_file {
        again.extend(["--secret-file".into(), secret_file.into()]);
    }
    if let Some(cluster) = &arguments.cluster {
        again.extend(["--cluster".into(), cluster.into()]);
    }
    again
}

/// This mount in its local cluster's list of processes, so that the cluster's end ends it.
struct Record {
    cluster: LocalCluster,
    process: Process,
}

impl Record {
    fn new(cluster: LocalCluster, point: PathBuf) -> Result<Self> {
        let pid = std::process::id();
        let process = Process {
            name: format!("mount-{pid}"),
            role: "mount".to_owned(),
            id: u64::from(pid),
            address: String::new(),
            dir: point,
            process: ProcessId::of(pid)?,
        };
        Ok(Self { cluster, process })
    }

    fn write(&self) {
        if let Err(error) = self.cluster.remember(&self.process) {
            tracing::warn!(%error, "`oxfs down` will not end this mount: can't write its record");
        }
    }

    fn remove(&self) {
        self.cluster.forget(&self.process.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_volume_are_taken_apart() {
        let (addresses, volume) = parse_what("a:1,[::1]:2/home", None).unwrap();

        assert_eq!(addresses, ["a:1", "[::1]:2"]);
        assert_eq!(volume, "home");
    }

    #[test]
    fn what_lacks_an_address_or_volume_is_refused_with_the_form() {
        for what in ["home", "a:1/", "a/home", "a:x/home", ",a:1/home"] {
            let error = parse_what(what, None).unwrap_err().to_string();
            assert!(error.contains("HOST:PORT"), "{what}: {error}");
        }
    }
}
