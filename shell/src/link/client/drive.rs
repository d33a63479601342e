//! The two tasks of a link: one connects and reads, one watches deadlines.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Uri;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use proto::link::{Frame, Kind, Message};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use tonic::transport::Endpoint;
use tonic::{Request, Status, Streaming};

use super::super::dial::dial;
use super::super::encoding::{self, Agreed};
use super::super::error::CallError;
use super::super::handshake;
use super::super::limits::{
    CONNECTION_WINDOW_BYTES, FRAME_DECODE_BYTES_MAX, HTTP2_FRAME_BYTES, REFUSED_PAUSE,
    STABLE_AFTER, STREAM_WINDOW_BYTES,
};
use super::super::lock;
use super::super::options::WireOptions;
use super::super::server::wake;
use super::super::wire::link_client::LinkClient;
use super::hand_over::use_connection;
use super::state::Phase;
use super::turns::Turn;
use super::{OnReply, Shared, guarded};

/// Why there is no connection.
pub(super) enum Failure {
    /// For now.
    Unreachable(String),
    /// Until an operator changes something.
    Refused(String),
}

/// Connects when first wanted, reads until the connection ends, and again.
pub(super) async fn connect_forever(shared: Arc<Shared>) {
    shared.wanted.notified().await;
    let mut pause = shared.options.backoff_min;
    let mut changes = shared.identity.wire.subscribe();
    loop {
        lock(&shared.state).enter(Phase::Connecting);
        let begun = Instant::now();
        let failure = match connect(&shared).await {
            Ok(connection) => {
                let since = Instant::now();
                let reason = use_connection(&shared, connection, &mut changes).await;
                if since.elapsed() >= STABLE_AFTER {
                    pause = shared.options.backoff_min;
                }
                Failure::Unreachable(reason)
            }
            Err(failure) => failure,
        };
        let rest = match &failure {
            Failure::Unreachable(reason) => {
                tracing::debug!(address = shared.address, service = %shared.service, reason, "not connected");
                shared.fail_all(Phase::Resting, |_| CallError::Disconnected(reason.clone()));
                guarded(|| shared.listener.disconnected(reason));
                // From the beginning of this attempt: one that waited for an answer has rested.
                let rest = pause.mul_f64(rand::random_range(0.75..1.0));
                let rest = rest.saturating_sub(begun.elapsed());
                pause = (pause * 2).min(shared.options.backoff_max);
                rest
            }
            Failure::Refused(reason) => {
                tracing::warn!(address = shared.address, service = %shared.service, reason, "refused");
                shared.fail_all(Phase::Refused(reason.clone()), |_| {
                    CallError::Refused(reason.clone())
                });
                guarded(|| shared.listener.disconnected(reason));
                REFUSED_PAUSE
            }
        };
        tokio::time::sleep(rest).await;
    }
}

/// A connection whose server has proved itself.
pub(super) struct Connected {
    pub(super) inbound: Streaming<Frame>,
    /// Its number among the link's streams.
    pub(super) stream: u64,
    /// What it was made with.
    pub(super) options: WireOptions,
}

pub(super) async fn connect(shared: &Arc<Shared>) -> Result<Connected, Failure> {
    let address = &shared.address;
    let options = shared.identity.wire.get();
    let limit = options.connect_timeout();
    match tokio::time::timeout(limit, handshake(shared, options)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Unreachable(format!(
            "{address} did not answer within {} ms",
            limit.as_millis()
        ))),
    }
}

async fn handshake(shared: &Arc<Shared>, options: WireOptions) -> Result<Connected, Failure> {
    let address = &shared.address;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| Failure::Refused(format!("{address:?} is no address; write HOST:PORT")))?
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .http2_keep_alive_interval(options.keepalive())
        .keep_alive_timeout(options.keepalive_timeout())
        .keep_alive_while_idle(true);
    let unreachable = |error: &(dyn std::error::Error + 'static)| {
        Failure::Unreachable(format!("can't connect to {address}: {}", root_of(error)))
    };
    let stream = dial(address, &options)
        .await
        .map_err(|error| unreachable(&error))?;
    let channel = endpoint
        .connect_with_connector(Dialled(Some(stream)))
        .await
        .map_err(|error| unreachable(&error))?;
    let mut client = LinkClient::new(channel)
        .max_decoding_message_size(FRAME_DECODE_BYTES_MAX)
        .max_encoding_message_size(FRAME_DECODE_BYTES_MAX);
    let agreed = options.agreed();
    let (greeting, nonce) = handshake::greeting(&shared.identity, shared.service, agreed);
    // Nothing is said to a server that has not proved itself yet: the stream waits for its turn.
    let stream = lock(&shared.state).turns.next();
    let mut request = Request::new(Outgoing {
        shared: shared.clone(),
        stream,
    });
    *request.metadata_mut() = greeting;
    let response = client
        .exchange(request)
        .await
        .map_err(|status| failure_of(address, &status))?;
    check_answer(shared, response.metadata(), &nonce, agreed)?;
    Ok(Connected {
        inbound: response.into_inner(),
        stream,
        options,
    })
}

fn check_answer(
    shared: &Shared,
    answer: &MetadataMap,
    nonce: &str,
    agreed: Agreed,
) -> Result<(), Failure> {
    if handshake::is_answer(answer, nonce, agreed, &shared.identity.secret) {
        if handshake::is_spoken(answer) {
            return Ok(());
        }
        return Err(Failure::Refused(format!(
            "{} answers in another version of the protocol than it was asked in; run the same release on both",
            shared.address
        )));
    }
    Err(Failure::Refused(format!(
        "{} does not know the secret of cluster {}; check the address",
        shared.address, shared.identity.cluster
    )))
}

/// Reads until the connection ends, and says why it did.
pub(super) async fn read(shared: &Arc<Shared>, inbound: &mut Streaming<Frame>) -> String {
    let address = &shared.address;
    loop {
        match inbound.message().await {
            Ok(Some(frame)) => receive(shared, frame),
            Ok(None) => return format!("{address} closed the connection"),
            Err(status) => {
                return format!("the connection to {address} broke: {}", status.message());
            }
        }
    }
}

pub(super) fn receive(shared: &Arc<Shared>, frame: Frame) {
    // One lock for all replies of the frame; what their owners send next leaves together.
    let mut replies: Vec<(Option<OnReply>, Message)> = Vec::with_capacity(frame.messages.len());
    let agreed = {
        let mut state = lock(&shared.state);
        state.outbox.cork();
        for message in frame.messages {
            let owner = match message.kind() {
                Kind::Response | Kind::Fault => state.answered(message.request_id),
                Kind::Push | Kind::Request | Kind::Unspecified => None,
            };
            replies.push((owner, message));
        }
        state.agreed
    };
    for (owner, mut message) in replies {
        match (owner, message.kind()) {
            (Some(on_reply), Kind::Response) => {
                let unpacked = encoding::unpack(&mut message, agreed);
                let reply = unpacked.map(|payload| (message.body, payload));
                guarded(|| on_reply(reply.map_err(CallError::Fault)));
            }
            (Some(on_reply), _) => {
                shared.fail(on_reply, CallError::Fault(fault_of(&message.body)));
            }
            (None, Kind::Push) => match encoding::unpack(&mut message, agreed) {
                Ok(payload) => guarded(|| shared.listener.push(message.body, payload)),
                Err(fault) => tracing::warn!(reason = fault.message, "lost a message"),
            },
            // The request's time was over before.
            (None, _) => {}
        }
    }
    let waker = lock(&shared.state).outbox.uncork();
    wake(waker);
}

fn fault_of(body: &Bytes) -> types::Fault {
    match proto::link::Fault::decode(body.clone()) {
        Ok(fault) => fault.into(),
        // 71: EPROTO.
        Err(error) => {
            types::Fault::surface(71, format!("the server's fault is not decodable: {error}"))
        }
    }
}

/// Tells requests whose time is over.
pub(super) async fn watch_deadlines(shared: Arc<Shared>) {
    loop {
        let next = lock(&shared.state).next_look();
        let Some(at) = next else {
            shared.earlier.notified().await;
            continue;
        };
        tokio::select! {
            () = tokio::time::sleep_until(at) => {}
            () = shared.earlier.notified() => continue,
        }
        let expired = lock(&shared.state).expire(Instant::now());
        for on_reply in expired {
            shared.fail(on_reply, CallError::Timeout);
        }
    }
}

/// The connection that was made already, for a library that wants to make it itself.
struct Dialled(Option<TcpStream>);

impl Service<Uri> for Dialled {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        // A second one would be a connection without its handshake: the link makes a new one.
        ready(
            self.0
                .take()
                .map(TokioIo::new)
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection ended")),
        )
    }
}

fn failure_of(address: &str, status: &Status) -> Failure {
    let text = format!("{address} refused the connection: {}", status.message());
    if handshake::is_refusal(status) {
        Failure::Refused(text)
    } else {
        Failure::Unreachable(text)
    }
}

/// The innermost cause, which is what helps: "Connection refused" instead of "transport error".
fn root_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// What leaves through one connection.
struct Outgoing {
    shared: Arc<Shared>,
    stream: u64,
}

impl Stream for Outgoing {
    type Item = Frame;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        let shared = self.shared.clone();
        let mut state = lock(&shared.state);
        match state.turns.of(self.stream) {
            Turn::Over => Poll::Ready(None),
            Turn::Wait => {
                state.turns.wait(context.waker());
                Poll::Pending
            }
            Turn::Send => match state.pack(context.waker()) {
                Some(frame) => Poll::Ready(Some(frame)),
                None => Poll::Pending,
            },
        }
    }
}
