//! What a member that forgot its votes may not do (rule 2).

use lease::{Config, Error, Event, Host, Out, Saved};
use types::{Duration, Instant, MemberId};

use crate::table::*;

/// Rule 2; mistake 1.
#[test]
fn a_restarted_member_neither_answers_nor_proposes_until_old_leases_ended() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.deliver_except(|letter| letter.to == member(3));
    let (now, config) = (table.now, table.config.clone());
    *table.host(2) = Host::new(member(2), config.clone(), now, 2, 9, None);

    let membership = table.membership.clone();
    let mut out = Out::new();
    let refused = table
        .host(2)
        .acquire(now, CELL, &membership, 0, false, &mut out);
    let remaining = config.quarantine();
    assert_eq!(refused, Err(Error::Quarantined { remaining }));
    assert!(out.is_empty());
    table.acquire(3);
    table.run_except(table.config.retransmit, |letter| letter.to == member(1));
    assert_eq!(table.holders(), [1]);
    assert_eq!(table.host(2).stats().counters.quarantined, 1);

    let just_before = now + (remaining.saturating_sub(Duration::from_nanos(1)));
    assert!(table.host(2).quarantine_remaining(just_before).is_some());
    assert!(
        table
            .host(2)
            .quarantine_remaining(now + remaining)
            .is_none()
    );
}

/// Rule 2, second half.
#[test]
fn a_member_stopped_in_order_remembers_its_votes_and_needs_no_quarantine() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.deliver_except(|letter| letter.to == member(3));
    let (now, config) = (table.now, table.config.clone());
    let saved = table.host(2).shutdown(now).unwrap();
    assert_eq!(table.host(2).next_wakeup(), None);
    let saved = Saved::decode(&saved.encode()).unwrap();
    *table.host(2) = Host::new(member(2), config, now, 2, 9, Some(saved));

    table.acquire(3);
    table.run_except(table.config.retransmit, |letter| letter.to == member(1));

    assert_eq!(table.host(2).quarantine_remaining(now), None);
    assert_eq!(table.holders(), [1]);
    assert!(matches!(
        table.events.last(),
        Some((MemberId(3), Event::HeldBy { .. }))
    ));
}

#[test]
fn saved_votes_of_an_incarnation_before_the_last_are_not_believed() {
    let mut table = Table::new(3);
    let (now, config) = (table.now, table.config.clone());
    let saved = table.host(2).shutdown(now);

    let host = Host::new(member(2), config, now, 3, 9, saved);

    assert!(host.quarantine_remaining(now).is_some());
}

#[test]
fn a_host_in_quarantine_has_no_votes_worth_saving() {
    let mut host = Host::new(member(1), Config::default(), Instant::ZERO, 1, 1, None);

    assert_eq!(host.shutdown(Instant::ZERO), None);
}

#[test]
fn a_shutdown_that_gives_everything_back_leaves_the_cells_free() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.deliver();

    table.act(1, |host, now, out| {
        host.release_all(now, out);
        assert!(host.shutdown(now).is_some());
    });
    table.deliver();
    table.acquire(2);
    table.deliver();

    assert_eq!(table.holders(), [2]);
    let (now, membership) = (table.now, table.membership.clone());
    let refused = table
        .host(1)
        .acquire(now, CELL, &membership, 0, false, &mut Out::new());
    assert_eq!(refused, Err(Error::Stopped));
}
