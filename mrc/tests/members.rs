//! Metadata servers are added, removed and replaced while clients work, and killed in the middle of it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Client, Cluster, heartbeat, lookup, make_dir};
use proto::mrc as wire;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use shell::link::{CallError, Role};
use types::Fault;

/// Makes directories one after the other, as a mount that says that it lives, and as an object server.
struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Client, u64, Duration)>,
}

impl Load {
    fn start(cluster: &Cluster) -> Self {
        let mut client = cluster.client();
        let osd = Client::new(&cluster.addresses, Role::Osd, 1);
        client.open_volume(&osd);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut made, mut longest) = (0_u64, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let started = Instant::now();
                client.change(make_dir(&format!("dir-{made}"))).unwrap();
                longest = longest.max(started.elapsed());
                made += 1;
                if made.is_multiple_of(16) {
                    keep_alive(&client);
                    osd.read(Op::OsdHeartbeat(heartbeat(1))).unwrap();
                }
            }
            (client, made, longest)
        });
        Self { stop, thread }
    }

    /// Everything that was acknowledged is there.
    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (client, made, longest) = self.thread.join().unwrap();
        assert!(made > 0);
        for number in 0..made {
            client.read(lookup(&format!("dir-{number}"))).unwrap();
        }
        eprintln!("{made} directories, the longest took {longest:?}");
    }
}

fn keep_alive(client: &Client) -> wire::KeptAlive {
    let keep = wire::KeepAlive::default();
    match client.read(Op::KeepAlive(keep)) {
        Ok(Reply::KeptAlive(kept)) => kept,
        other => panic!("{other:?}"),
    }
}

fn admin(cluster: &Cluster) -> Client {
    Client::new(&cluster.addresses, Role::Admin, 1)
}

fn wish(cluster: &Cluster, add: &[u64], remove: &[u64]) -> Op {
    let add = add.iter().map(|id| wire::MrcAddress {
        id: *id,
        address: cluster.addresses[*id as usize - 1].to_string(),
    });
    Op::MrcChange(wire::MrcChange {
        add: add.collect(),
        remove: remove.to_vec(),
    })
}

fn step(admin: &Client, op: &Op) -> Result<wire::MrcChanged, Fault> {
    admin.read(op.clone()).map(|reply| match reply {
        Reply::MrcChanged(changed) => changed,
        other => panic!("{other:?}"),
    })
}

/// Asks until it is done.
fn change(cluster: &Cluster, add: &[u64], remove: &[u64]) {
    let (admin, op) = (admin(cluster), wish(cluster, add, remove));
    let mut waited = String::new();
    admin.wait(|| {
        let changed = step(&admin, &op).unwrap();
        if changed.waits_for != waited {
            eprintln!("+{add:?} -{remove:?} waits for {}", changed.waits_for);
            waited = changed.waits_for;
        }
        changed.done.then_some(())
    });
}

/// The members as the leader knows them: voters and learners.
fn members(client: &Client) -> (BTreeSet<u64>, BTreeSet<u64>) {
    client.wait(|| {
        for server in 1.. {
            let list = wire::Request {
                op: Some(Op::MrcList(wire::MrcList {})),
                ..wire::Request::default()
            };
            match client.ask_one(server, &list) {
                Ok(Reply::Mrcs(mrcs)) if !mrcs.members.is_empty() => {
                    let (voters, learners): (Vec<_>, Vec<_>) =
                        mrcs.members.iter().partition(|member| member.voter);
                    let ids = |members: Vec<&wire::MrcMember>| {
                        members.into_iter().map(|member| member.id).collect()
                    };
                    return Some((ids(voters), ids(learners)));
                }
                _ if server == client.servers() => return None,
                _ => {}
            }
        }
        None
    })
}

fn voters(client: &Client) -> BTreeSet<u64> {
    members(client).0
}

fn ids(ids: &[u64]) -> BTreeSet<u64> {
    ids.iter().copied().collect()
}

/// The server that leads.
fn leader(client: &Client) -> u64 {
    client.wait(|| {
        let reply = client.read(Op::Status(wire::Status {}));
        let Ok(Reply::ClusterStatus(status)) = reply else {
            return None;
        };
        let mut mrcs = status.servers.iter().filter(|it| it.role == "mrc");
        mrcs.find(|it| it.state == "leader").map(|it| it.id)
    })
}

fn ends_as_removed(cluster: &mut Cluster, id: u64) {
    let error = cluster.ended(id).unwrap_err();
    assert!(matches!(error, mrc::Error::Removed(_)), "{error}");
    assert!(error.to_string().contains("mrc add"), "{error}");
}

#[test]
fn one_becomes_three_becomes_five_becomes_another_one_under_load() {
    let mut cluster = Cluster::start_some(5, 1, |_| {});
    let load = Load::start(&cluster);
    let admin = admin(&cluster);

    for (two, all) in [([2, 3], [1, 2, 3].as_slice()), ([4, 5], &[1, 2, 3, 4, 5])] {
        for id in two {
            cluster.restart(id);
        }
        change(&cluster, &two, &[]);
        assert_eq!(voters(&admin), ids(all));
    }
    // The one that leads is among them, sooner or later.
    for (two, rest) in [([1, 2], [3, 4, 5].as_slice()), ([3, 4], &[5])] {
        change(&cluster, &[], &two);
        change(&cluster, &[], &two);
        assert_eq!(voters(&admin), ids(rest));
        for id in two {
            ends_as_removed(&mut cluster, id);
        }
    }

    load.finish();
    let mrcs = keep_alive_addresses(&cluster);
    assert_eq!(mrcs, [cluster.addresses[4].to_string()]);
}

fn keep_alive_addresses(cluster: &Cluster) -> Vec<String> {
    let mut client = cluster.client();
    client.open_session(77);
    keep_alive(&client).mrcs
}

#[test]
fn all_servers_are_replaced_one_after_the_other_under_load() {
    let mut cluster = Cluster::start_some(6, 3, |_| {});
    let load = Load::start(&cluster);

    for old in 1..=3 {
        let new = old + 3;
        cluster.restart(new);
        change(&cluster, &[new], &[old]);
        ends_as_removed(&mut cluster, old);
    }

    assert_eq!(voters(&admin(&cluster)), ids(&[4, 5, 6]));
    load.finish();
}

/// The first answer after which it is killed is another one each time.
#[test]
fn leader_is_killed_in_the_middle_of_changes() {
    let mut cluster = Cluster::start_some(4, 3, |_| {});
    let load = Load::start(&cluster);
    let client = admin(&cluster);

    for round in 0..6_u64 {
        cluster.restart(4);
        kill_after(&mut cluster, &client, &[4], &[], round);
        change(&cluster, &[4], &[]);
        assert_eq!(voters(&client), ids(&[1, 2, 3, 4]), "round {round}");
        kill_after(&mut cluster, &client, &[], &[4], round);
        change(&cluster, &[], &[4]);
        assert_eq!(voters(&client), ids(&[1, 2, 3]), "round {round}");
        ends_as_removed(&mut cluster, 4);
        cluster.wipe(4);
    }

    load.finish();
}

/// Takes so many steps, begins another one, and kills the leader then.
fn kill_after(cluster: &mut Cluster, client: &Client, add: &[u64], remove: &[u64], steps: u64) {
    let op = wish(cluster, add, remove);
    for _ in 0..steps {
        step(client, &op).unwrap();
    }
    let other = admin(cluster);
    let asked = std::thread::spawn(move || step(&other, &op));
    let victim = leader(client);
    cluster.kill(victim);
    asked.join().unwrap().unwrap();
    if !(1..=3).contains(&victim) {
        // It may have been removed by now.
        cluster.restart(victim);
        return;
    }
    cluster.restart(victim);
}

#[test]
fn removal_that_leaves_no_majority_is_refused_and_a_removed_server_ends() {
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster);
    let client = admin(&cluster);
    let lead = leader(&client);
    let (dead, other) = (lead % 3 + 1, (lead + 1) % 3 + 1);
    cluster.kill(dead);

    let refused = |remove: &[u64]| {
        client.wait(|| match step(&client, &wish(&cluster, &[], remove)) {
            Err(fault) if fault.remedy == types::Remedy::Surface => Some(fault.message),
            // It was heard a moment ago.
            Ok(changed) if !changed.done => None,
            other => panic!("{other:?}"),
        })
    };
    let all = refused(&[1, 2, 3]);
    assert!(all.contains("no metadata server would be left"), "{all}");
    // For two leases it may have been heard of.
    client.wait(|| heard_ms(&client, dead).filter(|heard| *heard > 1_500));
    let why = refused(&[other]);
    assert!(why.contains(&format!("{dead} did not answer")), "{why}");

    change(&cluster, &[], &[dead]);
    assert_eq!(voters(&client), ids(&[lead, other]));
    cluster.restart(dead);
    ends_as_removed(&mut cluster, dead);
    // With an empty directory it waits to be added.
    cluster.wipe(dead);
    cluster.restart(dead);
    client.wait(|| client.ask_one(dead, &status()).ok());
    assert_eq!(members(&client), (ids(&[lead, other]), ids(&[])));
    change(&cluster, &[dead], &[]);
    assert_eq!(voters(&client), ids(&[1, 2, 3]));
    load.finish();
}

fn status() -> wire::Request {
    wire::Request {
        op: Some(Op::Status(wire::Status {})),
        ..wire::Request::default()
    }
}

fn heard_ms(client: &Client, id: u64) -> Option<u64> {
    let list = wire::Request {
        op: Some(Op::MrcList(wire::MrcList {})),
        ..wire::Request::default()
    };
    (1..=client.servers()).find_map(|server| match client.ask_one(server, &list) {
        Ok(Reply::Mrcs(mrcs)) => {
            let mut members = mrcs.members.iter();
            members.find(|member| member.id == id)?.heard_ms
        }
        _ => None,
    })
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(item.file_name());
        match item.file_type().unwrap().is_dir() {
            true => copy(&item.path(), &target),
            false => {
                std::fs::copy(item.path(), target).unwrap();
            }
        }
    }
}

/// Its successor may be down at that moment: it does not take its place again.
#[test]
fn directory_of_a_member_that_was_replaced_is_of_no_use_any_more() {
    let mut cluster = Cluster::start(3);
    let client = admin(&cluster);
    let mut mount = cluster.client();
    mount.open_volume(&Client::new(&cluster.addresses, Role::Osd, 1));
    let lead = client.leader();
    let wiped = lead % 3 + 1;
    let (dir, kept) = (cluster.dir_of(wiped), cluster.dir.path().join("kept"));
    cluster.stop(wiped).unwrap();
    copy(&dir, &kept);
    cluster.wipe(wiped);
    cluster.restart(wiped);
    client.leader();

    cluster.kill(wiped);
    cluster.wipe(wiped);
    copy(&kept, &dir);
    cluster.restart(wiped);

    ends_as_removed(&mut cluster, wiped);
    mount.change(make_dir("after")).unwrap();
}

/// By the configuration of all, as an operator does it who changes the network.
#[test]
fn servers_are_found_at_other_addresses_and_tell_them() {
    let mut cluster = Cluster::start(3);
    let mut mount = cluster.client();
    mount.open_volume(&Client::new(&cluster.addresses, Role::Osd, 1));
    mount.change(make_dir("before")).unwrap();
    for id in 1..=3 {
        cluster.stop(id).unwrap();
    }
    for id in 1..=3 {
        cluster.move_away(id);
    }
    for id in 1..=3 {
        cluster.restart(id);
    }

    let mut mount = cluster.client();
    mount.open_session(77);
    mount.read(lookup("before")).unwrap();
    mount.change(make_dir("after")).unwrap();
    let mut addresses: Vec<String> = cluster.addresses.iter().map(ToString::to_string).collect();
    addresses.sort();
    mount.wait(|| (keep_alive(&mount).mrcs == addresses).then_some(()));
    let lead = mount.leader();
    // Followers send mounts there.
    let list = wire::Request {
        op: Some(Op::VolumeList(wire::VolumeList {})),
        ..wire::Request::default()
    };
    let leads = cluster.addresses[lead as usize - 1].to_string();
    // Each looks for itself.
    mount.wait(|| match mount.ask_one(lead % 3 + 1, &list) {
        Err(CallError::Fault(fault)) => fault.hint.filter(|hint| *hint == leads),
        other => panic!("{other:?}"),
    });
}

#[test]
fn server_with_a_cluster_of_its_own_is_not_added() {
    let mut cluster = Cluster::start_some(2, 1, |config| {
        config.members.retain(|member| member.id == config.id);
    });
    cluster.restart(2);
    let client = admin(&cluster);
    client.wait(|| match client.ask_one(2, &status()) {
        Ok(Reply::ClusterStatus(status)) => status.answered_by_leader.then_some(()),
        _ => None,
    });

    let request = wire::Request {
        op: Some(wish(&cluster, &[2], &[])),
        ..wire::Request::default()
    };
    let fault = client.wait(|| match client.ask_one(1, &request) {
        Err(CallError::Fault(fault)) if fault.remedy == types::Remedy::Surface => Some(fault),
        Ok(_) => panic!("added"),
        Err(_) => None,
    });
    assert!(fault.message.contains("a cluster of its own"), "{fault}");
}

#[test]
fn only_administrators_change_members_and_nonsense_is_refused() {
    let cluster = Cluster::start(1);
    let mount = cluster.client().read(wish(&cluster, &[], &[1]));
    assert_eq!(mount.unwrap_err().errno, libc::EPERM);

    let client = admin(&cluster);
    let refused = |id: u64, address: &str| {
        let address = address.to_owned();
        let change = wire::MrcChange {
            add: vec![wire::MrcAddress { id, address }],
            remove: Vec::new(),
        };
        let fault = client.read(Op::MrcChange(change)).unwrap_err();
        assert_eq!(fault.errno, libc::EINVAL);
        fault.message
    };
    assert!(refused(0, "a:1").contains("0 is no id"));
    assert!(refused(2, "nowhere").contains("nowhere"));
    let waits = step(&client, &wish(&cluster, &[], &[7])).unwrap();
    assert!(waits.done, "there is no 7 to remove");
}
