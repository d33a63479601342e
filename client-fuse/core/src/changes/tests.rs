//! The machine's rules, one by one.

use bytes::Bytes;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn limits() -> ChangeLimits {
    ChangeLimits {
        chunk_bytes: 16,
        in_flight_bytes_max: 64,
        in_flight_max: 4,
        ..ChangeLimits::default()
    }
}

pub(super) fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

pub(super) fn machine() -> Changes {
    Changes::new(
        Route::new(vec![OsdId(0), OsdId(1), OsdId(2)]),
        limits(),
        None,
    )
}

fn sends(out: &[Effect]) -> Vec<(u64, u64, OsdId, u64, Change)> {
    out.iter()
        .filter_map(|effect| match effect {
            Effect::Send {
                token,
                attempt,
                osd,
                order,
                change,
            } => Some((*token, *attempt, *osd, order.change_id, change.clone())),
            _ => None,
        })
        .collect()
}

#[test]
fn first_write_leaves_at_once_and_those_that_touch_meanwhile_become_one() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());

    changes.write(at(0), &ids, 20, b"first", &mut out);
    let first = sends(&std::mem::take(&mut out));
    changes.write(at(0), &ids, 0, b"abc", &mut out);
    changes.write(at(1), &ids, 3, b"def", &mut out);
    changes.write(at(2), &ids, 1, b"X", &mut out);
    assert!(out.is_empty());
    changes.answered(at(3), &ids, first[0].0, done(first[0].3), &mut out);

    let sent = sends(&out);
    assert_eq!((first.len(), sent.len()), (1, 1));
    let bytes = Bytes::from_static(b"aXcdef");
    assert_eq!(sent[0].4, Change::Write { offset: 0, bytes });
}

#[test]
fn gathered_bytes_leave_by_themselves_after_the_gathering_time() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());

    changes.write(at(0), &ids, 20, b"first", &mut out);
    out.clear();
    changes.write(at(0), &ids, 0, b"abc", &mut out);
    assert_eq!(changes.next_wakeup(), Some(at(50)));
    changes.tick(at(49), &ids, &mut out);
    assert!(out.is_empty());
    changes.tick(at(50), &ids, &mut out);

    assert_eq!(sends(&out).len(), 1);
}

#[test]
fn chunks_end_at_multiples_of_their_size() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());

    changes.write(at(0), &ids, 10, &[7; 40], &mut out);
    changes.flush(at(0), &ids, &mut out);

    let ranges: Vec<_> = sends(&out).iter().filter_map(|s| s.4.range()).collect();
    assert_eq!(ranges, vec![(10, 16), (16, 32), (32, 48), (48, 50)]);
}

#[test]
fn overlapping_writes_are_never_in_flight_together() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());

    changes.write(at(0), &ids, 0, b"first", &mut out);
    changes.flush(at(0), &ids, &mut out);
    changes.write(at(0), &ids, 2, b"second", &mut out);
    changes.flush(at(0), &ids, &mut out);
    assert_eq!(sends(&out).len(), 1);
    out.clear();
    changes.answered(at(1), &ids, 1, Answer::default(), &mut out);

    assert_eq!(sends(&out).len(), 1);
}

#[test]
fn everything_unacknowledged_is_sent_again_in_order_with_new_ids() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    for chunk in 0..3 {
        changes.write(at(0), &ids, chunk * 100, b"bytes", &mut out);
    }
    changes.flush(at(0), &ids, &mut out);
    let first = sends(&out);
    out.clear();

    changes.answered(at(1), &ids, first[1].0, Answer::default(), &mut out);
    changes.failed(at(1), &ids, first[2].0, first[2].1, Failure::Gone, &mut out);

    let again = sends(&out);
    let tokens: Vec<_> = again.iter().map(|s| s.0).collect();
    assert_eq!(tokens, vec![first[0].0, first[2].0]);
    assert!(again.iter().all(|s| s.3 > first[2].3 && s.2 == OsdId(1)));
    assert!(again[0].3 < again[1].3);
}

#[test]
fn silent_primary_is_left_once_another_replica_took_over() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    changes.write(at(0), &ids, 0, b"bytes", &mut out);
    changes.flush(at(0), &ids, &mut out);
    out.clear();

    assert_eq!(changes.next_wakeup(), Some(at(500)));
    changes.tick(at(500), &ids, &mut out);
    let probe = out.pop();
    assert_eq!(
        probe,
        Some(Effect::Probe {
            attempt: 1,
            osd: OsdId(1)
        })
    );
    // The lease of the first still runs: waiting on.
    changes.probed(
        at(501),
        &ids,
        (1, OsdId(1)),
        ProbeAnswer::Primary(OsdId(0)),
        &mut out,
    );
    assert!(sends(&out).is_empty());
    changes.tick(at(1000), &ids, &mut out);
    changes.probed(
        at(1001),
        &ids,
        (1, OsdId(2)),
        ProbeAnswer::Primary(OsdId(2)),
        &mut out,
    );

    let again = sends(&out);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].2, OsdId(2));
    assert!(out.contains(&Effect::Stalled(OsdId(0))));
    out.clear();
    changes.answered(at(1002), &ids, again[0].0, Answer::default(), &mut out);
    assert!(out.contains(&Effect::Resumed));
}

#[test]
fn truncation_append_and_sync_travel_alone_and_in_order() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    changes.write(at(0), &ids, 0, b"a", &mut out);
    changes.add(at(0), &ids, Change::Truncate { length: 0 }, &mut out);
    changes.write(at(0), &ids, 20, b"b", &mut out);
    changes.add(at(0), &ids, Change::Sync, &mut out);

    let mut kinds = Vec::new();
    while let Some(send) = sends(&std::mem::take(&mut out)).first().cloned() {
        kinds.push(send.4.clone());
        changes.answered(at(1), &ids, send.0, Answer::default(), &mut out);
    }

    assert!(matches!(kinds[0], Change::Write { offset: 0, .. }));
    assert_eq!(kinds[1], Change::Truncate { length: 0 });
    assert!(matches!(kinds[2], Change::Write { offset: 20, .. }));
    assert_eq!(kinds[3], Change::Sync);
    assert!(changes.is_idle());
}

#[test]
fn soft_mount_gives_up_after_its_time() {
    let route = Route::new(vec![OsdId(0)]);
    let mut changes = Changes::new(route, limits(), Some(Duration::from_secs(3)));
    let (ids, mut out) = (IdSource::new(), Vec::new());
    changes.write(at(0), &ids, 0, b"bytes", &mut out);
    let token = changes.flush(at(0), &ids, &mut out);
    out.clear();

    changes.tick(at(3000), &ids, &mut out);

    assert!(out.contains(&Effect::Settled {
        token,
        outcome: Err(5),
        end: 5,
        truncates: false,
    }));
    assert!(changes.settled_below() > token);
}

#[test]
fn peek_finds_bytes_only_when_one_write_has_them_all() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    changes.write(at(0), &ids, 0, b"abcdef", &mut out);
    changes.flush(at(0), &ids, &mut out);
    changes.write(at(0), &ids, 8, b"gh", &mut out);

    assert_eq!(changes.peek(1, 3), Some(Bytes::from_static(b"bcd")));
    assert_eq!(changes.peek(8, 2), Some(Bytes::from_static(b"gh")));
    assert_eq!(changes.peek(4, 6), None);
    assert!(changes.concerns(9, 1));
    assert!(!changes.concerns(6, 2));
    assert_eq!(changes.pending_end(), 10);
}

#[test]
fn wakeups_are_in_the_future_after_a_tick() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    changes.write(at(0), &ids, 0, b"bytes", &mut out);
    let mut now = at(0);

    for _ in 0..20 {
        let Some(next) = changes.next_wakeup() else {
            panic!("something is pending and nobody wakes it");
        };
        assert!(next > now, "{next:?} is not after {now:?}");
        now = next.max(now + MS);
        changes.tick(now, &ids, &mut out);
    }
}

fn done(change_id: u64) -> Answer {
    Answer {
        change_id,
        ..Answer::default()
    }
}

#[test]
fn newest_acknowledged_change_is_named_until_it_is_lost() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    changes.write(at(0), &ids, 0, &[1; 32], &mut out);
    let sent = sends(&out);
    assert_eq!(changes.follows(), 0);

    changes.answered(at(1), &ids, sent[1].0, done(sent[1].3), &mut out);
    assert_eq!(changes.follows(), sent[1].3);
    changes.answered(at(1), &ids, sent[0].0, done(sent[0].3), &mut out);
    assert_eq!(changes.follows(), sent[1].3, "not the last one to answer");

    out.clear();
    let sync = changes.add(at(2), &ids, Change::Sync, &mut out);
    let sent = sends(&out);
    out.clear();
    changes.failed(at(3), &ids, sync, sent[0].1, Failure::Lost, &mut out);
    assert_eq!(out[0], Effect::Lost);
    let again = sends(&out);
    assert_eq!(again[0].4, Change::Sync, "it is asked for again");
    assert_eq!(changes.follows(), 0);
    changes.failed(at(3), &ids, sync, sent[0].1, Failure::Lost, &mut out);
    assert_eq!(out.len(), 2, "it is told once");
    changes.answered(at(4), &ids, sync, done(again[0].3), &mut out);
    assert_eq!(changes.follows(), 0, "a sync is no change");
}

#[test]
fn late_acknowledgement_of_what_was_sent_before_a_loss_proves_nothing() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    changes.write(at(0), &ids, 0, &[1; 32], &mut out);
    let sent = sends(&out);

    changes.failed(at(1), &ids, sent[0].0, sent[0].1, Failure::Lost, &mut out);
    changes.answered(at(2), &ids, sent[1].0, done(sent[1].3), &mut out);

    assert_eq!(changes.follows(), 0);
}

fn orders(out: &[Effect]) -> Vec<SendOrder> {
    let orders = out.iter().filter_map(|effect| match effect {
        Effect::Send { order, .. } => Some(*order),
        _ => None,
    });
    orders.collect()
}

#[test]
fn every_change_keeps_its_first_id_and_names_the_one_before_it_that_is_not_answered() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    changes.enter_session(&ids, SessionId(1));
    changes.write(at(0), &ids, 0, &[1; 48], &mut out);
    let (sent, first) = (sends(&out), orders(&out));
    out.clear();
    assert!(first.iter().all(|order| order.first_id == order.change_id));
    let after: Vec<_> = first.iter().map(|order| order.after).collect();
    assert_eq!(after, [0, first[0].first_id, first[1].first_id]);

    changes.answered(at(1), &ids, sent[0].0, done(sent[0].3), &mut out);
    changes.enter_session(&ids, SessionId(2));
    changes.failed(at(1), &ids, sent[1].0, 1, Failure::Gone, &mut out);

    let again = orders(&out);
    let of = |order: &SendOrder| (order.first_id, order.first_session, order.after);
    assert_eq!(of(&again[0]), (first[1].first_id, SessionId(1), 0));
    let before = first[1].first_id;
    assert_eq!(of(&again[1]), (first[2].first_id, SessionId(1), before));
    assert!(again[0].change_id > first[2].change_id);
    changes.answered(at(2), &ids, sent[1].0, done(again[0].change_id), &mut out);
    assert_eq!(
        changes.follows(),
        0,
        "the new session may know nothing of it"
    );
}

#[test]
fn change_out_of_order_is_sent_again_in_order_and_to_the_same_server() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    changes.write(at(0), &ids, 0, &[1; 64], &mut out);
    let sent = sends(&out);
    out.clear();

    changes.failed(at(1), &ids, sent[0].0, 1, Failure::Retry, &mut out);
    for later in &sent[1..] {
        changes.failed(at(1), &ids, later.0, 1, Failure::OutOfOrder, &mut out);
    }
    assert_eq!(orders(&out), [], "not at once");
    changes.tick(at(100), &ids, &mut out);

    let again = sends(&out);
    let tokens = |sends: &[(u64, u64, OsdId, u64, Change)]| -> Vec<u64> {
        sends.iter().map(|sent| sent.0).collect()
    };
    assert_eq!(tokens(&again), tokens(&sent));
    assert!(again.iter().all(|sent| sent.2 == OsdId(0)));
}

/// A repetition is answered with the outcome of the first, which has an older id.
#[test]
fn repeated_append_is_known_by_its_first_id() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    let bytes = Bytes::from_static(b"x");
    let token = changes.add(at(0), &ids, Change::Append { bytes }, &mut out);
    let first = sends(&out).remove(0);
    out.clear();
    changes.failed(at(1), &ids, token, first.1, Failure::Gone, &mut out);
    let second = sends(&out).remove(0);
    assert!(second.3 > first.3);

    changes.answered(at(2), &ids, token, done(second.3), &mut out);

    assert_eq!(changes.follows(), first.3);
}

#[test]
fn write_that_somebody_waits_for_is_shown_once_it_is_settled() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    changes.write(at(0), &ids, 0, b"plain", &mut out);
    let bytes = Bytes::from_static(b"synchronous");
    let change = Change::Write { offset: 8, bytes };

    let token = changes.add(at(0), &ids, change, &mut out);

    assert_eq!(changes.peek(0, 5).as_deref(), Some(&b"plain"[..]));
    assert!(changes.concerns(8, 1), "a reader waits");
    assert_eq!(changes.peek(8, 11), None, "and is shown nothing before");
    assert_eq!(changes.pending_end(), 5, "the file is not longer yet");
    let sent = sends(&out);
    assert_eq!(sent.len(), 2, "both are under way together");
    changes.answered(at(1), &ids, token, done(sent[1].3), &mut out);
    assert!(!changes.concerns(8, 11));
}

#[test]
fn silent_primary_whose_lease_others_renew_is_asked_through_them() {
    let (mut changes, ids, mut out) = (machine(), IdSource::new(), Vec::new());
    changes.write(at(0), &ids, 0, b"bytes", &mut out);
    out.clear();
    let primary = ProbeAnswer::Primary(OsdId(0));

    changes.probed(at(1999), &ids, (1, OsdId(1)), primary, &mut out);
    assert!(out.is_empty(), "it may have been frozen a moment ago");
    changes.probed(at(2000), &ids, (1, OsdId(2)), primary, &mut out);

    assert_eq!(out[0], Effect::CutOff(OsdId(0)));
    assert_eq!(sends(&out).len(), 1, "sent again");
    let way = changes.route().way(|osd| osd != OsdId(0)).unwrap();
    assert_eq!((way.osd, way.forward_to), (OsdId(2), Some(OsdId(0))));
}
