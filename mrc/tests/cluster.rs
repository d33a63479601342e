//! Metadata servers over real links: one alone, three together, killed, wiped and left behind.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

mod common;

use common::{Client, Cluster, create, heartbeat, inode_of, lookup, make_dir};
use proto::mrc as wire;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use shell::link::{CallError, Role};
use types::{Capability, Rights, UnixNanos};

fn osd(cluster: &Cluster, id: u64) -> Client {
    Client::new(&cluster.addresses, Role::Osd, id)
}

#[test]
fn single_server_makes_opens_and_finds_a_file() {
    let cluster = Cluster::start(1);
    let mut client = cluster.client();
    client.open_volume(&osd(&cluster, 1));

    let Reply::Opened(opened) = client.change(create("a", true)).unwrap() else {
        panic!("not opened");
    };

    let inode = opened.attr.unwrap().inode;
    let grant = opened.grant.unwrap();
    assert_eq!(inode_of(client.read(lookup("a")).unwrap()), inode);
    assert_eq!(grant.replicas.len(), 1);
    assert_eq!(grant.replicas[0].address, heartbeat(1).address);
    let capability = Capability::open(&grant.capability, &common::secret(), UnixNanos(0)).unwrap();
    assert_eq!(
        (capability.inode.0, capability.rights),
        (inode, Rights::Write)
    );
    assert_eq!(capability.session.0, client.session);
    assert_eq!(client.read(lookup("b")).unwrap_err().errno, libc::ENOENT);
}

#[test]
fn follower_passes_requests_of_mounts_on_if_they_ask_for_it() {
    let cluster = Cluster::start(3);
    let mut client = cluster.client();
    let server = osd(&cluster, 1);
    client.open_volume(&server);
    let leader = client.leader();
    let follower = leader % 3 + 1;
    let redirected = |answer: Result<Reply, CallError>| {
        let redirects = |fault: &types::Fault| fault.remedy == types::Remedy::Redirect;
        matches!(answer, Err(CallError::Fault(fault)) if redirects(&fault))
    };

    let mut make = client.next(make_dir("dir"));
    assert!(redirected(client.ask_one(follower, &make)));
    make.forward = true;
    let made = client.ask_one(follower, &make).unwrap();
    let found = client.read(lookup("dir")).unwrap();
    assert_eq!(inode_of(found), inode_of(made.clone()));
    // To the leader it means nothing, and repeated it is what was done before.
    assert_eq!(client.ask_one(leader, &make).unwrap(), made);
    let again = wire::Request {
        forward: true,
        ..client.next(make_dir("dir"))
    };
    match client.ask_one(follower, &again) {
        Err(CallError::Fault(fault)) => assert_eq!(fault.errno, libc::EEXIST),
        other => panic!("{other:?}"),
    }
    let beat = wire::Request {
        forward: true,
        op: Some(Op::OsdHeartbeat(heartbeat(1))),
        ..wire::Request::default()
    };
    assert!(redirected(server.ask_one(follower, &beat)), "no mount's");
}

#[test]
fn repeated_change_gets_its_stored_reply_from_the_next_leader() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    client.open_volume(&osd(&cluster, 1));
    let request = client.next(make_dir("once"));
    let first = client.ask(&request).unwrap();

    let leader = client.leader();
    cluster.kill(leader);

    assert_eq!(client.ask(&request).unwrap(), first);
    let again = client.change(make_dir("once")).unwrap_err();
    assert_eq!(again.errno, libc::EEXIST);
}

#[test]
fn followers_name_the_leader() {
    let cluster = Cluster::start(3);
    let mut client = cluster.client();
    client.open_volume(&osd(&cluster, 1));
    let leader = client.leader();
    let address = cluster.addresses[leader as usize - 1].to_string();

    for server in (1..=3).filter(|id| *id != leader) {
        let list = wire::Request {
            op: Some(Op::VolumeList(wire::VolumeList {})),
            ..wire::Request::default()
        };
        let Err(shell::link::CallError::Fault(fault)) = client.ask_one(server, &list) else {
            panic!("a follower answered");
        };
        assert_eq!(fault.remedy, types::Remedy::Redirect);
        assert_eq!(fault.hint.as_ref(), Some(&address));
    }
}

#[test]
fn everything_is_there_after_all_servers_were_killed() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    client.open_volume(&osd(&cluster, 1));
    let inode = inode_of(client.change(make_dir("kept")).unwrap());

    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in 1..=3 {
        cluster.restart(id);
    }

    assert_eq!(inode_of(client.read(lookup("kept")).unwrap()), inode);
    client.change(make_dir("more")).unwrap();
}

#[test]
fn wiped_server_comes_back_as_a_voter_with_everything() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    client.open_volume(&osd(&cluster, 1));
    let inode = inode_of(client.change(make_dir("before")).unwrap());
    let leader = client.leader();
    let wiped = leader % 3 + 1;
    let other = wiped % 3 + 1;

    cluster.kill(wiped);
    cluster.wipe(wiped);
    cluster.restart(wiped);
    client.change(make_dir("meanwhile")).unwrap();
    // A learner is no follower: this waits until it votes.
    client.leader();
    // With it and one of the others there is a majority, without it there is none.
    let third = if client.leader() == other {
        leader
    } else {
        other
    };
    cluster.kill(third);

    assert_eq!(inode_of(client.read(lookup("before")).unwrap()), inode);
    client.read(lookup("meanwhile")).unwrap();
    client.change(make_dir("after")).unwrap();
}

#[test]
fn follower_that_is_far_behind_gets_a_checkpoint() {
    let mut cluster = Cluster::start_tuned(3, |config| {
        config.checkpoint_entries = 50;
        config.log_keep_entries = 10;
    });
    let mut client = cluster.client();
    client.open_volume(&osd(&cluster, 1));
    let leader = client.leader();
    let behind = leader % 3 + 1;
    let other = behind % 3 + 1;

    cluster.kill(behind);
    for n in 0..300 {
        client.change(make_dir(&n.to_string())).unwrap();
    }
    let checkpoint = client.wait(|| match client.read(Op::MrcList(wire::MrcList {})) {
        Ok(Reply::Mrcs(mrcs)) if mrcs.checkpoint_index > 200 => Some(mrcs.checkpoint_index),
        _ => None,
    });
    assert!(checkpoint > 200);
    cluster.restart(behind);
    let third = if client.leader() == other {
        leader
    } else {
        other
    };
    let applied = |server| {
        let list = wire::Request {
            op: Some(Op::MrcList(wire::MrcList {})),
            ..wire::Request::default()
        };
        match client.ask_one(server, &list) {
            Ok(Reply::Mrcs(mrcs)) => Some(mrcs.applied_index),
            _ => None,
        }
    };
    let goal = client.wait(|| applied(third));
    client.wait(|| {
        // Keeps the session alive, should the disk be busy.
        client.read(lookup("0")).unwrap();
        applied(behind).filter(|applied| *applied >= goal)
    });
    cluster.kill(third);

    for n in [0, 150, 299] {
        client.read(lookup(&n.to_string())).unwrap();
    }
    client.change(make_dir("after")).unwrap();
}

#[test]
fn stopped_server_flushed_and_needs_no_replay_to_open() {
    let mut cluster = Cluster::start(1);
    let mut client = cluster.client();
    client.open_volume(&osd(&cluster, 1));
    client.change(make_dir("kept")).unwrap();

    cluster.stop(1).unwrap();
    cluster.restart(1);

    client.read(lookup("kept")).unwrap();
}

#[test]
fn session_registers_with_a_new_leader_and_is_told_its_term() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    client.open_volume(&osd(&cluster, 1));
    let keep = |term, complete| {
        Op::KeepAlive(wire::KeepAlive {
            registered_term: term,
            open_inodes: Vec::new(),
            complete,
            ..wire::KeepAlive::default()
        })
    };
    let kept = |client: &Client, op| match client.read(op) {
        Ok(Reply::KeptAlive(kept)) => kept,
        other => panic!("{other:?}"),
    };
    let first = kept(&client, keep(0, false));
    assert!(!first.register, "the session was opened with this leader");

    let leader = client.leader();
    cluster.kill(leader);

    let second = kept(&client, keep(first.term, false));
    assert!(second.register && second.term > first.term, "{second:?}");
    let outdated = kept(&client, keep(first.term, true));
    assert!(outdated.register, "made for a former leader");
    assert!(!kept(&client, keep(second.term, true)).register);
    assert!(!kept(&client, keep(second.term, false)).register);
}

#[test]
fn lost_index_is_rebuilt_from_the_log() {
    let mut cluster = Cluster::start(1);
    let mut client = cluster.client();
    client.open_volume(&osd(&cluster, 1));
    let inode = inode_of(client.change(make_dir("kept")).unwrap());
    cluster.stop(1).unwrap();

    std::fs::remove_file(index_of(&cluster)).unwrap();
    cluster.restart(1);

    assert_eq!(inode_of(client.read(lookup("kept")).unwrap()), inode);
}

#[test]
fn purged_log_needs_its_index_and_says_so() {
    let mut cluster = Cluster::start_tuned(1, |config| {
        config.checkpoint_entries = 50;
        config.log_keep_entries = 10;
    });
    let mut client = cluster.client();
    client.open_volume(&osd(&cluster, 1));
    for n in 0..200 {
        client.change(make_dir(&n.to_string())).unwrap();
    }
    client.wait(|| match client.read(Op::MrcList(wire::MrcList {})) {
        Ok(Reply::Mrcs(mrcs)) if mrcs.checkpoint_index > 100 => Some(()),
        _ => None,
    });

    cluster.kill(1);
    cluster.restart(1);
    for n in [0, 100, 199] {
        client.read(lookup(&n.to_string())).unwrap();
    }

    cluster.stop(1).unwrap();
    std::fs::remove_file(index_of(&cluster)).unwrap();
    cluster.restart(1);
    let error = cluster.ended(1).unwrap_err().to_string();
    assert!(error.contains("the log begins behind entry"), "{error}");
}

fn index_of(cluster: &Cluster) -> std::path::PathBuf {
    std::fs::read_dir(cluster.dir_of(1))
        .unwrap()
        .map(|item| item.unwrap().path())
        .find(|path| path.to_str().unwrap().contains("/index-"))
        .unwrap()
}

/// In its old term it could not tell whether it has applied again all that it had answered.
#[test]
fn restarted_leader_leads_in_a_new_term() {
    let mut cluster = Cluster::start(1);
    let mut client = cluster.client();
    client.open_volume(&osd(&cluster, 1));
    let term = |client: &Client| {
        let keep = wire::KeepAlive {
            registered_term: 0,
            open_inodes: Vec::new(),
            complete: true,
            ..wire::KeepAlive::default()
        };
        match client.read(Op::KeepAlive(keep)) {
            Ok(Reply::KeptAlive(kept)) => kept.term,
            other => panic!("{other:?}"),
        }
    };
    let before = term(&client);

    cluster.kill(1);
    cluster.restart(1);

    assert!(term(&client) > before);
}
