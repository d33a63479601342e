//! Listening sockets with errors that say what to do.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

/// An address nobody can listen on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Somebody else listens there.
    #[error("port {} of {} is in use; stop the program that uses it or choose another port", address.port(), address.ip())]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("can't listen on {address}: {cause}")]
    Failed {
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
}

/// Listens on an address.
///
/// # Errors
///
/// [`ListenError`].
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|cause| {
        if cause.kind() == io::ErrorKind::AddrInUse {
            ListenError::InUse { address }
        } else {
            ListenError::Failed { address, cause }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn taken_port_is_named() {
        let first = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = first.local_addr().unwrap();

        let error = bind(address).await.unwrap_err();

        assert!(
            error
                .to_string()
                .contains(&format!("port {}", address.port()))
        );
    }
}
