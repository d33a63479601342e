//! Limits and refusals of the host.

use lease::{Ballot, Body, Config, Error, Message, Out};
use types::CellId;

use crate::table::*;

#[test]
fn cells_are_limited_with_a_clear_error() {
    let config = Config {
        cells_max: 2,
        ..Config::default()
    };
    let mut table = Table::with(3, config);
    let (now, membership) = (table.now, table.membership.clone());
    let mut out = Out::new();

    for cell in [1, 2] {
        table
            .host(1)
            .acquire(now, CellId(cell), &membership, 0, false, &mut out)
            .unwrap();
    }
    let refused = table
        .host(1)
        .acquire(now, CellId(3), &membership, 0, false, &mut out);

    assert_eq!(refused, Err(Error::TooManyCells { cells_max: 2 }));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "all 2 lease cells are in use; try later or raise cells_max"
    );
    assert_eq!(table.host(1).stats().cells, 2);
}

#[test]
fn a_stranger_and_a_crowd_are_refused() {
    let mut table = Table::new(3);
    let now = table.now;
    let mut out = Out::new();
    let mut acquire = |members: &[u64]| {
        table
            .host(1)
            .acquire(now, CELL, &view(1, members), 0, false, &mut out)
    };

    assert!(matches!(acquire(&[2, 3]), Err(Error::NotAMember { .. })));
    assert!(matches!(
        acquire(&[]),
        Err(Error::MemberCount { found: 0, .. })
    ));
    let crowd: Vec<u64> = (1..=32).collect();
    assert!(matches!(
        acquire(&crowd),
        Err(Error::MemberCount { found: 32, .. })
    ));
}

#[test]
fn messages_that_make_no_sense_are_counted_and_ignored() {
    let mut table = Table::new(3);
    let message = Message {
        cell: CELL,
        view: 1,
        ballot: Ballot {
            counter: 1,
            member: member(2),
        },
        round: 1,
        body: Body::Prepare,
    };

    table.deliver_letter(Letter {
        from: member(3),
        to: member(1),
        message,
    });
    table.deliver_letter(Letter {
        from: member(1),
        to: member(1),
        message,
    });

    assert!(table.letters.is_empty());
    assert_eq!(table.host(1).stats().counters.malformed, 2);
    assert_eq!(table.host(1).stats().cells, 0);
}
