//! From one connection to the next without losing a request, after the wire options changed.
//!
//! The next connection is made while the old one works. Then requests are held back for a moment
//! until those before them are answered, so that they stay in order; one that takes longer keeps
//! the old connection open in the background.

use std::sync::Arc;
use std::time::Duration;

use proto::link::Frame;
use tokio::sync::watch;
use tonic::Streaming;

use super::super::error::CallError;
use super::super::limits::{HAND_OVER_PATIENCE, REFUSED_PAUSE, RETIRED_LOOK};
use super::super::lock;
use super::super::options::WireOptions;
use super::super::server::wake;
use super::drive::{Connected, Failure, connect, read, receive};
use super::state::Phase;
use super::{Shared, guarded};

/// Uses a connection until it ends, replaces it when its options are not the wanted ones any more,
/// and says why the last one ended.
pub(super) async fn use_connection(
    shared: &Arc<Shared>,
    mut connection: Connected,
    changes: &mut watch::Receiver<WireOptions>,
) -> String {
    let waker = {
        let mut state = lock(&shared.state);
        state.enter(Phase::Connected);
        state.agreed = connection.options.agreed();
        state.turns.begin(connection.stream);
        state.outbox.take_waker()
    };
    wake(waker);
    guarded(|| shared.listener.connected());
    // One old connection at a time: dropped with this one, it ends.
    let mut retiring = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            reason = read(shared, &mut connection.inbound) => return reason,
            () = outdated(shared, &connection.options, changes) => {}
        }
        let next = async {
            while retiring.join_next().await.is_some() {}
            connect(shared).await
        };
        let next = tokio::select! {
            reason = read(shared, &mut connection.inbound) => return reason,
            next = next => next,
        };
        match next {
            Ok(next) => {
                let old = std::mem::replace(&mut connection, next);
                let finishing = Box::pin(finish(Arc::clone(shared), old, &connection));
                if let Some(rest) = within(HAND_OVER_PATIENCE, finishing).await {
                    retiring.spawn(rest);
                }
                take_over(shared, &connection);
            }
            Err(Failure::Unreachable(reason) | Failure::Refused(reason)) => {
                tracing::warn!(
                    address = shared.address, service = %shared.service, reason,
                    "no connection with the new wire options; the old one stays, and it is tried again"
                );
                let rest = tokio::time::sleep(REFUSED_PAUSE);
                tokio::select! {
                    reason = read(shared, &mut connection.inbound) => return reason,
                    () = rest => {}
                }
            }
        }
    }
}

/// Done once a connection made now would be another one.
async fn outdated(
    shared: &Shared,
    made_with: &WireOptions,
    changes: &mut watch::Receiver<WireOptions>,
) {
    let has_payloads = shared.service.has_payloads();
    let differs = |wanted: &WireOptions| wanted.makes_another_connection(made_with, has_payloads);
    if changes.wait_for(differs).await.is_err() {
        // The process ends.
        std::future::pending::<()>().await;
    }
}

/// Drives a future for so long, and gives it back if it is not done then.
async fn within<F: Future<Output = ()> + Unpin>(limit: Duration, mut work: F) -> Option<F> {
    tokio::time::timeout(limit, &mut work)
        .await
        .is_err()
        .then_some(work)
}

/// Holds back what is not sent yet, and ends the old connection when its requests are answered.
fn finish(
    shared: Arc<Shared>,
    mut old: Connected,
    next: &Connected,
) -> impl Future<Output = ()> + Send + 'static {
    let first_unsent = {
        let mut state = lock(&shared.state);
        state.turns.hold_for(next.stream);
        state.first_unsent()
    };
    async move {
        let waits = || lock(&shared.state).waits_before(first_unsent);
        while waits() {
            match one_frame(&mut old.inbound).await {
                Some(Ok(frame)) => receive(&shared, frame),
                Some(Err(reason)) => {
                    let address = &shared.address;
                    let reason = format!("the connection to {address} broke: {reason}");
                    let lost = lock(&shared.state).take_before(first_unsent);
                    for on_reply in lost {
                        shared.fail(on_reply, CallError::Disconnected(reason.clone()));
                    }
                }
                // Time to look whether anybody still waits.
                None => {}
            }
        }
        lock(&shared.state).turns.retired();
        // Until the server has read everything; it ends its side then.
        while let Some(Ok(frame)) = one_frame(&mut old.inbound).await {
            receive(&shared, frame);
        }
    }
}

/// The next frame; nothing after a while without one.
async fn one_frame(inbound: &mut Streaming<Frame>) -> Option<Result<Frame, String>> {
    let received = tokio::time::timeout(RETIRED_LOOK, inbound.message()).await;
    Some(match received.ok()? {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err("the server closed it".to_owned()),
        Err(status) => Err(status.message().to_owned()),
    })
}

fn take_over(shared: &Shared, connection: &Connected) {
    let waker = {
        let mut state = lock(&shared.state);
        state.agreed = connection.options.agreed();
        state.turns.release();
        state.outbox.take_waker()
    };
    wake(waker);
    tracing::info!(
        address = shared.address, service = %shared.service,
        "connected again with the new wire options"
    );
}
