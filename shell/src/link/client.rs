//! The calling end: one stream to one service of one server, connected again by itself.

mod drive;
mod hand_over;
mod state;
mod turns;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use proto::link::Kind;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::counts::Counts;
use super::encoding::{self, Packed};
use super::error::CallError;
use super::identity::{Identity, ServiceKind};
use super::limits::{LinkOptions, MESSAGE_BYTES_MAX};
use super::lock;
use super::payload::Payload;
use super::server::{message, oversized, wake};
use state::{Phase, State};

/// What happens once to the outcome of a request.
type OnReply = Box<dyn FnOnce(Result<(Bytes, Payload), CallError>) + Send>;

/// What the owner of a link wants to hear besides replies. Called on the link's task in order; must
/// neither block nor await.
pub trait Listener: Send + Sync + 'static {
    /// The server sent a message on its own.
    fn push(&self, body: Bytes, payload: Payload) {
        let _ = (body, payload);
    }

    /// The link is connected. Requests made before may already be on their way.
    fn connected(&self) {}

    /// The connection ended, or an attempt to connect failed; all requests of it have been told.
    fn disconnected(&self, reason: &str) {
        let _ = reason;
    }
}

struct Deaf;

impl Listener for Deaf {}

/// A link to one service of one server.
///
/// It connects with the first request and from then on again by itself, with growing pauses. While
/// it is not connected, requests wait for the attempt in progress or the next one (half a second
/// away at most) and fail if that fails.
pub struct Link {
    shared: Arc<Shared>,
    tasks: [AbortHandle; 2],
}

/// What the link, its tasks and its outgoing stream share.
struct Shared {
    identity: Identity,
    service: ServiceKind,
    address: String,
    options: LinkOptions,
    listener: Arc<dyn Listener>,
    state: Mutex<State>,
    /// The first request was made.
    wanted: Notify,
    /// A deadline is earlier than the one waited for.
    earlier: Notify,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("service", &self.shared.service)
            .field("address", &self.shared.address)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// A link that connects when it is first used.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime; the link's tasks run on the one it is opened in.
    #[must_use]
    pub fn open(
        identity: Identity,
        service: ServiceKind,
        address: String,
        options: LinkOptions,
    ) -> Arc<Self> {
        Self::open_with(identity, service, address, options, Arc::new(Deaf))
    }

    /// As [`open`](Self::open), with someone who hears what the server sends on its own.
    #[must_use]
    pub fn open_with(
        identity: Identity,
        service: ServiceKind,
        address: String,
        options: LinkOptions,
        listener: Arc<dyn Listener>,
    ) -> Arc<Self> {
        let mut state = State::default();
        state.agreed = identity.wire.get().agreed();
        state.counts = Arc::clone(identity.wire.counts());
        let shared = Arc::new(Shared {
            identity,
            service,
            address,
            options,
            listener,
            state: Mutex::new(state),
            wanted: Notify::new(),
            earlier: Notify::new(),
        });
        let runtime = Handle::current();
        let tasks = [
            runtime.spawn(drive::connect_forever(shared.clone())),
            runtime.spawn(drive::watch_deadlines(shared.clone())),
        ];
        Arc::new(Self {
            shared,
            tasks: tasks.map(|task| task.abort_handle()),
        })
    }

    /// How many messages were given to it to send.
    #[must_use]
    pub fn messages(&self) -> u64 {
        lock(&self.shared.state).messages()
    }

    /// Asks and waits for the reply.
    ///
    /// # Errors
    ///
    /// [`CallError`]; an undecodable reply is a fault.
    pub async fn call<Q: prost::Message, R: prost::Message + Default>(
        &self,
        body: &Q,
        payload: Payload,
        timeout: Duration,
    ) -> Result<(R, Payload), CallError> {
        let (reply, replied) = oneshot::channel();
        self.send(body, payload, timeout, move |outcome| {
            // The caller may have given up; then nobody wants to know.
            let _ = reply.send(outcome);
        });
        let (body, payload) = replied
            .await
            .map_err(|_| CallError::Disconnected(self.shared.closed_text()))??;
        let body = R::decode(body).map_err(|error| {
            // 71: EPROTO.
            CallError::Fault(types::Fault::surface(
                71,
                format!(
                    "{} sent a reply that is not decodable ({error}); \
                     run the same release on all machines",
                    self.shared.address
                ),
            ))
        })?;
        Ok((body, payload))
    }

    /// Asks and returns at once; requests leave in the order of the calls. `on_reply` runs exactly
    /// once: on the link's task, or before this returns if the request can't be sent. It must not
    /// block, and the caller must hold no lock that it takes.
    pub fn send<Q: prost::Message>(
        &self,
        body: &Q,
        payload: Payload,
        timeout: Duration,
        on_reply: impl FnOnce(Result<(Bytes, Payload), CallError>) + Send + 'static,
    ) {
        let body = Bytes::from(body.encode_to_vec());
        let size = body.len() + payload.bytes.len();
        if size > MESSAGE_BYTES_MAX {
            return on_reply(Err(CallError::Fault(oversized(size))));
        }
        let deadline = Instant::now() + timeout;
        let payload = self.shared.pack(payload);
        let mut state = lock(&self.shared.state);
        if let Err(error) = state.admit(size, &self.shared) {
            drop(state);
            self.shared.counts().failed(&error);
            return on_reply(Err(error));
        }
        let request_id = state.next_id();
        let earlier = state.expect(request_id, deadline, Box::new(on_reply));
        let first = state.is_first_use();
        let waker = state
            .outbox
            .push(message(request_id, Kind::Request, body, payload));
        drop(state);
        wake(waker);
        if earlier {
            self.shared.earlier.notify_one();
        }
        if first {
            self.shared.wanted.notify_one();
        }
    }

    /// Sends a message that wants no answer. False if it is dropped at once: the queue is full, or
    /// the server was out of reach a moment ago. It may also be lost later.
    pub fn push<Q: prost::Message>(&self, body: &Q) -> bool {
        self.push_with(body, Payload::none())
    }

    /// As [`push`](Self::push), with file bytes.
    pub fn push_with<Q: prost::Message>(&self, body: &Q, payload: Payload) -> bool {
        self.push_bytes(body.encode_to_vec().into(), payload)
    }

    /// As [`push`](Self::push), for a body that the caller has encoded.
    pub fn push_encoded(&self, body: Bytes) -> bool {
        self.push_bytes(body, Payload::none())
    }

    fn push_bytes(&self, body: Bytes, payload: Payload) -> bool {
        let size = body.len() + payload.bytes.len();
        if size > MESSAGE_BYTES_MAX {
            return false;
        }
        let payload = self.shared.pack(payload);
        let mut state = lock(&self.shared.state);
        if matches!(state.phase, Phase::Resting) {
            return false;
        }
        if let Err(error) = state.admit(size, &self.shared) {
            self.shared.counts().failed(&error);
            return false;
        }
        let first = state.is_first_use();
        let waker = state.outbox.push(message(0, Kind::Push, body, payload));
        drop(state);
        wake(waker);
        if first {
            self.shared.wanted.notify_one();
        }
        true
    }

    /// Whether the link is connected now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(lock(&self.shared.state).phase, Phase::Connected)
    }

    /// Where it leads.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// Unanswered requests.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        lock(&self.shared.state).in_flight()
    }

    /// Ends the link for good; what is unanswered fails.
    pub fn close(&self) {
        for task in &self.tasks {
            task.abort();
        }
        self.shared.fail_all(Phase::Closed, |shared| {
            CallError::Disconnected(shared.closed_text())
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Makes a payload what the connection's ends agreed on. Not under the link's lock.
    fn pack(&self, payload: Payload) -> Packed {
        if payload.is_empty() {
            return Packed::default();
        }
        let agreed = lock(&self.state).agreed;
        encoding::pack(payload, agreed)
    }

    /// Of all links of the process.
    fn counts(&self) -> &Counts {
        self.identity.wire.counts()
    }

    /// Tells a request's owner that it has no reply.
    fn fail(&self, on_reply: OnReply, error: CallError) {
        self.counts().failed(&error);
        guarded(|| on_reply(Err(error)));
    }

    fn closed_text(&self) -> String {
        format!("the link to {} was closed", self.address)
    }

    /// Ends the connection or attempt, if any, and tells every unanswered request.
    fn fail_all(&self, phase: Phase, error: impl Fn(&Self) -> CallError) {
        let (pending, waker) = {
            let mut state = lock(&self.state);
            if matches!(state.phase, Phase::Closed) {
                return;
            }
            state.phase = phase;
            state.turns.end_all();
            (state.take_pending(), state.outbox.clear())
        };
        wake(waker);
        for on_reply in pending {
            self.fail(on_reply, error(self));
        }
    }
}

/// Calls into the link's owner. A panic there must not leave a link that looks alive and does
/// nothing.
fn guarded(call: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(call)).is_err() {
        tracing::error!("a link's owner panicked; the link goes on");
    }
}
