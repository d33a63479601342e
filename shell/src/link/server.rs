//! The called end: accepts streams, hands requests to handlers, sends their answers.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use prost::Message as _;
use proto::link::{Frame, Kind, Message};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_stream::Stream;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use types::Fault;

use super::dial::end_when_cut;
use super::encoding::{self, Agreed, Packed};
use super::error::LinkError;
use super::handshake;
use super::identity::{Caller, Identity, ServiceKind};
use super::limits::{
    CONNECTION_WINDOW_BYTES, FRAME_DECODE_BYTES_MAX, HTTP2_FRAME_BYTES, MESSAGE_BYTES_MAX,
    SERVER_IN_PROGRESS_MAX, SERVER_QUEUE_BYTES_MAX, SHUTDOWN_GRACE, STREAM_WINDOW_BYTES,
};
use super::lock;
use super::options::Wire;
use super::outbox::Outbox;
use super::payload::Payload;
use super::refusals::{Reason, Refusals};
use super::served::Served;
use super::wire::link_server::{Link as Exchange, LinkServer};

/// What a service does with the messages of its callers.
pub trait Handler: Send + Sync + 'static {
    /// A request. Called on the connection's reader task in the order of arrival; must neither
    /// block nor await. The responder may be used now or later, from any thread.
    fn request(&self, from: &Arc<Connection>, body: Bytes, payload: Payload, responder: Responder);

    /// A message that wants no answer. As [`request`](Self::request).
    fn push(&self, from: &Arc<Connection>, body: Bytes, payload: Payload) {
        let _ = (from, body, payload);
    }

    /// The connection is open; its first message follows.
    fn opened(&self, connection: &Arc<Connection>) {
        let _ = connection;
    }

    /// The connection ended; nothing of it follows.
    fn closed(&self, from: &Arc<Connection>) {
        let _ = from;
    }
}

/// The called end of one stream.
pub struct Connection {
    caller: Caller,
    service: ServiceKind,
    pub(super) agreed: Agreed,
    sending: Mutex<Sending>,
    in_progress: AtomicUsize,
    gone: Notify,
    served: Arc<Served>,
}

#[derive(Default)]
struct Sending {
    outbox: Outbox,
    closed: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("caller", &self.caller)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Who is at the other end.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Sends a message that wants no answer. False if the connection is gone or its queue full.
    pub fn push<M: prost::Message>(&self, body: &M, payload: Payload) -> bool {
        let body = Bytes::from(body.encode_to_vec());
        if body.len() + payload.bytes.len() > MESSAGE_BYTES_MAX {
            return false;
        }
        let payload = encoding::pack(payload, self.agreed);
        self.enqueue(message(0, Kind::Push, body, payload))
    }

    /// Whether the connection ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        lock(&self.sending).closed
    }

    /// Ends the connection; what is queued is not sent.
    pub fn close(&self) {
        let waker = {
            let mut sending = lock(&self.sending);
            sending.closed = true;
            sending.outbox.clear()
        };
        wake(waker);
        self.gone.notify_one();
    }

    fn enqueue(&self, message: Message) -> bool {
        let waker = {
            let mut sending = lock(&self.sending);
            if sending.closed {
                return false;
            }
            if sending.outbox.bytes() > SERVER_QUEUE_BYTES_MAX {
                drop(sending);
                self.served.too_many_replies();
                tracing::warn!(
                    caller = %self.caller.role, id = self.caller.id, service = %self.service,
                    "closing a connection whose other end does not read"
                );
                self.close();
                return false;
            }
            sending.outbox.push(message)
        };
        wake(waker);
        true
    }
}

/// The right and duty to answer one request. Dropped unanswered, it answers with a retry.
#[must_use = "a dropped responder answers with a fault"]
pub struct Responder {
    connection: Option<Arc<Connection>>,
    request_id: u64,
    begun: Instant,
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder")
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}

impl Responder {
    /// Who asked.
    #[must_use]
    pub fn caller(&self) -> Option<&Caller> {
        self.connection.as_deref().map(Connection::caller)
    }

    /// Answers.
    pub fn ok<M: prost::Message>(mut self, body: &M, payload: Payload) {
        let body = Bytes::from(body.encode_to_vec());
        let size = body.len() + payload.bytes.len();
        if size > MESSAGE_BYTES_MAX {
            let fault = oversized(size);
            self.answer_fault(&fault);
        } else {
            self.answer(Kind::Response, body, payload);
        }
    }

    /// Says that it was not done, why, and what to do next.
    pub fn fault(mut self, fault: Fault) {
        self.answer_fault(&fault);
    }

    fn answer_fault(&mut self, fault: &Fault) {
        if let Some(connection) = &self.connection {
            connection.served.failed(fault.remedy);
        }
        self.answer(Kind::Fault, fault_body(fault), Payload::none());
    }

    fn answer(&mut self, kind: Kind, body: Bytes, payload: Payload) {
        if let Some(connection) = self.connection.take() {
            connection.in_progress.fetch_sub(1, Ordering::Relaxed);
            let (served, took) = (&connection.served, self.begun.elapsed());
            served.ended(connection.service, took, payload.bytes.len());
            let payload = encoding::pack(payload, connection.agreed);
            connection.enqueue(message(self.request_id, kind, body, payload));
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.connection.is_some() {
            let fault =
                Fault::retry("the server dropped the request; it is stopping or overloaded");
            self.answer_fault(&fault);
        }
    }
}

/// A process's listening socket and the services behind it.
pub struct Server {
    identity: Identity,
    handlers: Vec<(ServiceKind, Arc<dyn Handler>)>,
    refusals: Arc<Refusals>,
    served: Arc<Served>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// A server without services.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            handlers: Vec::new(),
            refusals: Arc::default(),
            served: Arc::default(),
        }
    }

    /// Where callers that were turned away are counted.
    #[must_use]
    pub fn refusals(&self) -> Arc<Refusals> {
        Arc::clone(&self.refusals)
    }

    /// Where requests are counted.
    #[must_use]
    pub fn served(&self) -> Arc<Served> {
        Arc::clone(&self.served)
    }

    /// Adds a service; a second one of the same kind replaces the first.
    #[must_use]
    pub fn service(mut self, kind: ServiceKind, handler: Arc<dyn Handler>) -> Self {
        self.handlers.retain(|(other, _)| *other != kind);
        self.handlers.push((kind, handler));
        self
    }

    /// Serves until `shutdown` is done, then ends all connections.
    ///
    /// # Errors
    ///
    /// [`LinkError`] if the socket fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), LinkError> {
        let options = self.identity.wire.get();
        end_when_cut(&listener, options.network_timeout())?;
        let socket = listener.as_fd().try_clone_to_owned()?;
        let (stop, stopped) = watch::channel(false);
        let door = Door {
            identity: self.identity.clone(),
            handlers: self.handlers,
            refusals: self.refusals,
            served: self.served,
            stopped,
        };
        let service = LinkServer::new(door)
            .max_decoding_message_size(FRAME_DECODE_BYTES_MAX)
            .max_encoding_message_size(FRAME_DECODE_BYTES_MAX);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let mut ended = stop.subscribe();
        let serving = tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(HTTP2_FRAME_BYTES)
            .http2_keepalive_interval(Some(options.keepalive()))
            .http2_keepalive_timeout(Some(options.keepalive_timeout()))
            .serve_with_incoming_shutdown(service, incoming, async move {
                let _ = ended.wait_for(|stopped| *stopped).await;
            });
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            result = &mut serving => return Ok(result?),
            () = shutdown => {}
            never = follow(&self.identity.wire, socket) => match never {},
        }
        let _ = stop.send(true);
        // A caller that does not close its end must not keep us from stopping.
        match tokio::time::timeout(SHUTDOWN_GRACE, serving).await {
            Ok(result) => Ok(result?),
            Err(_) => Ok(()),
        }
    }
}

/// Has connections that are accepted later end as the wire options say then.
async fn follow(wire: &Wire, socket: OwnedFd) -> Infallible {
    let mut changes = wire.subscribe();
    loop {
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let timeout = changes.borrow_and_update().network_timeout();
        if let Err(error) = end_when_cut(&socket, timeout) {
            tracing::warn!(%error, "the listening socket keeps its `wire.network_timeout_ms`");
        }
    }
}

/// The generated service's implementation.
struct Door {
    identity: Identity,
    handlers: Vec<(ServiceKind, Arc<dyn Handler>)>,
    refusals: Arc<Refusals>,
    served: Arc<Served>,
    stopped: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl Exchange for Door {
    type ExchangeStream = Outgoing;

    async fn exchange(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Outgoing>, Status> {
        let address = request.remote_addr();
        let admitted = handshake::admit(request.metadata(), address, &self.identity);
        let admitted = admitted.map_err(|refused| {
            self.refusals.count(refused.reason);
            let reason = refused.status.message();
            tracing::warn!(?address, reason, "refused a connection");
            refused.status
        })?;
        let (caller, service) = (admitted.caller, admitted.service);
        let handler = self
            .handlers
            .iter()
            .find(|(kind, _)| *kind == service)
            .map(|(_, handler)| handler.clone())
            .ok_or_else(|| {
                self.refusals.count(Reason::Service);
                Status::failed_precondition(format!(
                    "{} {} has no service {service}; check the addresses in the configuration",
                    self.identity.role, self.identity.id
                ))
            })?;
        let connection = Arc::new(Connection {
            caller,
            service,
            agreed: admitted.agreed,
            sending: Mutex::default(),
            in_progress: AtomicUsize::new(0),
            gone: Notify::new(),
            served: Arc::clone(&self.served),
        });
        tracing::debug!(caller = %caller.role, id = caller.id, %service, "connected");
        let reader = Reader {
            connection: connection.clone(),
            handler,
        };
        tokio::spawn(reader.run(request.into_inner(), self.stopped.clone()));
        let mut response = Response::new(Outgoing { connection });
        *response.metadata_mut() = admitted.answer;
        Ok(response)
    }
}

/// The task that reads one stream.
struct Reader {
    connection: Arc<Connection>,
    handler: Arc<dyn Handler>,
}

impl Reader {
    async fn run(self, mut inbound: Streaming<Frame>, mut stopped: watch::Receiver<bool>) {
        self.handler.opened(&self.connection);
        let mut stop = std::pin::pin!(async {
            tokio::select! {
                () = self.connection.gone.notified() => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        });
        loop {
            let received = tokio::select! {
                received = inbound.message() => received,
                () = &mut stop => return,
            };
            match received {
                Ok(Some(frame)) => self.dispatch(frame),
                Ok(None) => return,
                Err(status) => return self.log_end(&status),
            }
        }
    }

    fn log_end(&self, status: &Status) {
        let Caller { role, id, .. } = self.connection.caller;
        let service = self.connection.service;
        let reason = status.message();
        // What a process of ours never sends, against a connection that just broke.
        if matches!(status.code(), Code::DataLoss | Code::OutOfRange) {
            tracing::warn!(caller = %role, id, %service, reason, "closed a connection for a bad frame");
        } else {
            tracing::debug!(caller = %role, id, %service, reason, "connection ended");
        }
    }

    fn dispatch(&self, frame: Frame) {
        // What the handlers answer at once leaves together.
        lock(&self.connection.sending).outbox.cork();
        for message in frame.messages {
            self.deliver(message);
        }
        let waker = lock(&self.connection.sending).outbox.uncork();
        wake(waker);
    }

    fn deliver(&self, mut message: Message) {
        let kind = message.kind();
        let unpacked = encoding::unpack(&mut message, self.connection.agreed);
        match kind {
            Kind::Request => {
                let earlier = self.connection.in_progress.fetch_add(1, Ordering::Relaxed);
                let responder = Responder {
                    connection: Some(self.connection.clone()),
                    request_id: message.request_id,
                    begun: Instant::now(),
                };
                let served = &self.connection.served;
                let bytes = unpacked.as_ref().map_or(0, |payload| payload.bytes.len());
                served.begun(self.connection.service, bytes);
                if earlier >= SERVER_IN_PROGRESS_MAX {
                    served.too_many_requests();
                    return responder.fault(Fault::retry(format!(
                        "{earlier} requests of this caller are unanswered; send fewer at once"
                    )));
                }
                match unpacked {
                    Ok(payload) => {
                        let from = &self.connection;
                        self.handler.request(from, message.body, payload, responder);
                    }
                    Err(fault) => responder.fault(fault),
                }
            }
            Kind::Push => match unpacked {
                Ok(payload) => self.handler.push(&self.connection, message.body, payload),
                Err(fault) => tracing::warn!(reason = fault.message, "lost a message"),
            },
            Kind::Response | Kind::Fault | Kind::Unspecified => {
                tracing::debug!(?kind, "ignored a message that no caller sends");
            }
        }
    }
}

impl Drop for Reader {
    // Also after a panic in a handler: the caller must learn that nobody reads any more.
    fn drop(&mut self) {
        self.connection.close();
        self.handler.closed(&self.connection);
    }
}

/// What leaves through one connection.
pub(crate) struct Outgoing {
    connection: Arc<Connection>,
}

impl Stream for Outgoing {
    type Item = Result<Frame, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut sending = lock(&self.connection.sending);
        if sending.closed {
            return Poll::Ready(None);
        }
        match sending.outbox.pack(context.waker(), |_| true) {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Poll::Pending,
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.connection.close();
    }
}

/// The fault for a message that is too large to send.
pub(crate) fn oversized(size_bytes: usize) -> Fault {
    // 90: EMSGSIZE, which says it best.
    Fault::surface(
        90,
        format!(
            "a message of {size_bytes} bytes exceeds the limit of {MESSAGE_BYTES_MAX} bytes; \
             send it in parts"
        ),
    )
}

pub(crate) fn message(request_id: u64, kind: Kind, body: Bytes, payload: Packed) -> Message {
    let mut message = Message {
        request_id,
        kind: kind.into(),
        body,
        ..Message::default()
    };
    payload.into_message(&mut message);
    message
}

fn fault_body(fault: &Fault) -> Bytes {
    proto::link::Fault::from(fault).encode_to_vec().into()
}

pub(crate) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
