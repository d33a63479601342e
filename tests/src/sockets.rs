//! TCP connections of a process, as the kernel lists them.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};

/// An established connection.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Socket {
    /// Its end in the process.
    pub local: SocketAddr,
    /// Its other end.
    pub remote: SocketAddr,
}

/// State of an established connection in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// Established IPv4 connections of a process.
///
/// # Errors
///
/// If `/proc` can't be read.
pub fn sockets(pid: i32) -> Result<BTreeSet<Socket>> {
    let mut inodes = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // Closed since it was listed.
        let Ok(target) = fs::read_link(entry?.path()) else {
            continue;
        };
        let target = target.to_string_lossy().into_owned();
        if let Some(inode) = target.strip_prefix("socket:[") {
            inodes.insert(inode.trim_end_matches(']').to_owned());
        }
    }
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    let mut found = BTreeSet::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [_, local, remote, ESTABLISHED, _, _, _, _, _, inode, ..] = fields[..]
            && inodes.contains(inode)
        {
            found.insert(Socket {
                local: address(local)?,
                remote: address(remote)?,
            });
        }
    }
    Ok(found)
}

/// `0100007F:1F90`: the address as the machine stores it, the port as a number.
fn address(text: &str) -> Result<SocketAddr> {
    let (ip, port) = text.split_once(':').context("no port")?;
    let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16)?.to_ne_bytes());
    Ok((ip, u16::from_str_radix(port, 16)?).into())
}
