//! One lease server, as a process of its own: the lease shell of the object server, and a task that
//! asks it for leases, for itself or for clients.

use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use lease::Host;
use lease_shell::{LeaseDoor, LeaseShell};
use prost::Message as _;
use shell::clock::boottime;
use shell::link::{
    Connection, Handler, Identity, Payload, Responder, Role, Server, ServiceKind, Wire,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use types::{ClusterId, Duration, Fault, MemberId, Secret};

use crate::ask::Ask;
use crate::control::{Command, Said};
use crate::worker::{Item, Worker};

/// Options of a lease server.
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeOptions {
    /// Its number, from 1.
    #[arg(long)]
    pub(crate) id: u64,
    /// How many servers there are.
    #[arg(long)]
    pub(crate) members: u64,
    /// Lease time.
    #[arg(long, default_value_t = 1500)]
    pub(crate) ttl_ms: u64,
    /// How often this server was started.
    #[arg(long, default_value_t = 1)]
    pub(crate) incarnation: u64,
    /// Threads that read and write sockets.
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
}

/// Cells in memory: a quarter more than the largest number the benchmark tries to hold.
const CELLS_MAX: usize = 2_500_000;

/// Who this process is to the others of the benchmark.
pub(crate) fn identity(role: Role, id: u64) -> Identity {
    Identity {
        cluster: ClusterId(0x1ea5e),
        secret: Secret::from_bytes([7; 32]),
        role,
        id,
        wire: Wire::default(),
    }
}

/// Serves until standard input ends.
pub(crate) fn run(options: &NodeOptions) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.threads)
        .enable_all()
        .build()?;
    let ttl = Duration::from_millis(options.ttl_ms);
    // As the object server sets them.
    let config = lease::Config {
        ttl,
        phase_max: ttl.scaled(1, 3),
        retransmit: ttl.scaled(1, 15),
        cells_max: CELLS_MAX,
        ..lease::Config::default()
    }
    .validated()?;
    let me = MemberId(options.id);
    let host = Host::new(
        me,
        config,
        boottime(),
        options.incarnation,
        boottime().as_nanos(),
        None,
    );
    // What is in it is bounded by what was asked for.
    let (inbox, items) = unbounded_channel();
    let news = inbox.clone();
    let pass_on = move |events: &[lease::Event]| {
        // Without a worker the process is about to end.
        let _ = news.send(Item::Events(events.to_vec()));
    };
    let (shell, _) = LeaseShell::start(host, Box::new(pass_on))?;

    let address = runtime.block_on(serve(options.id, &shell, &inbox))?;
    say(&Said::Listening {
        address: address.to_string(),
    })?;
    let commands = inbox.clone();
    std::thread::spawn(move || {
        let ended = read_commands(&commands);
        if let Err(error) = ended {
            eprintln!("lease server: {error:#}");
        }
        // Nobody wants this process any more.
        std::process::exit(0);
    });
    let worker = Worker::new(me, options.members, shell, items);
    // Where the sockets are, so that nothing needs to be woken from another thread.
    runtime.block_on(runtime.spawn(worker.run()))?
}

async fn serve(
    id: u64,
    shell: &Arc<LeaseShell>,
    inbox: &UnboundedSender<Item>,
) -> Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let server = Server::new(identity(Role::Osd, id))
        .service(ServiceKind::Lease, Arc::new(LeaseDoor(Arc::clone(shell))))
        .service(ServiceKind::Osd, Arc::new(ClientDoor(inbox.clone())));
    tokio::spawn(server.serve(listener, std::future::pending::<()>()));
    Ok(address)
}

fn read_commands(inbox: &UnboundedSender<Item>) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let command: Command =
            serde_json::from_str(&line).with_context(|| format!("no command: {line}"))?;
        if inbox.send(Item::Command(command)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Answers the benchmark.
pub(crate) fn say(said: &Said) -> Result<()> {
    let mut line = serde_json::to_string(said)?;
    line.push('\n');
    let mut out = std::io::stdout().lock();
    if out
        .write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        bail!("the benchmark is gone");
    }
    Ok(())
}

/// Where clients ask.
struct ClientDoor(UnboundedSender<Item>);

impl Handler for ClientDoor {
    fn request(&self, _: &Arc<Connection>, body: Bytes, _: Payload, responder: Responder) {
        match Ask::decode(body) {
            Ok(ask) => {
                // Without a worker the responder says so.
                let _ = self.0.send(Item::Client(ask, responder));
            }
            Err(error) => responder.fault(Fault::surface(libc::EPROTO, error.to_string())),
        }
    }
}
