//! Single steps of the protocol, with every message in the test's hand.

use bytes::Bytes;
use osd_core::{
    CallKind, ChangeOrder, Config, Effect, Input, LeaseEvent, Membership, ObjectReplica, Op,
    Payload, ReplicaSet, StoreError, deleted_response,
};
use proto::peer;
use proto::peer::Refusal;
use proto::peer::request::Op as PeerOp;
use proto::peer::response::Reply;
use types::{Duration, OsdId, Remedy, SessionId};

use crate::bench::*;
use crate::world::{KEY, osd};

#[test]
fn promise_is_answered_only_when_it_is_on_disk() {
    let mut bench = Bench::new(3, Config::default());

    let effects = bench.peer(1, request(1, EPOCH, 1, activate()));

    assert!(answers(&effects).is_empty());
    let Some(Effect::Sync {
        ticket, mut job, ..
    }) = effects.into_iter().next_back()
    else {
        panic!("nothing is written");
    };
    let result = job.run();
    bench.store.lose_power(&mut |_| 1);
    let effects = bench.step(Input::StoreDone { ticket, result });
    assert!(matches!(answers(&effects)[..], [Reply::Activated(_)]));
    let reopened = Bench {
        replica: ObjectReplica::open(
            osd(0),
            KEY,
            Membership {
                view: 1,
                replicas: ReplicaSet::new([0, 1, 2].map(osd)),
                incomplete: false,
                recovered: false,
                policy: types::Policy::default(),
            },
            Config::default(),
            &mut bench.store,
        )
        .unwrap(),
        ..bench
    };
    assert_eq!(reopened.replica.status().promised.epoch, EPOCH);
}

#[test]
fn older_epochs_and_the_same_epoch_of_somebody_else_are_refused() {
    let mut bench = Bench::new(3, Config::default());
    bench.settle(peer_request(1, request(1, EPOCH, 1, activate())));

    for (from, epoch) in [(2, EPOCH - 1), (2, EPOCH), (1, EPOCH - 1)] {
        let effects = bench.peer(from, request(from, epoch, 9, activate()));
        assert_eq!(refusal(&effects), Some(Refusal::OldEpoch), "{from} {epoch}");
    }
    let again = bench.peer(1, request(1, EPOCH, 1, activate()));
    assert_eq!(
        refusal(&again),
        Some(Refusal::Gap),
        "an attempt counts once"
    );
    let lied = bench.peer(2, request(1, EPOCH, 2, activate()));
    assert_eq!(refusal(&lied), Some(Refusal::Malformed));
    let stranger = bench.peer(8, request(8, EPOCH + 1, 1, activate()));
    assert_eq!(refusal(&stranger), Some(Refusal::NotAMember));
    let mut old_view = request(1, EPOCH, 2, activate());
    old_view.view = 0;
    assert_eq!(refusal(&bench.peer(1, old_view)), Some(Refusal::OldView));
}

#[test]
fn changes_are_taken_in_order_and_only_after_adoption() {
    let mut bench = Bench::new(3, Config::default());
    bench.settle(peer_request(1, request(1, EPOCH, 1, activate())));
    let change = |seq| {
        PeerOp::Replicate(peer::Replicate {
            seq,
            change: Some(peer::Change::default()),
        })
    };

    let early = bench.peer(1, request(1, EPOCH, 1, change(1)));
    assert_eq!(refusal(&early), Some(Refusal::Gap));
    let adopted = bench.peer(
        1,
        request(1, EPOCH, 1, PeerOp::Adopt(peer::Adopt::default())),
    );
    assert!(matches!(answers(&adopted)[..], [Reply::CaughtUp(_)]));
    let gap = bench.peer(1, request(1, EPOCH, 1, change(2)));
    assert_eq!(refusal(&gap), Some(Refusal::Gap));
    let next = bench.peer(1, request(1, EPOCH, 1, change(1)));
    assert!(matches!(answers(&next)[..], [Reply::Replicated(_)]));
}

#[test]
fn one_backup_that_answers_twice_is_no_quorum() {
    let mut bench = Bench::new(5, Config::default());
    bench.client(1, write(1, b"one"));
    let effects = bench.hold(true, 1);
    let sent = calls(&effects, is_activate);
    for (peer, call) in &sent {
        bench.reply(*peer, *call, activated(1, 1, 0));
    }
    let changes = calls(&effects, |kind| matches!(kind, CallKind::Replicate { .. }));
    let (peer, call) = changes[0];
    let applied = || Reply::Replicated(peer::Replicated { seq: 1 });

    let mut effects = bench.reply(peer, call, applied());
    effects.extend(bench.reply(peer, call, applied()));
    assert!(replies(&effects).is_empty());

    let (other, call) = changes[1];
    let effects = bench.reply(other, call, applied());
    assert_eq!(replies(&effects), [(1, Ok(Bytes::new()))]);
}

/// Whether a value found on one replica of five is served before a third has it.
pub(crate) fn serves_before_quorum(config: Config) -> bool {
    let mut bench = Bench::new(5, config);
    bench.client(1, read());
    let effects = bench.hold(false, EPOCH);
    let mut served = false;
    // One replica is ahead, so the activation for reading becomes one for writing.
    let answer = |peer: usize| match peer {
        1 => activated(EPOCH - 1, 2, 1),
        _ => activated(0, 0, 0),
    };
    let mut sent = calls(&effects, is_activate);
    let mut effects = Vec::new();
    for _ in 0..2 {
        let mut next = Vec::new();
        for (peer, call) in sent.into_iter().take(3) {
            let done = bench.reply(peer, call, answer(peer));
            next.extend(calls(&done, is_activate));
            effects.extend(done);
        }
        sent = next;
    }
    // It fetches from replica 1, the only one that has the value.
    let sums = calls(&effects, |kind| matches!(kind, CallKind::Sums { .. }));
    let (source, call) = *sums.first().expect("it compares with the source");
    assert_eq!(source, 1);
    let block = Reply::BlockSums(peer::BlockSums {
        sums: vec![1],
        length_bytes: 3,
        zero_blocks: 0,
    });
    let effects = bench.reply(source, call, block);
    let fetches = calls(&effects, |kind| matches!(kind, CallKind::Fetch { .. }));
    let (_, call) = *fetches.first().expect("it fetches the block");
    let response = peer::Response {
        view: 1,
        reply: Some(Reply::Fetched(peer::Fetched { length_bytes: 3 })),
        ..peer::Response::default()
    };
    let effects = bench.settle(Input::PeerReply {
        from: osd(source),
        call,
        reply: Ok((response, Payload::of(Bytes::from_static(b"new")))),
    });
    served |= !replies(&effects).is_empty();
    let adopts = calls(&effects, |kind| kind == CallKind::Adopt);
    for (peer, call) in adopts {
        let effects = bench.reply(peer, call, Reply::CaughtUp(peer::CaughtUp { seq: 1 }));
        served |= !replies(&effects).is_empty();
    }
    served
}

#[test]
fn value_found_on_one_of_five_is_not_served_before_a_quorum_has_it() {
    assert!(!serves_before_quorum(Config::default()));
}

#[test]
fn newer_promise_elsewhere_ends_the_tenure_and_raises_the_floor() {
    let (mut bench, changes) = serving();
    let effects = bench.client(2, write(2, b"two"));
    let sent = calls(&effects, |kind| matches!(kind, CallKind::Replicate { .. }));
    assert_eq!(sent.len(), changes.len());

    let response = peer::Response {
        promised_epoch: EPOCH,
        promised_holder: 3,
        view: 1,
        full: false,
        reply: Some(Reply::Refused(peer::Refused {
            refusal: Refusal::OldEpoch.into(),
            ..peer::Refused::default()
        })),
    };
    let effects = bench.settle(Input::PeerReply {
        from: osd(sent[0].0),
        call: sent[0].1,
        reply: Ok((response, Payload::default())),
    });

    assert_eq!(replies(&effects), [(2, Err(Remedy::Retry))]);
    let released = |effect: &Effect| matches!(effect, Effect::ReleaseLease);
    assert!(effects.iter().any(released));
    let effects = bench.client(3, write(3, b"two"));
    let floor = effects.iter().find_map(|effect| match effect {
        Effect::AcquireLease { floor, newborn } => Some((*floor, *newborn)),
        _ => None,
    });
    assert_eq!(floor, Some((EPOCH, false)));
}

/// A write or append of `data` at the beginning, sent as `order` says.
fn sent(data: &'static [u8], append: bool, order: ChangeOrder) -> Op {
    Op::Write {
        offset: 0,
        data: Payload::of(Bytes::from_static(data)),
        append,
        order,
    }
}

#[test]
fn attempt_older_than_the_newest_applied_is_refused() {
    let (mut bench, _) = serving();
    let order = ChangeOrder {
        change_id: 1,
        ..ChangeOrder::first(2)
    };

    let effects = bench.client(2, sent(b"old", false, order));

    assert_eq!(replies(&effects), [(2, Err(Remedy::Retry))]);
    assert_eq!(bench.store.bytes(KEY).unwrap(), b"one");
}

#[test]
fn repeated_change_is_not_done_again_and_answered_as_it_was_done() {
    let (mut bench, _) = serving();
    let attempt = |change_id| ChangeOrder {
        change_id,
        ..ChangeOrder::first(2)
    };
    let effects = bench.client(2, sent(b"end", true, attempt(2)));
    let (peer, call) = calls(&effects, |kind| matches!(kind, CallKind::Replicate { .. }))[0];
    bench.client(3, sent(b"end", true, attempt(3)));
    assert_eq!(bench.store.bytes(KEY).unwrap(), b"oneend");

    let again = ChangeOrder {
        change_id: 4,
        ..ChangeOrder::first(1)
    };
    bench.client(4, sent(b"two", false, again));
    let truncate = Op::Truncate {
        length_bytes: 0,
        order: again,
    };
    bench.client(5, truncate);
    assert_eq!(bench.store.bytes(KEY).unwrap(), b"oneend");

    let applied = Reply::Replicated(peer::Replicated { seq: 2 });
    let effects = bench.reply(peer, call, applied);
    let done = effects.iter().filter_map(|effect| match effect {
        Effect::Reply {
            request, result, ..
        } => Some((*request, result.as_ref().unwrap().offset)),
        _ => None,
    });
    assert_eq!(done.collect::<Vec<_>>(), [(2, 3), (3, 3), (4, 0), (5, 0)]);
}

/// What one session did is not done again by the next session of the same mount.
#[test]
fn change_repeated_in_a_later_session_is_not_done_again() {
    let (mut bench, _) = serving();
    let later = |change_id, first_id, after| Input::Client {
        request: change_id,
        session: SessionId(2),
        op: sent(
            b"two",
            false,
            ChangeOrder {
                change_id,
                first_id,
                first_session: SessionId(1),
                after,
                follows: 0,
            },
        ),
    };

    bench.step(later(8, 1, 0));
    assert_eq!(bench.store.bytes(KEY).unwrap(), b"one");
    bench.step(later(9, 2, 1));
    assert_eq!(bench.store.bytes(KEY).unwrap(), b"two");
}

#[test]
fn change_that_overtakes_the_one_before_it_is_refused() {
    let (mut bench, _) = serving();
    let order = |change_id, after| ChangeOrder {
        after,
        ..ChangeOrder::first(change_id)
    };

    let effects = bench.client(2, sent(b"thr", false, order(3, 2)));
    assert_eq!(replies(&effects), [(2, Err(Remedy::Retry))]);
    assert_eq!(bench.store.bytes(KEY).unwrap(), b"one");

    bench.client(3, sent(b"two", false, order(4, 0)));
    bench.client(4, sent(b"thr", false, order(5, 4)));
    assert_eq!(bench.store.bytes(KEY).unwrap(), b"thr");
}

#[test]
fn silent_backup_is_left_behind_and_writes_go_on() {
    let (mut bench, _) = serving();
    bench.client(2, write(2, b"two"));
    bench.now += Duration::from_secs(2);
    let effects = bench.settle(Input::Tick);

    let behind = effects.iter().find_map(|effect| match effect {
        Effect::Behind { replicas } => Some(replicas.clone()),
        _ => None,
    });
    assert_eq!(behind, Some(vec![OsdId(2), OsdId(3)]));
    bench.now += Duration::from_secs(5);
    let effects = bench.settle(Input::Tick);
    assert_eq!(
        replies(&effects),
        [(2, Err(Remedy::Retry))],
        "no request waits for ever"
    );
}

#[test]
fn expired_lease_ends_the_tenure_whatever_comes_first() {
    let (mut bench, _) = serving();
    bench.now += Duration::from_secs(2_000);

    let effects = bench.client(2, read());

    assert!(replies(&effects).iter().all(|(_, result)| result.is_err()));
    let asks = |effect: &Effect| matches!(effect, Effect::AcquireLease { .. });
    bench.now += Duration::from_secs(1);
    assert!(bench.settle(Input::Tick).iter().any(asks));
}

#[test]
fn full_queue_says_busy() {
    let mut bench = Bench::new(3, Config::default());
    let max = osd_core::config::WAITING_REQUESTS_MAX as u64;
    for request in 0..max {
        assert!(replies(&bench.client(request, read())).is_empty());
    }

    let effects = bench.client(max, read());

    assert_eq!(replies(&effects), [(max, Err(Remedy::Retry))]);
}

#[test]
fn failed_sync_leaves_the_object_to_others() {
    let (mut bench, _) = serving();
    bench.store.fail_syncs();

    let effects = bench.client(2, Op::Sync { follows: 0 });

    assert_eq!(replies(&effects), [(2, Err(Remedy::Retry))]);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::ReleaseLease))
    );
    let effects = bench.client(3, read());
    assert_eq!(replies(&effects), [(3, Err(Remedy::Redirect))]);
    let effects = bench.peer(1, request(1, EPOCH, 1, activate()));
    assert_eq!(refusal(&effects), Some(Refusal::StoreFailed));
}

#[test]
fn deleted_object_is_gone_and_peers_are_told() {
    let (mut bench, _) = serving();

    let effects = bench.settle(Input::Delete { request: 2 });

    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Deleted))
    );
    assert_eq!(bench.store.bytes(KEY), None);
    assert!(matches!(deleted_response(1).reply, Some(Reply::Refused(_))));
}

#[test]
fn shutdown_makes_the_object_clean_and_releases_the_lease() {
    let (mut bench, _) = serving();

    let effects = bench.settle(Input::Shutdown);
    let syncs = calls(&effects, |kind| matches!(kind, CallKind::Sync { .. }));
    assert_eq!(syncs.len(), 2);
    let mut effects = Vec::new();
    for (peer, call) in syncs {
        let synced = Reply::Synced(peer::Synced { seq: 1 });
        effects.extend(bench.reply(peer, call, synced));
    }

    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::ReleaseLease))
    );
    assert!(bench.replica.status().clean && bench.replica.is_idle());
}

/// The adapter's errors reach the machine as what they are.
#[test]
fn store_that_fails_while_reading_is_left_to_others() {
    let (mut bench, _) = serving();
    let ticket = bench.step(Input::Client {
        request: 2,
        session: SessionId(1),
        op: Op::Sync { follows: 0 },
    });
    let ticket = ticket.into_iter().find_map(|effect| match effect {
        Effect::Sync { ticket, .. } => Some(ticket),
        _ => None,
    });

    let effects = bench.settle(Input::StoreDone {
        ticket: ticket.unwrap(),
        result: Err(StoreError::Io(std::io::Error::other("disk"))),
    });

    assert_eq!(replies(&effects), [(2, Err(Remedy::Retry))]);
}

#[test]
fn replica_whose_store_failed_is_not_woken_for_a_lease_it_must_not_have() {
    let mut bench = Bench::new(3, Config::default());
    let write = Op::Write {
        offset: 0,
        data: Payload {
            crc32c: crc32c::crc32c(b"x"),
            bytes: Bytes::from_static(b"x"),
        },
        append: false,
        order: ChangeOrder::first(1),
    };
    bench.client(1, write);
    bench.settle(Input::Lease(LeaseEvent::HeldBy {
        member: osd(0),
        remaining: Duration::from_millis(10),
    }));
    bench.hold(false, EPOCH);
    bench.store.fail_syncs();
    let until = bench.replica.next_wakeup().unwrap();
    bench.settle(peer_request(1, request(1, EPOCH + 1, 1, activate())));
    bench.now = until + Duration::from_secs(100);

    bench.settle(Input::BringUp);
    bench.settle(Input::Tick);

    let now = bench.now;
    assert!(bench.replica.next_wakeup().is_none_or(|at| at > now));
}
