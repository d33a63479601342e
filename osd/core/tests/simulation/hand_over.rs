//! Giving the lease to another server, taking it over, and saying what requests wait for.

use osd_core::{CallKind, Config, Effect, Input, LeaseEvent, Obstacle, Role, WaitsFor, config};
use proto::peer;
use proto::peer::response::Reply;
use types::{Duration, OsdId, Remedy};

use crate::bench::*;
use crate::world::osd;

fn hand_over(to: OsdId) -> Input {
    Input::HandOver { request: 9, to }
}

fn faults(effects: &[Effect]) -> Vec<String> {
    let faults = effects.iter().filter_map(|effect| match effect {
        Effect::Reply {
            result: Err(fault), ..
        } => Some(fault.message.clone()),
        _ => None,
    });
    faults.collect()
}

#[test]
fn primary_that_hands_over_stops_serving_before_it_gives_the_lease_up() {
    let (mut bench, _) = serving();
    bench.client(2, write(2, b"two"));

    let effects = bench.step(hand_over(osd(1)));

    let order: Vec<&str> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Reply { request: 2, .. } => Some("write refused"),
            Effect::HandOverLease { to } if *to == osd(1) => Some("lease given up"),
            Effect::Reply { request: 9, .. } => Some("done"),
            _ => None,
        })
        .collect();
    assert_eq!(order, ["write refused", "lease given up", "done"]);
    assert_eq!(replies(&effects)[0], (2, Err(Remedy::Retry)));
    assert!(replies(&effects)[1].1.is_ok());
    assert_eq!(bench.replica.status().role, Role::Backup);
}

#[test]
fn lease_is_handed_over_only_by_its_holder_to_another_replica_that_is_up() {
    let mut bench = Bench::new(3, Config::default());
    let nothing = bench.step(hand_over(osd(1)));
    assert!(faults(&nothing)[0].contains("does not hold"), "{nothing:?}");

    let (mut bench, _) = serving();
    let stranger = bench.step(hand_over(osd(7)));
    assert!(faults(&stranger)[0].contains("no replica"), "{stranger:?}");
    bench.step(Input::PeerLost(osd(2)));
    let lost = bench.step(hand_over(osd(2)));
    assert!(faults(&lost)[0].contains("not reached"), "{lost:?}");
    let mine = bench.step(hand_over(osd(0)));
    assert!(faults(&mine).is_empty(), "nothing to do");
    assert_eq!(bench.replica.status().role, Role::Primary);
}

/// Answers every call as a replica does that has nothing but agrees to everything.
fn agree(bench: &mut Bench, effects: Vec<Effect>) {
    let mut waiting = calls(&effects, |_| true);
    while let Some((peer, call)) = waiting.pop() {
        let reply = match call.kind {
            CallKind::Activate => activated(0, 0, 0),
            CallKind::Sync { seq, .. } => Reply::Synced(peer::Synced { seq }),
            _ => Reply::CaughtUp(peer::CaughtUp::default()),
        };
        let effects = bench.reply(peer, call, reply);
        waiting.extend(calls(&effects, |_| true));
    }
}

#[test]
fn lease_that_is_offered_is_taken_and_kept_as_if_a_client_had_asked() {
    let mut bench = Bench::new(3, Config::default());

    let effects = bench.step(Input::Lease(LeaseEvent::Offered));
    let asks = |effect: &Effect| matches!(effect, Effect::AcquireLease { newborn: false, .. });
    assert!(effects.iter().any(asks), "{effects:?}");
    let effects = bench.hold(false, EPOCH);
    agree(&mut bench, effects);
    assert_eq!(bench.replica.status().role, Role::Primary);

    bench.now += Config::default().idle_after.scaled(1, 2);
    bench.settle(Input::Tick);
    assert_eq!(bench.replica.status().role, Role::Primary);
}

/// Who is behind it tells nobody before: the other one may not know yet that it has the lease.
#[test]
fn server_that_gave_the_lease_away_follows_once_it_is_asked_to() {
    let (mut bench, _) = serving();
    bench.settle(hand_over(osd(1)));
    assert!(!bench.replica.status().follows(osd(1)));

    bench.settle(peer_request(1, request(1, EPOCH + 1, 1, activate())));

    assert!(bench.replica.status().follows(osd(1)));
}

#[test]
fn requests_say_what_they_wait_for_and_since_when() {
    let mut bench = Bench::new(3, Config::default());
    bench.client(1, write(1, b"one"));
    let asked_at = bench.now;
    let stall = |bench: &Bench| bench.replica.stall(bench.now).unwrap();
    assert_eq!(stall(&bench).waits_for, WaitsFor::Lease);

    let remaining = Duration::from_millis(700);
    let quarantine = Obstacle::Quarantine { remaining };
    bench.step(Input::Lease(LeaseEvent::Denied(quarantine)));
    bench.step(Input::Lease(LeaseEvent::Denied(Obstacle::NoMajority)));
    bench.step(Input::Lease(LeaseEvent::Denied(quarantine)));
    assert_eq!(stall(&bench).waits_for, WaitsFor::Obstacle(quarantine));

    // The client is told the same, and comes again: it still waits since the beginning.
    bench.now = asked_at + Config::default().request_timeout;
    let late = bench.step(Input::Tick);
    assert!(
        faults(&late)[0].contains("started too recently"),
        "{late:?}"
    );
    assert!(bench.replica.stall(bench.now).is_none(), "nothing waits");
    bench.client(2, write(2, b"two"));
    assert!(stall(&bench).since <= asked_at + Duration::from_millis(1));

    // What was long ago does not count.
    bench.now += Duration::from_secs(60);
    bench.step(Input::Tick);
    bench.client(3, write(3, b"three"));
    assert!(stall(&bench).since > asked_at + Duration::from_secs(60));
}

#[test]
fn activation_and_quorum_name_the_replicas_that_are_missing() {
    let mut bench = Bench::new(3, Config::default());
    bench.client(1, write(1, b"one"));
    bench.hold(false, EPOCH);
    let silent = [osd(1), osd(2)].to_vec();
    let stall = bench.replica.stall(bench.now).unwrap();
    assert_eq!(stall.waits_for, WaitsFor::Activation { silent });
    assert!(stall.waits_for.to_string().contains("osd 2, osd 3"));

    let (mut bench, _) = serving();
    assert_eq!(bench.replica.stall(bench.now), None);
    bench.client(2, write(2, b"two"));
    let silent = [osd(1), osd(2)].to_vec();
    let stall = bench.replica.stall(bench.now).unwrap();
    assert_eq!(
        (stall.requests, stall.waits_for),
        (1, WaitsFor::Quorum { silent })
    );
}

#[test]
fn dead_holder_is_named_with_the_rest_of_its_lease() {
    let mut bench = Bench::new(3, Config::default());
    let held = |remaining| {
        Input::Lease(LeaseEvent::HeldBy {
            member: osd(2),
            remaining,
        })
    };
    bench.client(1, write(1, b"one"));
    bench.step(held(Duration::from_millis(1_000)));
    bench.step(Input::PeerLost(osd(2)));
    bench.client(2, write(2, b"two"));

    let stall = bench.replica.stall(bench.now).unwrap();

    let WaitsFor::SilentHolder { holder, remaining } = stall.waits_for else {
        panic!("{stall:?}");
    };
    assert_eq!(holder, osd(2));
    assert!(remaining <= Duration::from_millis(1_000) && remaining > Duration::from_millis(900));
    assert!(config::WAITING_REQUESTS_MAX > stall.requests);
}

/// A primary that loses its lease and gets the next one asks everybody anew. What answers the old
/// questions says where others were before somebody else may have been primary.
#[test]
fn answers_to_questions_of_an_earlier_lease_count_for_nothing() {
    let mut bench = Bench::new(3, Config::default());
    bench.client(1, write(1, b"one"));
    let old = calls(&bench.hold(false, EPOCH), is_activate);
    bench.settle(Input::Lease(LeaseEvent::Lost { epoch: EPOCH }));
    bench.client(2, write(2, b"two"));
    let new = calls(&bench.hold(false, EPOCH + 2), is_activate);
    assert_eq!((old.len(), new.len()), (2, 2));

    let goes_on = |effects: &[Effect]| !calls(effects, |kind| kind == CallKind::Adopt).is_empty();
    for (peer, call) in old {
        let effects = bench.reply(peer, call, activated(0, 0, 0));
        assert!(!goes_on(&effects), "{effects:?}");
    }

    let (peer, call) = new[0];
    let effects = bench.reply(peer, call, activated(0, 0, 0));
    assert!(goes_on(&effects), "{effects:?}");
}
