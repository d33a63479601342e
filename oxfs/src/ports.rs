//! Free ports for a new cluster.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::config::{PORT_FIRST, PORT_PATIENCE, PORT_PAUSE, PORT_TRIES_MAX};

/// Chooses `count` different loopback ports that nobody listens on now.
pub(crate) fn choose(count: usize) -> Result<Vec<u16>> {
    let end = first_outgoing_port();
    let mut chosen = HashSet::new();
    for _ in 0..PORT_TRIES_MAX {
        if chosen.len() == count {
            break;
        }
        let port = rand::random_range(PORT_FIRST..end);
        if is_free(port) {
            chosen.insert(port);
        }
    }
    if chosen.len() < count {
        bail!("found no {count} free ports between {PORT_FIRST} and {end}");
    }
    let mut ports: Vec<u16> = chosen.into_iter().collect();
    ports.sort_unstable();
    Ok(ports)
}

/// Says if a server can't start because somebody else has its port.
///
/// A process that was just killed keeps its port until the last of its threads is gone, so a port
/// in use is looked at again for [`PORT_PATIENCE`].
pub(crate) fn check_free(address: &str) -> Result<()> {
    let started = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Ok(_) => return Ok(()),
            Err(error)
                if error.kind() == ErrorKind::AddrInUse && started.elapsed() < PORT_PATIENCE =>
            {
                std::thread::sleep(PORT_PAUSE);
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "its address {address} can't be used; stop the program that listens there"
                    )
                });
            }
        }
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn first_outgoing_port() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .filter(|&first| first > PORT_FIRST + 1_000)
        .unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_ports_differ_and_are_free() {
        let ports = choose(6).unwrap();

        let different: HashSet<_> = ports.iter().collect();
        assert_eq!(different.len(), 6);
        for port in ports {
            assert!(check_free(&format!("127.0.0.1:{port}")).is_ok());
        }
    }

    #[test]
    fn taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();

        let error = check_free(&address).unwrap_err().to_string();

        assert!(error.contains(&address), "{error}");
    }
}
