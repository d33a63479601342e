//! Debian packages that a verb needs: installed as root, named to everybody else.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::run::run;

/// A program and the Debian package that brings it.
pub(crate) struct Need {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
}

/// To mount: the servers and the mount need nothing but the kernel, unmounting as a user needs fusermount3.
pub(crate) const MOUNT: &[Need] = &[Need {
    program: "fusermount3",
    package: "fuse3",
}];

/// To run all tests.
pub(crate) const TEST: &[Need] = &[
    Need {
        program: "ip",
        package: "iproute2",
    },
    Need {
        program: "nft",
        package: "nftables",
    },
    Need {
        program: "fusermount3",
        package: "fuse3",
    },
    Need {
        program: "git",
        package: "git",
    },
    Need {
        program: "sqlite3",
        package: "sqlite3",
    },
    Need {
        program: "tar",
        package: "tar",
    },
    Need {
        program: "rsync",
        package: "rsync",
    },
    // Where there is another ZFS already, that one is tested: the package would remove it.
    Need {
        program: "zfs",
        package: "zfs-fuse",
    },
];

/// To break a cluster: namespaces, packet filters, small disks, images of disks, stepping through
/// system calls.
pub(crate) const CHAOS: &[Need] = &[
    Need {
        program: "fusermount3",
        package: "fuse3",
    },
    Need {
        program: "ip",
        package: "iproute2",
    },
    Need {
        program: "nft",
        package: "nftables",
    },
    Need {
        program: "mkfs.ext4",
        package: "e2fsprogs",
    },
    Need {
        program: "mkfs.btrfs",
        package: "btrfs-progs",
    },
    Need {
        program: "strace",
        package: "strace",
    },
];

/// What the lease benchmark compares with. ZooKeeper's program is no executable.
pub(crate) const LEASE_PEERS: &[Need] = &[
    Need {
        program: "/usr/share/java/zookeeper.jar",
        package: "zookeeper",
    },
    Need {
        program: "etcd",
        package: "etcd-server",
    },
];

/// What the file system benchmark can compare with.
pub(crate) const FS_PEERS: &[Need] = &[
    Need {
        program: "glusterd",
        package: "glusterfs-server",
    },
    Need {
        program: "mfsmaster",
        package: "moosefs-master",
    },
    Need {
        program: "mfschunkserver",
        package: "moosefs-chunkserver",
    },
    Need {
        program: "mfsmount",
        package: "moosefs-client",
    },
    Need {
        program: "nsenter",
        package: "util-linux",
    },
    Need {
        program: "ip",
        package: "iproute2",
    },
];

/// Debian asks this program whether a service may be started when its package is installed; 101 means no.
/// See invoke-rc.d(8).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// As [`install_missing`], for packages with services: none is started or enabled to run now.
///
/// # Errors
///
/// As [`install_missing`].
pub(crate) fn install_stopped(needs: &[Need]) -> Result<()> {
    if missing(needs).is_empty() {
        return Ok(());
    }
    let is_ours = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(POLICY)
        .and_then(|mut file| file.write_all(b"#!/bin/sh\nexit 101\n"))
        .is_ok();
    let outcome = install_missing(needs);
    if is_ours {
        std::fs::remove_file(POLICY)?;
    }
    outcome
}

/// Installs the packages whose programs are missing.
///
/// # Errors
///
/// Without root: one sentence with the command to run. With root: what apt-get said.
pub(crate) fn install_missing(needs: &[Need]) -> Result<()> {
    match &missing(needs)[..] {
        [] => Ok(()),
        missing => install(missing),
    }
}

fn missing(needs: &[Need]) -> Vec<&'static str> {
    let missing = needs.iter().filter(|need| !on_path(need.program));
    missing.map(|need| need.package).collect()
}

/// As [`install_stopped`], and sees to it that something can be mounted.
///
/// # Errors
///
/// As [`install_stopped`]; one sentence if there is no FUSE.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    install_stopped(needs)?;
    if !Path::new("/dev/fuse").exists() {
        bail!(
            "/dev/fuse is missing: this kernel or container has no FUSE; `modprobe fuse`, or start the container with --device /dev/fuse"
        );
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    let is_root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|out| out.stdout == b"0\n");
    if !is_root || !on_path("apt-get") {
        bail!("missing programs; install them and start again: sudo apt-get install {list}");
    }
    run("apt-get", &["update", "-q"])?;
    run(
        "apt-get",
        &[
            &["install", "-y", "-q", "--no-install-recommends"],
            packages,
        ]
        .concat(),
    )
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}
