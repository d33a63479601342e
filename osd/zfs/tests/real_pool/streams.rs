//! Streams from pool to pool.

use std::fs;
use std::io::Write as _;

use zfs_driver::{Changes, Error, Snapshot, newest_shared};

use crate::machine::{Machine, write_noise};
use crate::side::{PG, Side, copy};

#[test]
fn streams_bring_all_and_then_what_changed_into_another_pool() {
    let mut machine = Machine::take();
    let from = Side::with_dataset(&mut machine, "from");
    let to = Side::new(&mut machine, "to");
    write_noise(&from.files.join("a"), 3 << 20, 1);
    let first = from.snapshot("first");

    let sending = from.send(&first, None);
    let estimate = sending.estimated_bytes();
    assert_eq!(estimate.is_some(), machine.tools.abilities().send_estimate);
    let received = copy(sending, to.receive_full("first").unwrap()).unwrap();

    assert_eq!(received.guid, first.guid);
    assert_eq!(to.tree.groups().unwrap(), [PG], "it has kept its mark");
    assert!(!to.tree.info(&to.name).unwrap().is_mounted);
    to.tree.mount(&to.name).unwrap();
    assert_eq!(
        fs::read(to.files.join("a")).unwrap(),
        fs::read(from.files.join("a")).unwrap()
    );

    write_noise(&from.files.join("b"), 1 << 20, 2);
    let second = from.snapshot("second");
    let theirs = to.snapshots();
    let (base, _) = newest_shared(std::slice::from_ref(&first), &theirs).unwrap();
    let error = to
        .receive_increment("second", base, Changes::Keep)
        .unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    to.tree.unmount(&to.name).unwrap();
    let increment = to.receive_increment("second", base, Changes::Keep).unwrap();
    let received = copy(from.send(&second, Some(base)), increment).unwrap();

    assert_eq!(received.guid, second.guid);
    to.tree.mount(&to.name).unwrap();
    assert_eq!(
        fs::read(to.files.join("b")).unwrap(),
        fs::read(from.files.join("b")).unwrap()
    );
    refusals(&from, &to, &first, &second);
}

/// What must not be lost at the receiver is not.
fn refusals(from: &Side, to: &Side, first: &Snapshot, second: &Snapshot) {
    // Written at the receiver: kept or discarded as told.
    write_noise(&to.files.join("own"), 1 << 20, 3);
    to.tree.unmount(&to.name).unwrap();
    write_noise(&from.files.join("c"), 1 << 20, 4);
    let third = from.snapshot("third");
    let keeping = to
        .receive_increment("third", second, Changes::Keep)
        .unwrap();
    let mut sending = from.send(&third, Some(second));
    let mut keeping = keeping;
    // The program may refuse before or after it was given all.
    let error = loop {
        match sending.next_piece().unwrap() {
            Some(piece) => {
                if let Err(error) = keeping.write_all(&piece) {
                    break error.to_string();
                }
            }
            None => break keeping.finish().unwrap_err().to_string(),
        }
    };
    assert!(
        error.contains("modified") && error.contains("discard"),
        "{error}"
    );
    to.tree.mount(&to.name).unwrap();
    assert!(to.files.join("own").exists());
    to.tree.unmount(&to.name).unwrap();

    // A history of its own is never discarded.
    let own = to.snapshot("own");
    for changes in [Changes::Keep, Changes::Discard] {
        let error = to.receive_increment("third", second, changes).unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{error}");
    }
    let error = to.receive_full("again").unwrap_err();
    assert!(matches!(error, Error::HasSnapshots { .. }), "{error}");
    to.tree.destroy_snapshot(&own.name).unwrap();
    let error = to
        .receive_increment("third", &own, Changes::Discard)
        .unwrap_err();
    assert!(matches!(error, Error::NoBase { .. }), "{error}");

    let discarding = to
        .receive_increment("third", second, Changes::Discard)
        .unwrap();
    copy(from.send(&third, Some(second)), discarding).unwrap();
    to.tree.mount(&to.name).unwrap();
    assert!(!to.files.join("own").exists() && to.files.join("c").exists());
    let guids = |side: &Side| {
        side.snapshots()
            .iter()
            .map(|snapshot| snapshot.guid)
            .collect::<Vec<_>>()
    };
    assert_eq!(guids(from), guids(to));
    assert_eq!(guids(from)[0], first.guid);
}
