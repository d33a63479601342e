//! Giving back, handing over, forgetting (rules 7 and 8).

use lease::{Ballot, Body, Event, Message};
use types::{Duration, MemberId};

use crate::table::*;

/// Rule 7; mistake 5.
#[test]
fn a_released_lease_is_free_at_once() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.deliver();

    table.release(1);
    assert_eq!(table.holders(), [0; 0]);
    table.deliver();
    table.acquire(3);
    table.deliver();

    assert_eq!(table.holders(), [3]);
    assert_eq!(table.epoch(3), Some(3));
}

#[test]
fn a_grant_that_is_overtaken_by_its_own_end_does_not_revive_the_lease() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.deliver_except(|letter| is_accept(letter) && letter.to == member(3));
    table.run_except(ms(800), |letter| letter.to == member(3));
    let round = 1 << 60;
    let late = Letter {
        from: member(1),
        to: member(3),
        message: Message {
            cell: CELL,
            view: 1,
            ballot: Ballot {
                counter: 1,
                member: member(1),
            },
            round,
            body: Body::Accept {
                epoch: 2,
                ttl: ms(1500),
                renewal: true,
                successor: None,
            },
        },
    };
    let mut end = late;
    end.message.round += 1;
    end.message.body = Body::Accept {
        epoch: 2,
        ttl: Duration::ZERO,
        renewal: false,
        successor: None,
    };

    table.deliver_letter(end);
    table.deliver_letter(late);

    assert!(table.letters.is_empty(), "the late one is not answered");
    let now = table.now;
    let state = table.host(3).list(now, 0, 9).cells[0].state;
    assert_eq!(state, lease::CellState::Free);
}

/// Rule 7.
#[test]
fn a_hand_over_prefers_its_successor_for_a_short_time_only() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.deliver();
    table.take_events();

    table.act(1, |host, now, out| {
        host.hand_over(now, CELL, member(3), out)
    });
    table.deliver();
    let offered = Event::Offered {
        cell: CELL,
        from: member(1),
    };
    assert_eq!(table.take_events(), [(member(3), offered)]);

    table.acquire(2);
    assert!(matches!(
        table.take_events()[..],
        [(
            MemberId(2),
            Event::HeldBy {
                member: MemberId(3),
                ..
            }
        )]
    ));
    table.sleep(ms(1));
    table.acquire(3);
    table.deliver();
    assert_eq!(table.holders(), [3]);
    assert_eq!(table.epoch(3), Some(3), "its own lease, not the old one");

    table.act(3, |host, now, out| {
        host.hand_over(now, CELL, member(1), out)
    });
    table.deliver();
    table.sleep(table.config.successor_grace);
    table.acquire(2);
    table.deliver();
    assert_eq!(table.holders(), [2]);
}

/// Rule 8: memory is given back, and only when no lease it may have voted for can run.
#[test]
fn an_idle_cell_is_forgotten_one_quarantine_after_its_last_message() {
    let mut table = Table::new(3);
    table.acquire(1);
    table.deliver();
    table.release(1);
    table.deliver();

    let quarantine = table.config.quarantine();
    table.run(quarantine.saturating_sub(Duration::from_nanos(1)));
    let cells = |table: &Table| -> Vec<usize> {
        let hosts = table.hosts.iter();
        hosts.map(|host| host.stats().cells).collect()
    };
    assert_eq!(cells(&table), [1, 1, 0], "the third was never asked");
    table.run(Duration::from_nanos(1));
    assert_eq!(cells(&table), [0, 0, 0]);
    assert!(table.hosts.iter().all(|host| host.stats().timers == 0));
}
