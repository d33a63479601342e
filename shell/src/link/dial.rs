//! TCP connections that notice soon when nothing gets through any more.
//!
//! TCP repeats what is not acknowledged after 0.2 s and then waits twice as long each time, up to
//! minutes: after a cut of some seconds it would stay silent for seconds more although the network
//! works again. So a connection ends when the other machine has acknowledged nothing for
//! [`network_timeout_ms`](super::WireOptions::network_timeout_ms), and new ones are tried in quick
//! succession. (`TCP_USER_TIMEOUT`, RFC 5482, tcp(7).)

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};

use super::options::WireOptions;

/// Addresses of a name that are tried, one after the other. 8: more machines have none.
const ADDRESSES_MAX: usize = 8;

/// Connects to `HOST:PORT`.
///
/// # Errors
///
/// What the system said about the last address tried, or that it did not accept in time.
pub(super) async fn dial(address: &str, options: &WireOptions) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for found in lookup_host(address).await?.take(ADDRESSES_MAX) {
        let limit = options.dial_timeout();
        match tokio::time::timeout(limit, dial_one(found, options)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => {
                let text = format!("{found} did not accept within {} ms", limit.as_millis());
                last = io::Error::new(io::ErrorKind::TimedOut, text);
            }
        }
    }
    Err(last)
}

async fn dial_one(address: SocketAddr, options: &WireOptions) -> io::Result<TcpStream> {
    let (socket, any) = match address {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        SocketAddr::V6(_) => (TcpSocket::new_v6()?, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    if let Some(source) = options.source_address {
        if source.is_ipv4() != any.is_ipv4() {
            let text = format!("`wire.source_address` {source} can't reach {address}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        socket.bind(SocketAddr::new(source, 0)).map_err(|error| {
            let text = format!("`wire.source_address` {source} can't be used: {error}");
            io::Error::new(error.kind(), text)
        })?;
    }
    socket.set_nodelay(true)?;
    end_when_cut(&socket, options.network_timeout())?;
    socket.connect(address).await
}

/// Has a connection end when the other machine acknowledges nothing for so long. Set at a listening
/// socket, it holds for the connections that are accepted from then on.
///
/// # Errors
///
/// What the system said.
pub(super) fn end_when_cut(socket: &impl AsFd, timeout: Duration) -> io::Result<()> {
    let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    Ok(setsockopt(socket, sockopt::TcpUserTimeout, &milliseconds)?)
}
