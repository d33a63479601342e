//! Links over loopback.

mod behaviour;
mod options;
mod refusals;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use types::{ClusterId, Fault, Secret};

use super::encoding::Agreed;
use super::*;

/// Longer than anything here takes; a test that reaches it failed.
const LONG: Duration = Duration::from_secs(10);

fn identity(role: Role) -> Identity {
    Identity {
        cluster: ClusterId(7),
        secret: Secret::from_bytes([1; 32]),
        role,
        id: 3,
        wire: Wire::default(),
    }
}

/// Answers by what the request's text asks for.
#[derive(Default)]
struct Oracle {
    seen: Mutex<Vec<String>>,
    kept: Mutex<Vec<Responder>>,
    connections: Mutex<Vec<Arc<Connection>>>,
    closed: Mutex<Option<mpsc::UnboundedSender<()>>>,
}

impl Handler for Oracle {
    fn request(&self, from: &Arc<Connection>, body: Bytes, payload: Payload, to: Responder) {
        let text = text(body);
        lock(&self.seen).push(text.clone());
        match text.as_str() {
            "keep" => lock(&self.kept).push(to),
            "drop" => drop(to),
            "fault" => to.fault(Fault::surface(2, "no such file")),
            "huge" => to.ok(&Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]), payload),
            "hang up" => from.close(),
            "push" => {
                from.push(&String::from("pushed"), Payload::none());
                to.ok(&text, payload);
            }
            _ => to.ok(&text, payload),
        }
    }

    fn push(&self, from: &Arc<Connection>, body: Bytes, _payload: Payload) {
        let text = text(body);
        from.push(&format!("{text} back"), Payload::none());
        lock(&self.seen).push(text);
    }

    fn opened(&self, connection: &Arc<Connection>) {
        lock(&self.connections).push(connection.clone());
    }

    fn closed(&self, _from: &Arc<Connection>) {
        if let Some(closed) = &*lock(&self.closed) {
            let _ = closed.send(());
        }
    }
}

fn text(body: Bytes) -> String {
    <String as prost::Message>::decode(body).unwrap()
}

/// A server that runs until dropped.
struct Running {
    address: SocketAddr,
    oracle: Arc<Oracle>,
    refusals: Arc<Refusals>,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    async fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let oracle = Arc::new(Oracle::default());
        let server = Server::new(identity(Role::Osd)).service(ServiceKind::Osd, oracle.clone());
        let refusals = server.refusals();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            server.serve(listener, shutdown).await.unwrap();
        });
        Self {
            address,
            oracle,
            refusals,
            stop: Some(stop),
            task,
        }
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        (&mut self.task).await.unwrap();
    }

    fn link(&self) -> Arc<Link> {
        self.link_as(identity(Role::Mount))
    }

    fn link_as(&self, identity: Identity) -> Arc<Link> {
        let address = self.address.to_string();
        Link::open(identity, ServiceKind::Osd, address, LinkOptions::default())
    }
}

async fn ask(link: &Link, text: &str) -> Result<String, CallError> {
    let (reply, _) = link
        .call::<String, String>(&text.to_owned(), Payload::none(), LONG)
        .await?;
    Ok(reply)
}

/// Polls until `done`, with a deadline that fails the test.
async fn until(mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.unwrap();
}
