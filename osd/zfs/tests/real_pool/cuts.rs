//! Streams that end before their end.

use std::fs;
use std::io::{Read as _, Write as _};

use zfs_driver::{Changes, Error, Remains, Snapshot};

use crate::machine::{Machine, until, write_noise};
use crate::side::{Side, copy};

/// A source with a snapshot of 8 MiB, and a place for it that must be empty after each cut.
struct Cut {
    from: Side,
    to: Side,
    first: Snapshot,
    is_resumable: bool,
}

#[test]
fn full_stream_that_was_cut_leaves_nothing() {
    let mut machine = Machine::take();
    let from = Side::with_dataset(&mut machine, "cutfrom");
    let to = Side::new(&mut machine, "cutto");
    write_noise(&from.files.join("a"), 8 << 20, 1);
    let cut = Cut {
        first: from.snapshot("first"),
        from,
        to,
        is_resumable: machine.tools.abilities().resumable_receive,
    };

    cut.by_the_owner();
    cut.by_the_death_of_the_sender();
    cut.by_the_death_of_the_receiver();
    cut.by_the_end_of_input();
    cut.by_dropping();

    let whole = cut.to.receive_full("first").unwrap();
    let received = copy(cut.from.send(&cut.first, None), whole).unwrap();
    assert_eq!(received.guid, cut.first.guid);
}

impl Cut {
    fn by_the_owner(&self) {
        let mut sending = self.from.send(&self.first, None);
        let mut receiving = self.to.receive_full("first").unwrap();
        let handle = receiving.handle();
        while handle.transferred_bytes() < 2 << 20 {
            let piece = sending.next_piece().unwrap().unwrap();
            receiving.write_all(&piece).unwrap();
        }

        let remains = receiving.cancel().unwrap();

        let is_resumable = matches!(remains, Remains::Resumable(_));
        assert_eq!(is_resumable, self.is_resumable, "{remains:?}");
        self.check_empty();
    }

    /// The reader must not take the end of what it gets for the end of the stream.
    fn by_the_death_of_the_sender(&self) {
        let mut sending = self.from.send(&self.first, None);
        sending.next_piece().unwrap().unwrap();
        sending.handle().cancel();

        let error = sending.read_to_end(&mut Vec::new()).unwrap_err();

        assert!(error.to_string().contains("cancelled"), "{error}");
    }

    fn by_the_death_of_the_receiver(&self) {
        let mut sending = self.from.send(&self.first, None);
        let mut receiving = self.to.receive_full("first").unwrap();
        let piece = sending.next_piece().unwrap().unwrap();
        receiving.write_all(&piece).unwrap();

        receiving.handle().cancel();

        let error = receiving.write_all(&piece).unwrap_err();
        assert!(error.to_string().contains("cancelled"), "{error}");
        receiving.cancel().unwrap();
        self.check_empty();
    }

    fn by_the_end_of_input(&self) {
        let mut sending = self.from.send(&self.first, None);
        let mut receiving = self.to.receive_full("first").unwrap();
        let piece = sending.next_piece().unwrap().unwrap();
        receiving.write_all(&piece).unwrap();

        let error = receiving.finish().unwrap_err();

        assert!(matches!(error, Error::Failed { .. }), "{error}");
        self.check_empty();
    }

    /// Nobody tidies up, but nothing is in the way of the next one.
    fn by_dropping(&self) {
        let mut sending = self.from.send(&self.first, None);
        let mut receiving = self.to.receive_full("first").unwrap();
        let piece = sending.next_piece().unwrap().unwrap();
        receiving.write_all(&piece).unwrap();

        drop(receiving);

        assert_eq!(self.to.snapshots(), []);
        until("what was received is gone", || {
            self.to.tree.destroy(&self.to.name).is_ok()
        });
    }

    /// There is no dataset, or where receives can go on perhaps an empty one, which is removed.
    fn check_empty(&self) {
        if self.to.tree.groups().unwrap().is_empty() {
            return;
        }
        assert!(self.is_resumable, "the dataset is still there");
        assert_eq!(self.to.snapshots(), []);
        if self.to.tree.resume_token(&self.to.name).unwrap().is_some() {
            self.to.tree.discard_partial(&self.to.name).unwrap();
        }
        self.to.tree.destroy(&self.to.name).unwrap();
    }
}

#[test]
fn increment_that_was_cut_leaves_the_dataset_as_it_was() {
    let mut machine = Machine::take();
    let from = Side::with_dataset(&mut machine, "incfrom");
    let to = Side::new(&mut machine, "incto");
    write_noise(&from.files.join("a"), 1 << 20, 1);
    let first = from.snapshot("first");
    copy(from.send(&first, None), to.receive_full("first").unwrap()).unwrap();
    write_noise(&from.files.join("a"), 8 << 20, 2);
    let second = from.snapshot("second");

    let mut sending = from.send(&second, Some(&first));
    let mut receiving = to
        .receive_increment("second", &first, Changes::Keep)
        .unwrap();
    let handle = receiving.handle();
    while handle.transferred_bytes() < 2 << 20 {
        receiving
            .write_all(&sending.next_piece().unwrap().unwrap())
            .unwrap();
    }
    let remains = receiving.cancel().unwrap();

    assert!(!matches!(remains, Remains::Snapshot(_)), "{remains:?}");
    assert_eq!(to.snapshots().len(), 1);
    if let Remains::Resumable(_) = remains {
        to.tree.discard_partial(&to.name).unwrap();
    }
    to.tree.mount(&to.name).unwrap();
    assert_eq!(fs::read(to.files.join("a")).unwrap().len(), 1 << 20);
    to.tree.unmount(&to.name).unwrap();
    let whole = to
        .receive_increment("second", &first, Changes::Keep)
        .unwrap();
    copy(from.send(&second, Some(&first)), whole).unwrap();
}
