//! A link through a cable: a server that echoes at its left end, a caller at its right one.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use shell::link::{
    Connection, Handler, Identity, Link, LinkOptions, Payload, Responder, Role, Server,
    ServiceKind, Wire, WireOptions,
};
use types::{ClusterId, Secret};

use crate::cable::{Cable, End};

struct Echo;

impl Handler for Echo {
    fn request(&self, _: &Arc<Connection>, body: Bytes, payload: Payload, to: Responder) {
        // 0 is an empty body: the payload is wanted back.
        match (body.is_empty(), payload.verified()) {
            (true, Ok(bytes)) => to.ok(&0_u64, Payload::of(bytes)),
            (false, Ok(_)) => to.ok(&0_u64, Payload::none()),
            (_, Err(fault)) => to.fault(fault),
        }
    }
}

fn identity(role: Role, options: WireOptions) -> Identity {
    Identity {
        cluster: ClusterId(1),
        secret: Secret::from_bytes([1; 32]),
        role,
        id: 1,
        wire: Wire::new(options),
    }
}

/// Runs `caller` at the right end of a new cable, with a link to a server at the left end.
///
/// # Errors
///
/// What the system or the caller said.
pub fn with_link<T: Send>(
    options: WireOptions,
    caller: impl AsyncFnOnce(&Cable, &Link) -> Result<T> + Send,
) -> Result<T> {
    let cable = Cable::new()?;
    let address = SocketAddr::new(cable.address(End::Left), 7000);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let cable = &cable;
    std::thread::scope(|scope| {
        let serving = scope.spawn(move || -> Result<()> {
            cable.enter(End::Left)?;
            runtime()?.block_on(async {
                let listener = shell::listen::bind(address).await?;
                ready.send(())?;
                let server = Server::new(identity(Role::Osd, WireOptions::default()))
                    .service(ServiceKind::Osd, Arc::new(Echo));
                let shutdown = async { drop(stopped.await) };
                Ok(server.serve(listener, shutdown).await?)
            })
        });
        let calling = scope.spawn(move || -> Result<T> {
            cable.enter(End::Right)?;
            is_ready.recv().context("the server did not start")?;
            let done = runtime()?.block_on(async {
                let link = link(address, options);
                caller(cable, &link).await
            });
            drop(stop);
            done
        });
        let done = calling.join().map_err(|_| anyhow!("the caller panicked"))?;
        serving
            .join()
            .map_err(|_| anyhow!("the server panicked"))??;
        done
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

fn link(address: SocketAddr, options: WireOptions) -> Arc<Link> {
    Link::open(
        identity(Role::Mount, options),
        ServiceKind::Osd,
        address.to_string(),
        LinkOptions::default(),
    )
}
