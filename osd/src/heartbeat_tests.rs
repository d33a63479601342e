//! Reports to a metadata cluster of one follower and one leader.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use proto::mrc;
use shell::link::{
    Connection, Handler, Identity, Payload, Responder, Role, Server, ServiceKind, Wire,
};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use types::{ClusterId, Fault, OsdId, Remedy, Secret};

use crate::board::Board;
use crate::cluster::Wall;
use crate::cluster_clock::ClusterClock;
use crate::heartbeats::Heartbeats;
use crate::metadata::MetadataClient;
use crate::store_root::Root;

/// A leader's clock that is decades ahead of this machine's.
const LEADER_WALL_NS: i64 = 4_000_000_000_000_000_000;
const PATIENCE: Duration = Duration::from_secs(20);

fn identity(role: Role, id: u64) -> Identity {
    Identity {
        cluster: ClusterId(7),
        secret: Secret::from_bytes([3; 32]),
        role,
        id,
        wire: Wire::default(),
    }
}

/// A metadata server: redirects to a leader, or is it.
struct Metadata {
    leader: Option<String>,
    heard: Mutex<Vec<mrc::OsdHeartbeat>>,
}

impl Handler for Metadata {
    fn request(&self, _: &Arc<Connection>, body: Bytes, _: Payload, responder: Responder) {
        if let Some(leader) = &self.leader {
            let mut fault = Fault::new(Remedy::Redirect, libc::EAGAIN, "not the leader");
            fault.hint = Some(leader.clone());
            return responder.fault(fault);
        }
        let request = mrc::Request::decode(body).unwrap();
        let Some(mrc::request::Op::OsdHeartbeat(heartbeat)) = request.op else {
            panic!("{request:?}");
        };
        let map = mrc::OsdMap {
            version: 3,
            changed: heartbeat.map_version != 3,
            wall_ns: LEADER_WALL_NS,
            mrcs: Vec::new(),
            pace: None,
            ..mrc::OsdMap::default()
        };
        self.heard.lock().unwrap().push(heartbeat);
        let response = mrc::Response {
            reply: Some(mrc::response::Reply::OsdMap(map)),
        };
        responder.ok(&response, Payload::none());
    }
}

async fn serve(leader: Option<String>) -> (String, Arc<Metadata>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let metadata = Arc::new(Metadata {
        leader,
        heard: Mutex::default(),
    });
    let server = Server::new(identity(Role::Mrc, 1)).service(ServiceKind::Mrc, metadata.clone());
    tokio::spawn(server.serve(listener, std::future::pending()));
    (address, metadata)
}

#[tokio::test]
async fn reports_find_the_leader_behind_dead_and_following_servers() {
    let dir = tempfile::tempdir().unwrap();
    let (leader, metadata) = serve(None).await;
    let (follower, _) = serve(Some(leader)).await;
    // Nobody listens on port 1.
    let client = MetadataClient::new(
        identity(Role::Osd, 2),
        &["127.0.0.1:1".to_owned(), follower],
    );
    let clock = Arc::new(ClusterClock::default());
    let heartbeats = Heartbeats {
        osd: OsdId(2),
        address: "127.0.0.1:99".to_owned(),
        store_uuid: "abc".to_owned(),
        dir: dir.path().to_owned(),
        location: String::new(),
        interval: Duration::from_millis(10),
        root: Arc::new(Root::open(dir.path()).unwrap()),
        board: Arc::new(Board::default()),
        wall: Arc::new(Wall::default()),
        clock: Arc::clone(&clock),
        pacer: crate::pacer::Pacer::default(),
        wanted: Arc::new(Notify::new()),
    };
    let (maps, mut received) = mpsc::channel(1);

    let reporting = tokio::spawn(heartbeats.run(client, maps));
    let map = tokio::time::timeout(PATIENCE, received.recv())
        .await
        .unwrap()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while metadata.heard.lock().unwrap().len() < 2 {
        assert!(Instant::now() < deadline);
        // The map is asked for again, since nobody hangs it on the wall here.
        let _ = received.try_recv();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    reporting.abort();

    assert_eq!(map.version, 3);
    assert!(clock.now().0 >= LEADER_WALL_NS);
    let heard = metadata.heard.lock().unwrap()[0].clone();
    assert_eq!((heard.osd, heard.store_uuid.as_str()), (2, "abc"));
    assert_eq!(heard.pid, u64::from(std::process::id()));
    assert!(heard.capacity_bytes >= heard.free_bytes && heard.free_bytes > 0);
}
