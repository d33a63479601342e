//! What a replica does when its disk, or those of others, don't do their part.

use bytes::Bytes;
use osd_core::{
    CallKind, ChangeOrder, Config, Effect, Input, LeaseEvent, ObjectKey, ObjectStore, Op, Payload,
    PeerFailure, Record, WaitsFor,
};
use proto::peer;
use proto::peer::Refusal;
use proto::peer::request::Op as PeerOp;
use proto::peer::response::Reply;
use types::{Duration, Fault, Inode, ObjectId, OsdId, Remedy, SessionId};

use crate::bench::*;
use crate::world::{KEY, osd};

/// Lets the store take no changes any more, without a word to the replica.
fn poison(bench: &mut Bench) {
    let other = ObjectKey {
        object: ObjectId {
            inode: Inode(1),
            ..KEY.object
        },
        ..KEY
    };
    bench.store.create(other, &Record::default()).unwrap();
    let mut job = bench.store.sync(other, true, &Record::default()).unwrap();
    bench.store.fail_syncs();
    assert!(job.run().is_err());
}

pub(crate) fn errnos(effects: &[Effect]) -> Vec<(u64, i32)> {
    let faults = effects.iter().filter_map(|effect| match effect {
        Effect::Reply {
            request,
            result: Err(fault),
            ..
        } => Some((*request, fault.errno)),
        _ => None,
    });
    faults.collect()
}

pub(crate) fn count(effects: &[Effect], is: fn(&Effect) -> bool) -> usize {
    effects.iter().filter(|effect| is(effect)).count()
}

#[test]
fn store_that_makes_no_object_is_not_called_full() {
    let mut bench = Bench::new(3, Config::default());
    poison(&mut bench);
    bench.client(1, write(1, b"one"));

    let effects = bench.hold(false, EPOCH);

    assert_eq!(replies(&effects), [(1, Err(Remedy::Redirect))]);
    let effects = bench.client(2, read());
    assert_eq!(replies(&effects), [(2, Err(Remedy::Redirect))]);
}

#[test]
fn serving_primary_that_is_to_recover_only_has_to_reach_its_disk() {
    let recovered = |effect: &Effect| matches!(effect, Effect::Recovered { .. });
    let (mut bench, _) = serving();
    bench.client(1, write(1, b"one"));

    let effects = bench.step(recover());

    assert_eq!(count(&effects, recovered), 0, "what it has is in memory");
    let syncs = effects.into_iter().filter_map(|effect| match effect {
        Effect::Sync { ticket, job, .. } => Some((ticket, job)),
        _ => None,
    });
    let [(ticket, mut job)] = <[_; 1]>::try_from(syncs.collect::<Vec<_>>()).unwrap();
    let result = job.run();
    let effects = bench.step(Input::StoreDone { ticket, result });
    assert_eq!(count(&effects, recovered), 1);
}

#[test]
fn copy_of_what_was_deleted_elsewhere_is_as_new_as_it_can_be() {
    let mut bench = Bench::new(3, Config::default());
    let newest = osd_core::Position {
        epoch: EPOCH,
        seq: 1,
        holder: OsdId(2),
    };
    let effects = bench.settle(Input::Recover { newest });
    let asked = calls(&effects, |kind| kind == CallKind::WantCatchUp);

    let refused = Reply::Refused(peer::Refused {
        refusal: Refusal::Deleted.into(),
        ..peer::Refused::default()
    });
    let effects = bench.reply(asked[0].0, asked[0].1, refused);

    let recovered = effects.iter().find_map(|effect| match effect {
        Effect::Recovered { position } => Some(*position),
        _ => None,
    });
    assert_eq!(recovered, Some(newest), "or it would be wanted for ever");
}

#[test]
fn recovery_that_can_not_go_on_is_given_back() {
    let not_recovered = |effect: &Effect| matches!(effect, Effect::NotRecovered);
    let (mut bench, _) = serving();
    bench.client(1, write(1, b"one"));
    bench.store.fail_syncs();

    let effects = bench.settle(recover());

    assert_eq!(count(&effects, not_recovered), 1);
    let effects = bench.settle(recover());
    assert_eq!(count(&effects, not_recovered), 1);

    let mut bench = Bench::new(3, Config::default());
    let newest = osd_core::Position {
        epoch: EPOCH,
        seq: 1,
        holder: OsdId(2),
    };
    bench.settle(Input::Recover { newest });
    let effects = bench.settle(Input::Shutdown);
    assert_eq!(count(&effects, not_recovered), 1);
}

#[test]
fn replica_that_stops_or_failed_takes_no_work() {
    let wants = |message| PeerOp::WantCatchUp(message);
    let mut bench = Bench::new(3, Config::default());
    bench.settle(Input::Shutdown);

    let effects = bench.settle(Input::BringUp);
    let asks = |effect: &Effect| matches!(effect, Effect::AcquireLease { .. });
    assert_eq!(count(&effects, asks), 0);
    assert!(bench.replica.is_idle());
    let message = request(1, 0, 0, wants(peer::WantCatchUp::default()));
    let effects = bench.peer(1, message);
    assert_eq!(refusal(&effects), Some(Refusal::Busy));
    assert!(bench.replica.is_idle());
}

/// A change without space leaves a copy whose bytes nobody vouches for; a sync that waits for them
/// would wait for ever, and the disk would be asked again and again.
#[test]
fn sync_that_waits_is_refused_when_the_copy_is_no_longer_the_history() {
    let mut bench = Bench::new(3, Config::default());
    bench.settle(peer_request(1, request(1, EPOCH, 1, activate())));
    let adopt = PeerOp::Adopt(peer::Adopt::default());
    bench.peer(1, request(1, EPOCH, 1, adopt));
    let change = |seq, bytes: &'static [u8]| {
        let replicate = PeerOp::Replicate(peer::Replicate {
            seq,
            change: Some(peer::Change::default()),
        });
        Input::PeerRequest {
            from: osd(1),
            answer: 7,
            message: request(1, EPOCH, 1, replicate),
            payload: Payload::of(Bytes::from_static(bytes)),
        }
    };
    let sync = |seq| {
        let sync = PeerOp::Sync(peer::Sync { seq, clean: false });
        request(1, EPOCH, 1, sync)
    };
    bench.step(change(1, b"one"));
    let effects = bench.peer(1, sync(1));
    let job = effects.into_iter().find_map(|effect| match effect {
        Effect::Sync { ticket, job, .. } => Some((ticket, job)),
        _ => None,
    });
    let (ticket, mut job) = job.expect("a job");
    bench.step(change(2, b"two"));
    assert!(answers(&bench.peer(1, sync(2))).is_empty());

    bench.store.limit(Some(4));
    let effects = bench.step(change(3, b"longer than that"));

    let refused = answers(&effects)
        .into_iter()
        .filter(|reply| matches!(reply, Reply::Refused(_)));
    // Both syncs, and the change itself.
    assert_eq!(refused.count(), 3);
    let result = job.run();
    let effects = bench.step(Input::StoreDone { ticket, result });
    let syncs = |effect: &Effect| matches!(effect, Effect::Sync { .. });
    assert_eq!(count(&effects, syncs), 0, "{effects:?}");
}

#[test]
fn primary_whose_disk_does_not_answer_leaves_the_object_to_others() {
    let (mut bench, _) = serving();
    let effects = bench.step(Input::Client {
        request: 2,
        session: SessionId(1),
        op: Op::Sync { follows: 0 },
    });
    let ticket = effects.iter().find_map(|effect| match effect {
        Effect::Sync { ticket, .. } => Some(*ticket),
        _ => None,
    });
    for (peer, call) in calls(&effects, |kind| matches!(kind, CallKind::Sync { .. })) {
        bench.settle(Input::PeerReply {
            from: osd(peer),
            call,
            reply: Err(PeerFailure::Timeout),
        });
    }
    let timeout = Config::default().step_timeout;

    bench.now += timeout.saturating_sub(Duration::from_secs(1));
    let effects = bench.settle(Input::Tick);
    let released = |effect: &Effect| matches!(effect, Effect::ReleaseLease);
    assert_eq!(count(&effects, released), 0);
    let wakeup = bench.replica.next_wakeup().expect("a look at the disk");
    assert!(wakeup.since(bench.now) <= Duration::from_secs(1));
    bench.now += Duration::from_secs(1);
    let effects = bench.settle(Input::Tick);
    assert_eq!(count(&effects, released), 1);

    let effects = bench.client(3, read());
    assert_eq!(replies(&effects), [(3, Err(Remedy::Redirect))]);
    bench.settle(Input::StoreDone {
        ticket: ticket.unwrap(),
        result: Ok(()),
    });
    let effects = bench.client(4, read());
    assert_eq!(replies(&effects), [], "the disk answers again");
}

#[test]
fn sync_that_waits_names_those_whose_disks_it_waits_for() {
    let (mut bench, _) = serving();
    let effects = bench.step(Input::Client {
        request: 2,
        session: SessionId(1),
        op: Op::Sync { follows: 0 },
    });
    let silent = |bench: &Bench| match bench.replica.stall(bench.now).unwrap().waits_for {
        WaitsFor::Quorum { silent } => silent,
        other => panic!("waits for {other}"),
    };
    assert_eq!(silent(&bench), [osd(0), osd(1), osd(2)]);

    let syncs = calls(&effects, |kind| matches!(kind, CallKind::Sync { .. }));
    let (peer, call) = syncs[0];
    bench.reply(peer, call, Reply::Synced(peer::Synced { seq: 1 }));
    let other = 3 - peer;
    assert_eq!(silent(&bench), [osd(0), osd(other)]);
}

/// What a server does that has become primary and whose disk does not answer, until it gives up.
fn wait_for_the_disk(bench: &mut Bench, epoch: u64) -> (Duration, Vec<Effect>) {
    bench.client(1, read());
    let effects = bench.step(Input::Lease(LeaseEvent::Held {
        epoch,
        until: bench.now + Duration::from_secs(1_000),
        newborn: false,
    }));
    assert_ne!(calls(&effects, is_activate), []);
    let begun = bench.now;
    loop {
        bench.now = bench.replica.next_wakeup().expect("it gives up");
        let effects = bench.step(Input::Tick);
        let left = |effect: &Effect| matches!(effect, Effect::ReleaseLease);
        if count(&effects, left) > 0 {
            return (bench.now.since(begun), effects);
        }
    }
}

#[test]
fn new_primary_whose_disk_is_slow_leaves_the_object_to_others_soon() {
    let mut bench = Bench::new(3, Config::default());
    bench.client(1, write(1, b"one"));

    let (first, effects) = wait_for_the_disk(&mut bench, EPOCH);

    assert!(first <= Duration::from_millis(1_001), "{first:?}");
    assert_eq!(replies(&effects)[0].1, Err(Remedy::Redirect));
    let effects = bench.client(3, read());
    assert_eq!(replies(&effects), [(3, Err(Remedy::Redirect))]);
    assert!(!acquires(&effects), "the others have to");
}

fn acquires(effects: &[Effect]) -> bool {
    let acquires = |effect: &Effect| matches!(effect, Effect::AcquireLease { .. });
    effects.iter().any(acquires)
}

#[test]
fn primary_without_a_change_that_was_acknowledged_says_so() {
    let (mut bench, _) = serving();
    let lost = Fault::changes_lost().errno;
    let append = |follows| Op::Write {
        offset: 0,
        data: Payload::of(Bytes::from_static(b"more")),
        append: true,
        order: ChangeOrder {
            follows,
            ..ChangeOrder::first(9)
        },
    };
    let truncate = |follows| Op::Truncate {
        length_bytes: 0,
        order: ChangeOrder {
            follows,
            ..ChangeOrder::first(9)
        },
    };

    let known = bench.step(client(2, Op::Sync { follows: 1 }));
    assert_eq!(errnos(&known), []);
    for op in [append(2), truncate(2), Op::Sync { follows: 2 }] {
        assert_eq!(errnos(&bench.step(client(3, op))), [(3, lost)]);
    }
    let mut other = client(4, Op::Sync { follows: 1 });
    if let Input::Client { session, .. } = &mut other {
        *session = SessionId(2);
    }
    assert_eq!(errnos(&bench.step(other)), [(4, lost)]);

    assert_eq!(bench.store.bytes(KEY).unwrap(), b"one");
    assert_eq!(errnos(&bench.step(client(5, append(0)))), []);
    assert_eq!(bench.store.bytes(KEY).unwrap(), b"onemore");
}

/// An object that looks new here may be known elsewhere; then nothing is lost.
#[test]
fn change_that_follows_others_waits_until_the_object_is_known_to_be_new() {
    let mut bench = Bench::new(3, Config::default());
    let follower = Op::Write {
        offset: 0,
        data: Payload::of(Bytes::from_static(b"one")),
        append: false,
        order: ChangeOrder {
            follows: 8,
            ..ChangeOrder::first(9)
        },
    };
    bench.step(client(1, follower));

    let effects = bench.hold(true, 1);

    assert_eq!(replies(&effects), []);
    let (peer, call) = calls(&effects, is_activate)[0];
    let effects = bench.reply(peer, call, activated(1, 1, 0));
    assert_eq!(errnos(&effects), [(1, Fault::changes_lost().errno)]);
}

fn client(request: u64, op: Op) -> Input {
    Input::Client {
        request,
        session: SessionId(1),
        op,
    }
}

/// Nobody would notice a disk that rots otherwise.
#[test]
fn damaged_block_is_reported_with_the_replica_that_replaced_it() {
    let (mut bench, _) = serving();
    assert!(bench.store.damage(KEY, 0));

    let effects = bench.client(2, read());
    let fetches = calls(&effects, |kind| matches!(kind, CallKind::Fetch { .. }));
    let (source, call) = fetches[0];
    let response = peer::Response {
        view: 1,
        reply: Some(Reply::Fetched(peer::Fetched { length_bytes: 3 })),
        ..peer::Response::default()
    };
    let effects = bench.settle(Input::PeerReply {
        from: osd(source),
        call,
        reply: Ok((response, Payload::of(Bytes::from_static(b"one")))),
    });

    let reports = effects.iter().filter_map(|effect| match effect {
        Effect::Damaged { block, mended_from } => Some((*block, *mended_from)),
        _ => None,
    });
    assert_eq!(reports.collect::<Vec<_>>(), [(0, Some(osd(source)))]);
    assert_eq!(replies(&effects), [(2, Ok(Bytes::from_static(b"one")))]);
}

/// Whom the last of these effects says to be behind.
fn behind(effects: &[Effect]) -> Option<Vec<OsdId>> {
    let mut told = effects.iter().rev().filter_map(|effect| match effect {
        Effect::Behind { replicas } => Some(replicas.clone()),
        _ => None,
    });
    told.next()
}

#[test]
fn replica_that_is_still_behind_is_told_of_in_each_tenure() {
    let (mut bench, _) = serving();
    let sent = bench.client(2, write(2, b"two"));
    let changes = calls(&sent, |kind| matches!(kind, CallKind::Replicate { .. }));
    let reply = Reply::Replicated(peer::Replicated { seq: 2 });
    bench.reply(1, changes[0].1, reply);
    bench.now += Duration::from_secs(2);
    assert_eq!(behind(&bench.settle(Input::Tick)), Some(vec![OsdId(3)]));

    bench.settle(Input::Lease(LeaseEvent::Lost { epoch: 1 }));
    bench.client(3, read());
    let asked = calls(&bench.hold(false, EPOCH), is_activate);
    let effects = bench.reply(1, asked[0].1, activated(1, 1, 2));

    assert_eq!(behind(&effects), None, "not serving yet");
    let adopts = calls(&effects, |kind| kind == CallKind::Adopt);
    let reply = Reply::CaughtUp(peer::CaughtUp { seq: 2 });
    let told = behind(&bench.reply(1, adopts[0].1, reply));
    assert_eq!(told, Some(vec![OsdId(3)]));
}
