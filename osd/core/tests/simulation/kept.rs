//! What a copy counts for while its bytes are being replaced by those of later changes.

use bytes::Bytes;
use osd_core::{Config, Position};
use proto::peer;
use proto::peer::request::Op as PeerOp;
use proto::peer::response::Reply;

use crate::bench::{Bench, EPOCH, activate, answers, peer_request, read, request};

/// Bytes of the change that the copy has before it is brought up.
const HAD: &[u8] = b"had";
/// Length of what it is brought to.
const LATER_BYTES: u64 = 100;

/// A backup that has a change in memory only.
fn having(config: Config) -> Bench {
    let mut bench = Bench::new(3, config);
    bench.settle(peer_request(1, request(1, EPOCH, 1, activate())));
    let adopt = PeerOp::Adopt(peer::Adopt::default());
    bench.settle(peer_request(1, request(1, EPOCH, 1, adopt)));
    let write = PeerOp::Replicate(peer::Replicate {
        seq: 1,
        change: Some(peer::Change::default()),
    });
    let mut write = peer_request(1, request(1, EPOCH, 1, write));
    if let osd_core::Input::PeerRequest { payload, .. } = &mut write {
        *payload = osd_core::Payload::of(Bytes::from_static(HAD));
    }
    bench.settle(write);
    bench
}

/// The same, and the next primary begins to bring it up.
fn bringing_up(config: Config, extends: bool, length_bytes: u64) -> Bench {
    let mut bench = having(config);
    bench.settle(peer_request(2, request(2, EPOCH + 1, 1, activate())));
    let begin = PeerOp::BeginCatchUp(peer::BeginCatchUp {
        seq: 5,
        length_bytes,
        base: Some(peer::Position {
            epoch: EPOCH,
            holder: 2,
            seq: 5,
        }),
        extends,
        ..peer::BeginCatchUp::default()
    });
    bench.settle(peer_request(2, request(2, EPOCH + 1, 1, begin)));
    bench
}

/// The last change that the disk tells of, once a primary has begun to bring the copy up to a history that lacks
/// the change recorded there.
pub(crate) fn told_by_disk(config: Config) -> u64 {
    taken_back(config, EPOCH, 0).seq
}

/// The same with another beginning of that history.
pub(crate) fn taken_back(config: Config, base_epoch: u64, base_seq: u64) -> Position {
    let mut bench = having(config);
    let sync = PeerOp::Sync(peer::Sync {
        seq: 1,
        clean: false,
    });
    bench.settle(peer_request(1, request(1, EPOCH, 1, sync)));
    let told = |bench: &Bench| bench.store.stable_record(crate::world::KEY).unwrap();
    assert_eq!(told(&bench).position.seq, 1);
    for attempt in 1..=2 {
        let message = request(2, EPOCH + 1, attempt, activate());
        bench.settle(peer_request(2, message));
        let begin = PeerOp::BeginCatchUp(peer::BeginCatchUp {
            base: Some(peer::Position {
                epoch: base_epoch,
                holder: 2,
                seq: base_seq,
            }),
            ..peer::BeginCatchUp::default()
        });
        bench.settle(peer_request(2, request(2, EPOCH + 1, attempt, begin)));
    }
    assert_eq!(bench.store.sound_bytes(crate::world::KEY).unwrap(), b"");
    told(&bench).position
}

#[test]
fn record_is_taken_back_before_what_it_tells_of_is_replaced() {
    assert_eq!(told_by_disk(Config::default()), 0);
}

#[test]
fn record_that_is_taken_back_tells_of_no_change_that_the_copy_never_had() {
    assert_eq!(
        taken_back(Config::default(), EPOCH - 1, 9),
        Position::default()
    );
}

/// What the copy says of itself to a third primary.
fn vouched(bench: &mut Bench) -> peer::Activated {
    let effects = bench.settle(peer_request(1, request(1, EPOCH + 2, 1, activate())));
    match answers(&effects)[..] {
        [Reply::Activated(activated)] => activated.clone(),
        ref other => panic!("answered {other:?}"),
    }
}

/// The last change that the copy counts for, once a primary has begun to bring it up to a history that has
/// what it had, or not.
pub(crate) fn counts_for(config: Config, extends: bool) -> u64 {
    let answer = vouched(&mut bringing_up(config, extends, LATER_BYTES));
    assert!(answer.suspect, "its bytes are being replaced: {answer:?}");
    answer.position.unwrap_or_default().seq
}

#[test]
fn copy_counts_for_what_it_had_until_it_has_more() {
    assert_eq!(counts_for(Config::default(), true), 1);
}

#[test]
fn copy_does_not_count_for_what_the_later_history_has_not() {
    assert_eq!(counts_for(Config::default(), false), 0);
}

#[test]
fn nothing_is_cut_off_that_the_copy_counts_for() {
    let bytes = |bench: &mut Bench| bench.store.sound_bytes(crate::world::KEY).unwrap();

    assert_eq!(bytes(&mut bringing_up(Config::default(), true, 0)), HAD);
    assert_eq!(bytes(&mut bringing_up(Config::default(), false, 0)), b"");
}

#[test]
fn copy_that_decides_alone_takes_nothing_of_the_later_history_s_length() {
    let mut bench = bringing_up(Config::default(), true, LATER_BYTES);
    let before = bench.store.sound_bytes(crate::world::KEY).unwrap();
    assert_eq!(before.len() as u64, LATER_BYTES);

    bench.step(osd_core::Input::Membership(alone()));
    bench.client(1, read());
    let effects = bench.hold(false, EPOCH + 2);

    let bytes = bench.store.sound_bytes(crate::world::KEY).unwrap();
    assert_eq!(bytes, HAD, "{effects:?}");
    assert_eq!(bench.replica.status().position.seq, 1);
}

/// The view in which the replica is the only one.
fn alone() -> osd_core::Membership {
    osd_core::Membership {
        view: 2,
        replicas: osd_core::ReplicaSet::new(vec![crate::world::osd(0)]),
        incomplete: false,
        recovered: true,
        policy: types::Policy::default(),
    }
}
