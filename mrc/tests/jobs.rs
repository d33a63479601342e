//! What is to be done about replicas is remembered by all metadata servers: pauses, limits, and since when
//! an object server is down.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use common::{Client, Cluster, heartbeat};
use proto::mrc as wire;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use shell::link::Role;

/// An object server that says that it lives until it is dropped.
struct Alive {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Alive {
    fn start(cluster: &Cluster, osd: u64) -> Self {
        let client = Client::new(&cluster.addresses, Role::Osd, osd);
        client.read(Op::OsdHeartbeat(heartbeat(osd))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                client.read(Op::OsdHeartbeat(heartbeat(osd))).unwrap();
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn jobs(admin: &Client) -> wire::Jobs {
    match admin.read(Op::JobList(wire::JobList {})) {
        Ok(Reply::Jobs(jobs)) => jobs,
        other => panic!("{other:?}"),
    }
}

fn set(admin: &Client, paused: Option<bool>, limit_bytes_per_s: Option<u64>) {
    let set = wire::JobSet {
        paused,
        limit_bytes_per_s,
    };
    admin.read(Op::JobSet(set)).unwrap();
}

/// What is left of the grace time of the server that is down, in seconds.
fn left(admin: &Client) -> Option<u64> {
    let jobs = jobs(admin);
    let why = &jobs.notes.first()?.why;
    let before = why.strip_suffix(" s left")?;
    before.rsplit(' ').next()?.parse().ok()
}

#[test]
fn grace_time_goes_on_under_the_next_leader() {
    let mut cluster = Cluster::start_tuned(3, |config| {
        config.osd_timeout_ms = 1_000;
        config.rescue_grace_ms = 600_000;
    });
    let admin = Client::new(&cluster.addresses, Role::Admin, 1);
    let _others = [Alive::start(&cluster, 1), Alive::start(&cluster, 3)];
    let second = Alive::start(&cluster, 2);
    let create = wire::VolumeCreate {
        name: "v".to_owned(),
        replicas: 3,
        nonce: 5,
        ..wire::VolumeCreate::default()
    };
    admin.read(Op::VolumeCreate(create)).unwrap();
    drop(second);

    admin.wait(|| left(&admin).filter(|left| *left <= 592));
    let leader = admin.leader();
    cluster.kill(leader);

    // It would begin anew with 599.
    let after = admin.wait(|| left(&admin));
    assert!(after <= 592, "{after} s left");
    // Back, it is not down any more, and the next time begins anew.
    let second = Alive::start(&cluster, 2);
    admin.wait(|| left(&admin).is_none().then_some(()));
    drop(second);
    let again = admin.wait(|| left(&admin));
    assert!(again >= 595, "{again} s left");
}

#[test]
fn pause_and_limit_are_kept_by_the_next_leader_and_told_to_object_servers() {
    let mut cluster = Cluster::start_tuned(3, |config| config.osd_timeout_ms = 1_000);
    let admin = Client::new(&cluster.addresses, Role::Admin, 1);
    let alive = Alive::start(&cluster, 1);
    let osd = Client::new(&cluster.addresses, Role::Osd, 1);
    let pace = |osd: &Client| {
        osd.wait(|| match osd.read(Op::OsdHeartbeat(heartbeat(1))) {
            Ok(Reply::OsdMap(map)) => map.pace,
            other => panic!("{other:?}"),
        })
    };
    let default = pace(&osd).bytes_per_s;
    assert_eq!(jobs(&admin).default_bytes_per_s_each, default);

    set(&admin, Some(true), None);
    set(&admin, None, Some(5 << 20));
    osd.wait(|| (pace(&osd).bytes_per_s == 5 << 20).then_some(()));
    let leader = admin.leader();
    cluster.kill(leader);

    assert_eq!(pace(&osd).bytes_per_s, 5 << 20);
    let kept = jobs(&admin);
    assert!(kept.paused && kept.limit_bytes_per_s == 5 << 20, "{kept:?}");
    set(&admin, Some(false), Some(0));
    osd.wait(|| (pace(&osd).bytes_per_s == default).then_some(()));
    assert!(!jobs(&admin).paused);
    let too_slow = wire::JobSet {
        paused: None,
        limit_bytes_per_s: Some(1),
    };
    let fault = admin.read(Op::JobSet(too_slow)).unwrap_err();
    assert_eq!(fault.errno, libc::EINVAL);
    drop(alive);
}
