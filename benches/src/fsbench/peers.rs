//! Other file systems, started as real processes of this machine with three replicas each.
//!
//! Each lives in a network namespace of its own, since MooseFS refuses loopback's address; so their
//! ports are nobody's, and the namespace knows which processes to end.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::process::{MountPoint, Namespace, TempDir};
use clap::ValueEnum;

/// The servers' address inside their namespace, on its loopback device.
const ADDRESS: &str = "10.77.0.1";
/// How long a system may take until its mount can be written to.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Copies of everything, and storage servers.
const REPLICAS: usize = 3;

/// A system of Debian that can be compared with.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum System {
    /// Three bricks, replica 3.
    Glusterfs,
    /// One master, three chunk servers, goal 3.
    Moosefs,
}

impl System {
    const fn name(self) -> &'static str {
        match self {
            Self::Glusterfs => "glusterfs",
            Self::Moosefs => "moosefs",
        }
    }
}

/// A running system; unmounted, ended and removed when dropped, in the order of its fields.
#[derive(Debug)]
pub(crate) struct Peer {
    system: System,
    mount: MountPoint,
    namespace: Namespace,
    dir: TempDir,
}

impl Peer {
    /// Starts the servers and mounts their file system.
    pub(crate) fn start(system: System) -> Result<Self> {
        let dir = TempDir::new(&std::env::temp_dir(), system.name())?;
        let peer = Self {
            system,
            mount: MountPoint::new(dir.path().join(system.name()))?,
            namespace: Namespace::new(system.name())?,
            dir,
        };
        peer.namespace.add_address(ADDRESS)?;
        match system {
            System::Glusterfs => peer.glusterfs(),
            System::Moosefs => peer.moosefs(),
        }
        .with_context(|| format!("starting {}", system.name()))?;
        peer.wait()?;
        Ok(peer)
    }

    /// Where it is mounted.
    pub(crate) fn mount(&self) -> PathBuf {
        self.mount.path().to_owned()
    }

    fn glusterfs(&self) -> Result<()> {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        for name in ["work", "run", "brick-1", "brick-2", "brick-3"] {
            fs::create_dir(at(name))?;
        }
        let socket = at("glusterd.socket");
        let volfile = format!(
            "volume management\n type mgmt/glusterd\n option working-directory {}\n \
             option run-directory {}\n option glusterd-sockfile {socket}\n option transport-type socket\n \
             option transport.socket.bind-address {ADDRESS}\n option transport.socket.listen-port 24007\n\
             end-volume\n",
            at("work"),
            at("run")
        );
        fs::write(at("glusterd.vol"), volfile)?;
        let (volfile, pid, log) = (at("glusterd.vol"), at("glusterd.pid"), at("glusterd.log"));
        self.namespace
            .run(&["glusterd", "-f", &volfile, "-p", &pid, "-l", &log])?;
        let asked = format!("--glusterd-sock={socket}");
        let admin = ["gluster", "--mode=script", &asked, "volume"];
        let bricks: Vec<String> = (1..=REPLICAS)
            .map(|number| format!("{ADDRESS}:{}", at(&format!("brick-{number}"))))
            .collect();
        let replicas = REPLICAS.to_string();
        let create = [
            &admin,
            &["create", "bench", "replica", &replicas][..],
            &bricks.iter().map(String::as_str).collect::<Vec<_>>(),
            &["force"],
        ]
        .concat();
        self.until_done(&create)?;
        self.namespace
            .run(&[&admin[..], &["start", "bench"]].concat())?;
        let server = format!("--volfile-server={ADDRESS}");
        let (log, mount) = (at("mount.log"), at(self.system.name()));
        self.namespace.run(&[
            "glusterfs",
            &server,
            "--volfile-id=bench",
            "-l",
            &log,
            &mount,
        ])
    }

    fn moosefs(&self) -> Result<()> {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let common =
            |data: &str| format!("WORKING_USER = root\nWORKING_GROUP = root\nDATA_PATH = {data}\n");
        fs::create_dir(at("master"))?;
        // What its package installs as an empty file system.
        fs::write(at("master/metadata.mfs"), "MFSM NEW")?;
        fs::write(at("exports"), "* / rw,alldirs,admin,maproot=0:0\n")?;
        fs::write(at("topology"), "")?;
        let master = format!(
            "{}EXPORTS_FILENAME = {}\nTOPOLOGY_FILENAME = {}\nMATOML_LISTEN_HOST = {ADDRESS}\n\
             MATOCS_LISTEN_HOST = {ADDRESS}\nMATOCL_LISTEN_HOST = {ADDRESS}\n",
            common(&at("master")),
            at("exports"),
            at("topology")
        );
        fs::write(at("master.cfg"), master)?;
        self.namespace
            .run(&["mfsmaster", "-c", &at("master.cfg"), "start"])?;
        for number in 1..=REPLICAS {
            let home = at(&format!("chunkserver-{number}"));
            fs::create_dir_all(format!("{home}/data"))?;
            fs::write(format!("{home}/disks"), format!("{home}/data\n"))?;
            let config = format!(
                "{}HDD_CONF_FILENAME = {home}/disks\nHDD_LEAVE_SPACE_DEFAULT = 256MiB\n\
                 BIND_HOST = {ADDRESS}\nMASTER_HOST = {ADDRESS}\nCSSERV_LISTEN_HOST = {ADDRESS}\n\
                 CSSERV_LISTEN_PORT = {}\n",
                common(&home),
                9500 + number
            );
            fs::write(format!("{home}/config"), config)?;
            let config = format!("{home}/config");
            self.namespace
                .run(&["mfschunkserver", "-c", &config, "start"])?;
        }
        let mount = at(self.system.name());
        self.until_done(&["mfsmount", "-H", ADDRESS, &mount])?;
        let goal = REPLICAS.to_string();
        self.until_done(&["mfssetgoal", "-r", &goal, &mount])
    }

    /// Waits until a file can be written: servers that were started are not connected yet.
    fn wait(&self) -> Result<()> {
        let file = self.mount.path().join("probe");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let written = fs::write(&file, "probe").and_then(|()| fs::remove_file(&file));
            match written {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context(format!(
                        "{} can't be written to after {PATIENCE:?}",
                        self.system.name()
                    ));
                }
                Err(_) => sleep(ASK_AGAIN),
            }
        }
    }

    /// Runs it again until it succeeds: what it asks may not listen yet.
    fn until_done(&self, words: &[&str]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.namespace.run(words) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => sleep(ASK_AGAIN),
            }
        }
    }
}

/// Says what to install if a system is not there.
pub(crate) fn installed(systems: &[System]) -> Result<()> {
    for system in systems {
        let (program, packages) = match system {
            System::Glusterfs => ("glusterd", "glusterfs-server"),
            System::Moosefs => (
                "mfsmaster",
                "moosefs-master moosefs-chunkserver moosefs-client",
            ),
        };
        ensure!(
            Path::new("/usr/sbin").join(program).exists(),
            "no {} here: apt-get install {packages}",
            system.name()
        );
    }
    Ok(())
}
