//! The door for the other members' lease links, over loopback: what is not believable is dropped and
//! counted, and the rest goes on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lease::{Ballot, Body, Config, Event, Host, Membership, Message};
use shell::clock::boottime;
use shell::link::{Identity, Link, LinkOptions, Reason, Refusals, Role, Server, ServiceKind, Wire};
use tokio::net::TcpListener;
use types::{CellId, ClusterId, MemberId, Secret};

use crate::config::LEASE_MESSAGES_MAX;
use crate::wire::encode_frame;
use crate::{LeaseDoor, LeaseShell, Traffic, metrics};

const PATIENCE: Duration = Duration::from_secs(10);

fn identity(id: u64, cluster: u128) -> Identity {
    Identity {
        cluster: ClusterId(cluster),
        secret: Secret::from_bytes([1; 32]),
        role: Role::Osd,
        id,
        wire: Wire::default(),
    }
}

struct Bed {
    leases: Arc<LeaseShell>,
    refusals: Arc<Refusals>,
    address: String,
}

impl Bed {
    async fn new() -> Self {
        let started = boottime() - Config::default().quarantine() - Config::default().ttl;
        let host = Host::new(MemberId(1), Config::default(), started, 1, 1, None);
        let (leases, _thread) = LeaseShell::start(host, Box::new(|_| {})).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let door = Arc::new(LeaseDoor(Arc::clone(&leases)));
        let server = Server::new(identity(1, 7)).service(ServiceKind::Lease, door);
        let refusals = server.refusals();
        tokio::spawn(server.serve(listener, std::future::pending()));
        Self {
            leases,
            refusals,
            address,
        }
    }

    fn link(&self, cluster: u128) -> Arc<Link> {
        let options = LinkOptions::default();
        let identity = identity(2, cluster);
        Link::open(identity, ServiceKind::Lease, self.address.clone(), options)
    }

    /// Sends until it arrives: a link that is not connected yet drops what it can't send.
    async fn send_until(&self, link: &Link, frame: Vec<u8>, arrived: impl Fn(Traffic) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !arrived(self.leases.traffic()) {
            assert!(Instant::now() < deadline, "{:?}", self.leases.traffic());
            link.push_encoded(Bytes::from(frame.clone()));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn prepare(epoch_of_floor: Option<u64>) -> Message {
    Message {
        cell: CellId(9),
        view: 1,
        ballot: Ballot {
            counter: 1,
            member: MemberId(2),
        },
        round: 1,
        body: match epoch_of_floor {
            None => Body::Prepare,
            Some(floor_epoch) => Body::Promise { floor_epoch },
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_frames_are_counted_and_dropped_and_good_ones_still_answered() {
    let bed = Bed::new().await;
    let link = bed.link(7);
    let whole = encode_frame(&[prepare(None)]);

    let cut = whole[..whole.len() - 3].to_vec();
    bed.send_until(&link, cut, |traffic| traffic.frames_broken > 0)
        .await;
    let crowd = encode_frame(&vec![prepare(None); LEASE_MESSAGES_MAX + 1]);
    bed.send_until(&link, crowd, |traffic| traffic.frames_overfull > 0)
        .await;
    let absurd = encode_frame(&[prepare(Some(u64::MAX))]);
    bed.send_until(&link, absurd, |traffic| traffic.messages_refused > 0)
        .await;
    assert_eq!(bed.leases.traffic().messages_received, 0);
    assert_eq!(bed.leases.stats().cells, 0);

    bed.leases
        .set_links(HashMap::from([(MemberId(2), bed.link(7))]));
    bed.send_until(&link, whole, |traffic| traffic.messages_sent > 0)
        .await;
    assert!(bed.leases.stats().cells > 0);
    let numbers = metrics(&bed.leases);
    let of = |name: &str| {
        let found = numbers.iter().find(|metric| metric.full_name() == name);
        found.unwrap().value
    };
    assert!(of("oxfs_lease_bad_frames{reason=\"broken\"}") > 0);
    assert!(of("oxfs_lease_bad_frames{reason=\"overfull\"}") > 0);
    assert!(of("oxfs_lease_messages_dropped{reason=\"unbelievable\"}") > 0);
    bed.leases.halt();
}

/// Whoever wants leases may be busy with data or wait for a disk: its leases are extended all the same.
#[test]
fn leases_are_extended_although_nobody_looks_at_the_news() {
    let ttl = types::Duration::from_millis(400);
    let config = Config {
        ttl,
        retransmit: ttl.scaled(1, 15),
        phase_max: ttl.scaled(1, 3),
        ..Config::default()
    };
    let started = boottime() - config.quarantine() - ttl;
    let host = Host::new(MemberId(1), config, started, 1, 1, None);
    let (news, unread) = std::sync::mpsc::channel();
    let pass_on = move |events: &[Event]| news.send(events.to_vec()).unwrap();
    let (leases, thread) = LeaseShell::start(host, Box::new(pass_on)).unwrap();
    let membership = Membership::new(1, [MemberId(1)]);

    leases.acquire(CellId(7), &membership, 0, false);
    let first = leases.is_valid(CellId(7)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while leases.stats().counters.renewals < 3 {
        assert!(Instant::now() < deadline, "{:?}", leases.stats());
        std::thread::yield_now();
    }

    let held = leases.is_valid(CellId(7)).unwrap();
    assert_eq!(held.epoch, first.epoch);
    assert!(held.until > first.until);
    assert_eq!(leases.stats().counters.lost, 0);
    leases.halt();
    thread.join().unwrap();
    assert!(unread.try_iter().count() > 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_another_cluster_get_no_word_in() {
    let bed = Bed::new().await;
    let stranger = bed.link(8);

    let deadline = Instant::now() + PATIENCE;
    while bed.refusals.of(Reason::Cluster) == 0 {
        assert!(Instant::now() < deadline, "not refused");
        stranger.push_encoded(Bytes::from(encode_frame(&[prepare(None)])));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    assert_eq!(bed.leases.traffic(), Traffic::default());
    let text: Vec<String> = bed
        .refusals
        .metrics()
        .iter()
        .map(|metric| format!("{} {}", metric.full_name(), metric.value.min(1)))
        .collect();
    assert!(text.contains(&"oxfs_link_refused{reason=\"cluster\"} 1".to_owned()));
    bed.leases.halt();
}
