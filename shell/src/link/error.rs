//! What can go wrong with a request or a listening socket.

use types::Fault;

/// A request without a reply.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The server did not do it and says what to do next.
    #[error("{0}")]
    Fault(Fault),
    /// The connection ended, or could not be made; nobody knows whether the request was done.
    #[error("{0}")]
    Disconnected(String),
    /// No reply within the request's time; nobody knows whether it was or will be done.
    #[error("no reply in time")]
    Timeout,
    /// The server does not talk to us; only an operator can change that.
    #[error("{0}")]
    Refused(String),
    /// Too many unanswered requests or queued bytes on this link; the request was not sent.
    #[error("too many requests are waiting for this server")]
    Full,
}

/// A server that could not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The transport failed.
    #[error("the listening socket failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The system refused an option of the socket.
    #[error("the listening socket can't be set up: {0}")]
    Socket(#[from] std::io::Error),
}
