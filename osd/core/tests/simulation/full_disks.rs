//! Replicas without room: a majority that has some is enough, and what none has room for leaves nothing
//! behind.

use bytes::Bytes;
use osd_core::{Call, CallKind, ChangeOrder, Config, Effect, Input, Op, Payload};
use proto::peer;
use proto::peer::Refusal;
use proto::peer::response::Reply;
use types::{Duration, Remedy};

use crate::bench::*;
use crate::failures::{count, errnos};
use crate::world::{KEY, osd};

pub(crate) const ENOSPC: i32 = 28;

fn hand_overs(effects: &[Effect]) -> Vec<u64> {
    let to = effects.iter().filter_map(|effect| match effect {
        Effect::HandOverLease { to } => Some(to.0),
        _ => None,
    });
    to.collect()
}

fn refused() -> Reply {
    Reply::Refused(peer::Refused {
        refusal: Refusal::NoSpace.into(),
        ..peer::Refused::default()
    })
}

/// A peer that answers and has no room.
fn full(bench: &mut Bench, (from, call): (usize, Call), reply: Reply) -> Vec<Effect> {
    let response = peer::Response {
        view: 1,
        full: true,
        reply: Some(reply),
        ..peer::Response::default()
    };
    bench.settle(Input::PeerReply {
        from: osd(from),
        call,
        reply: Ok((response, Payload::default())),
    })
}

fn append(change_id: u64, data: &'static [u8]) -> Op {
    Op::Write {
        offset: 0,
        data: Payload::of(Bytes::from_static(data)),
        append: true,
        order: ChangeOrder::first(change_id),
    }
}

fn is_change(kind: CallKind) -> bool {
    matches!(kind, CallKind::Replicate { .. })
}

#[test]
fn primary_without_room_hands_the_object_to_a_replica_that_has_some() {
    let (mut bench, changes) = serving();
    bench.store.limit(Some(5));
    // What one of the two said last is that it has none.
    let applied = Reply::Replicated(peer::Replicated { seq: 1 });
    full(&mut bench, changes[0], applied);

    let effects = bench.client(2, append(2, b"longer than that"));

    assert_eq!(replies(&effects), [(2, Err(Remedy::Redirect))]);
    assert_eq!(hand_overs(&effects), [osd(changes[1].0).0]);
    assert_eq!(calls(&effects, is_change), []);
    assert_eq!(bench.store.bytes(KEY).unwrap(), b"one");
}

/// Bytes that were replaced can't be taken back: the others get them, too.
#[test]
fn replicas_stay_equal_when_a_write_without_room_replaced_something() {
    let (mut bench, _) = serving();
    bench.store.limit(Some(5));

    let effects = bench.client(2, write(2, b"longer than that"));

    assert_eq!(replies(&effects), [(2, Err(Remedy::Redirect))]);
    let shared = effects.iter().find_map(|effect| match effect {
        Effect::Send { payload, .. } => Some(payload.bytes.clone()),
        _ => None,
    });
    assert_eq!(shared, Some(Bytes::from_static(b"lon")));
    assert_eq!(bench.store.bytes(KEY).unwrap(), b"lon");
}

/// As when all disks are equal: the others were never asked to take what does not fit here.
#[test]
fn change_that_does_not_fit_here_is_refused_when_the_others_say_that_they_are_full() {
    let (mut bench, changes) = serving();
    bench.store.limit(Some(5));
    let applied = || Reply::Replicated(peer::Replicated { seq: 1 });
    for call in &changes {
        full(&mut bench, *call, applied());
    }

    let effects = bench.client(2, append(2, b"longer than that"));

    assert_eq!(errnos(&effects), [(2, ENOSPC)]);
    assert_eq!(hand_overs(&effects), []);
    assert_eq!(bench.store.bytes(KEY).unwrap(), b"one");
    // What is short enough is taken here, and is for the others to judge.
    let effects = bench.client(3, append(3, b"2"));
    assert_eq!(errnos(&effects), []);
    assert_eq!(calls(&effects, is_change).len(), 2);
}

#[test]
fn one_full_backup_of_two_does_not_keep_a_change_from_its_quorum() {
    let (mut bench, _) = serving();

    let effects = bench.client(2, append(2, b"two"));
    let sent = calls(&effects, is_change);
    assert_eq!(replies(&full(&mut bench, sent[0], refused())), []);
    let applied = Reply::Replicated(peer::Replicated { seq: 2 });
    let effects = bench.reply(sent[1].0, sent[1].1, applied);

    assert_eq!(replies(&effects), [(2, Ok(Bytes::new()))]);
}

#[test]
fn append_for_which_no_majority_has_room_is_undone_everywhere() {
    let (mut bench, _) = serving();
    let effects = bench.client(2, append(2, b"two"));
    let sent = calls(&effects, is_change);
    let read_behind = Op::Read {
        offset: 0,
        length_bytes: 9,
    };
    assert_eq!(replies(&bench.client(3, read_behind)), []);

    full(&mut bench, sent[0], refused());
    let effects = full(&mut bench, sent[1], refused());

    // The read has seen what is gone.
    assert!(errnos(&effects).contains(&(2, ENOSPC)));
    assert!(replies(&effects).contains(&(3, Err(Remedy::Retry))));
    assert_eq!(bench.store.bytes(KEY).unwrap(), b"one");
    // Both are told of the end by being compared, which needs no room, at once.
    bench.now += Duration::from_millis(1);
    let effects = bench.settle(Input::Tick);
    assert_eq!(calls(&effects, is_activate).len(), 2);
    // The same append again is a new one: the first left no trace.
    let again = bench.client(4, append(3, b"two"));
    assert_eq!(errnos(&again), [(4, ENOSPC)]);
}

/// A primary that has undone the second attempt of an append, when there is room again.
fn with_room_again(config: Config) -> Bench {
    let (mut bench, _) = serving_with(config);
    let mut second = append(3, b"two");
    if let Op::Write { order, .. } = &mut second {
        order.first_id = 2;
    }
    let sent = calls(&bench.client(2, second), is_change);
    full(&mut bench, sent[0], refused());
    full(&mut bench, sent[1], refused());
    let activates = calls(&bench.settle(Input::Tick), is_activate);
    for (peer, call) in activates {
        bench.reply(peer, call, activated(1, 1, 1));
    }
    assert_eq!(bench.store.bytes(KEY).unwrap(), b"one");
    bench
}

/// Whether an append is there although the program was told that there is no room: its first attempt was
/// delayed.
pub(crate) fn delayed_append_comes_back(config: Config) -> bool {
    let mut bench = with_room_again(config);
    bench.client(5, append(2, b"two"));
    bench.store.bytes(KEY).unwrap() != b"one"
}

#[test]
fn append_that_was_undone_does_not_come_back_with_an_attempt_that_was_delayed() {
    assert!(!delayed_append_comes_back(Config::default()));
}

#[test]
fn append_that_was_undone_is_not_taken_for_done_when_it_comes_again() {
    let mut bench = with_room_again(Config::default());
    let mut again = append(5, b"two");
    if let Op::Write { order, .. } = &mut again {
        order.first_id = 2;
    }
    bench.client(5, again);

    assert_eq!(bench.store.bytes(KEY).unwrap(), b"onetwo");
}

#[test]
fn new_object_on_a_full_disk_is_left_to_others_or_called_full() {
    for others_full in [false, true] {
        let mut bench = Bench::new(3, Config::default());
        bench.store.limit(Some(0));
        bench.client(1, write(1, b"one"));
        let mut all = bench.hold(false, EPOCH);

        for (peer, call) in calls(&all, is_activate) {
            all.extend(match others_full {
                true => full(&mut bench, (peer, call), refused()),
                false => bench.reply(peer, call, activated(0, 0, 0)),
            });
        }
        for (peer, call) in calls(&all, |kind| kind == CallKind::Adopt) {
            let adopted = Reply::CaughtUp(peer::CaughtUp { seq: 0 });
            all.extend(bench.reply(peer, call, adopted));
        }

        match others_full {
            true => assert_eq!(errnos(&all), [(1, ENOSPC)]),
            false => {
                assert_eq!(replies(&all), [(1, Err(Remedy::Redirect))]);
                assert_eq!(hand_overs(&all).len(), 1);
            }
        }
        let failed = |effect: &Effect| matches!(effect, Effect::NotRecovered);
        assert_eq!(count(&all, failed), 0);
    }
}

/// Only because nothing is being asked of those that were full, nobody hears that they are not any more.
#[test]
fn replicas_that_were_full_are_asked_before_the_next_change_is_refused_for_long() {
    let (mut bench, _) = serving();
    let sent = calls(&bench.client(2, append(2, b"two")), is_change);
    full(&mut bench, sent[0], refused());
    full(&mut bench, sent[1], refused());
    // They catch up, and say again that they are full.
    for peer_call in calls(&bench.settle(Input::Tick), is_activate) {
        let effects = full(&mut bench, peer_call, activated(1, 1, 3));
        for call in calls(&effects, |kind| kind == CallKind::Adopt) {
            let done = Reply::CaughtUp(peer::CaughtUp { seq: 3 });
            full(&mut bench, call, done);
        }
    }

    let effects = bench.client(3, append(3, b"three"));
    assert_eq!(errnos(&effects), [(3, ENOSPC)]);
    let asked = calls(&effects, |kind| matches!(kind, CallKind::Sums { .. }));
    assert_eq!(errnos(&bench.client(4, append(4, b"four"))), [(4, ENOSPC)]);
    for (peer, call) in asked {
        bench.reply(peer, call, Reply::BlockSums(peer::BlockSums::default()));
    }

    let effects = bench.client(5, append(5, b"five"));
    assert_eq!(errnos(&effects), []);
    assert_eq!(bench.store.bytes(KEY).unwrap(), b"onefive");
}
