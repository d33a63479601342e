//! A group from one store to another on a real pool, without servers.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use osd_core::{ObjectKey, ObjectStore, Position, Promise, Record};
use types::{Inode, ObjectId, OsdId, PgKey};
use zfs_driver::{Base, Snapshot, SnapshotName, StreamOptions};

use super::receive::{Intake, Received};
use super::strip::Stripped;
use crate::store_dir::DirectoryStore;
use crate::store_root::Root;
use crate::store_tests::pools::machine::{self, run};
use crate::store_tests::pools::{self, Bench, make};

const GROUP: PgKey = pools::group(1, 3);
const OTHER: PgKey = pools::group(1, 2);
const TO: OsdId = OsdId(2);

fn key(inode: u64) -> ObjectKey {
    ObjectKey {
        pg: GROUP.pg,
        object: ObjectId {
            volume: GROUP.volume,
            inode: Inode(inode),
            column: 0,
        },
    }
}

fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let byte = || {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(byte).take(length).collect()
}

/// Two stores in one pool, and what the first one has of the group.
struct Pair {
    // Dropped in this order: nothing may be open when the pool goes.
    from: Arc<Root>,
    to: Arc<Root>,
    grounds: [pools::Store; 2],
    bench: Bench,
    objects: BTreeMap<u64, Bytes>,
}

impl Pair {
    fn new() -> Self {
        let bench = Bench::of(2);
        let grounds = [1, 2].map(|osd| pools::Store::at(bench.dataset(&format!("oxfs/osd-{osd}"))));
        let [from, to] = grounds.each_ref().map(pools::Store::open);
        make(&from, GROUP).unwrap();
        to.datasets().unwrap().start().unwrap();
        assert!(to.datasets().unwrap().gate(GROUP));
        Self {
            from,
            to,
            grounds,
            bench,
            objects: BTreeMap::new(),
        }
    }

    /// Writes an object that a record vouches for, as of a server that has promised something.
    fn write(&mut self, inode: u64, data: Bytes, clean: bool) {
        let mut store = DirectoryStore::new(Arc::clone(&self.from));
        store.create(key(inode), &Record::default()).unwrap();
        store.write(key(inode), 0, &data).unwrap();
        let record = Record {
            promised: Promise {
                epoch: 7,
                holder: OsdId(1),
            },
            position: Position {
                epoch: 7,
                holder: OsdId(1),
                seq: 3,
            },
            length_bytes: data.len() as u64,
            clean,
            marks: Vec::new(),
        };
        let mut job = store.sync(key(inode), true, &record).unwrap();
        // Not stable by itself: a snapshot has what was written before it.
        job.write_data(false).unwrap();
        job.write_record(false).unwrap();
        self.objects.insert(inode, data);
    }

    /// The stream of the group as it is now.
    fn stream(&self) -> Vec<Bytes> {
        let (pieces, snapshot) = self.stream_of_round(0, None);
        let tree = self.from.datasets().unwrap().tree();
        tree.destroy_seed_snapshot(&snapshot.name).unwrap();
        pieces
    }

    /// What has changed since a snapshot, and the snapshot of now.
    fn stream_of_round(&self, round: u32, base: Option<&SnapshotName>) -> (Vec<Bytes>, Snapshot) {
        let tree = self.from.datasets().unwrap().tree();
        let snapshot = tree.snapshot_seed(GROUP, TO, round).unwrap();
        let base = base.map(Base::Snapshot);
        let mut sending = tree
            .send(&snapshot.name, base, StreamOptions::default())
            .unwrap();
        let mut pieces = Vec::new();
        while let Some(piece) = sending.next_piece().unwrap() {
            pieces.push(Bytes::from(piece));
        }
        (pieces, snapshot)
    }

    async fn receive(&self, pieces: Vec<Bytes>) -> Result<Stripped, String> {
        let intake = Intake::start(Arc::clone(&self.to), GROUP, TO).unwrap();
        for piece in pieces {
            if !intake.give(piece).await {
                break;
            }
        }
        intake.finish().await.map(Received::take)
    }

    fn take_in(&self) -> Result<(), String> {
        let (tell, told) = mpsc::channel();
        let on_ready = Box::new(move |outcome| tell.send(outcome).unwrap());
        self.to.datasets().unwrap().take_in(GROUP, on_ready);
        told.recv().unwrap()
    }

    fn inventory(&self) -> String {
        machine::inventory(&self.bench.pool)
    }

    /// All objects are there, and none vouches for anything.
    fn assert_seeded(&self) {
        let mut store = DirectoryStore::new(Arc::clone(&self.to));
        let names = self.to.names(GROUP).unwrap();
        assert_eq!(names.len(), self.objects.len());
        for (inode, data) in &self.objects {
            let header = store.open(key(*inode)).unwrap().unwrap();
            let nothing = Record {
                length_bytes: data.len() as u64,
                ..Record::default()
            };
            assert_eq!(header.record, nothing, "object {inode}");
            let read = store.read(key(*inode), 0, data.len() as u32).unwrap();
            assert!(read == *data, "object {inode}");
            store.close(key(*inode));
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.to.datasets().unwrap().stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_objects_come_as_a_whole_and_what_others_made_is_untouched() {
    let mut pair = Pair::new();
    for inode in 1..=3000 {
        let length = match inode % 500 {
            0 => 3 << 20,
            _ => (inode as usize * 37) % 9000 + 1,
        };
        pair.write(inode, noise(length, inode), inode % 3 != 0);
    }
    let theirs = pair.bench.dataset("oxfs/osd-2/seeds-of-theirs");
    run("zfs", &["create", "-o", "mountpoint=none", theirs.as_str()]);
    for snapshot in ["oxfs/osd-1/1/3@theirs", "oxfs/osd-2@oxfs-seed-9"] {
        let name = format!("{}/{snapshot}", pair.bench.pool.name());
        run("zfs", &["snapshot", &name]);
    }
    let before = pair.inventory();
    assert!(
        pair.to.names(GROUP).is_err(),
        "nothing is absent that is on its way"
    );

    let stripped = pair.receive(pair.stream()).await.unwrap();
    assert_eq!((stripped.objects, stripped.removed), (3000, 0));
    assert!(
        pair.to.names(GROUP).is_err(),
        "not visible before it is taken in"
    );
    pair.take_in().unwrap();

    assert!(pair.to.is_ready(GROUP) && !pair.to.is_gated(GROUP));
    pair.assert_seeded();
    let after = pair.inventory();
    let lost: Vec<_> = before
        .lines()
        .filter(|line| !after.contains(line))
        .collect();
    assert_eq!(lost, [""; 0]);
    assert!(
        !after.contains("@oxfs-seed-2") && !after.contains("seeds/1.3"),
        "{after}"
    );
    // An ordinary dataset of the group: the next start finds it.
    pair.to.datasets().unwrap().stop();
    pair.to = pair.grounds[1].open();
    pair.assert_seeded();
}

/// Of an increment that is cut nothing stays, and what came before it does.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_changed_meanwhile_comes_as_an_increment() {
    let mut pair = Pair::new();
    for inode in 1..=100 {
        pair.write(inode, noise(100_000, inode), true);
    }
    let (full, first) = pair.stream_of_round(0, None);
    for inode in 101..=110 {
        pair.write(inode, noise(300_000, inode), true);
    }
    let (increment, second) = pair.stream_of_round(1, Some(&first.name));
    let bytes = |pieces: &[Bytes]| pieces.iter().map(Bytes::len).sum::<usize>();
    // Blocks of 128 KiB travel whole.
    assert!((3_000_000..6_000_000).contains(&bytes(&increment)) && bytes(&full) > 10_000_000);
    let before = pair.objects.clone();
    for inode in 111..=115 {
        pair.write(inode, noise(300_000, inode), true);
    }
    let (last, third) = pair.stream_of_round(2, Some(&second.name));

    let intake = Intake::start(Arc::clone(&pair.to), GROUP, TO).unwrap();
    for piece in full {
        assert!(intake.give(piece).await);
    }
    assert!(intake.go_on_with_increment(first.guid).await);
    for piece in increment {
        assert!(intake.give(piece).await);
    }
    assert!(intake.go_on_with_increment(second.guid).await);
    let half = last.len() / 2;
    for piece in last.into_iter().take(half) {
        assert!(intake.give(piece).await);
    }
    let stripped = intake.finish_without_increment().await.unwrap().take();
    assert_eq!((stripped.objects, stripped.removed), (110, 0));
    pair.take_in().unwrap();

    pair.objects = before;
    pair.assert_seeded();
    let tree = pair.from.datasets().unwrap().tree();
    for snapshot in [first, second, third] {
        tree.destroy_seed_snapshot(&snapshot.name).unwrap();
    }
    assert!(!pair.inventory().contains("@oxfs-seed"));
}

/// An increment that does not build upon what is there is refused; what came before it stays.
#[tokio::test(flavor = "multi_thread")]
async fn increment_upon_something_else_is_done_without() {
    let mut pair = Pair::new();
    pair.write(1, noise(100_000, 1), true);
    let intake = Intake::start(Arc::clone(&pair.to), GROUP, TO).unwrap();
    for piece in pair.stream() {
        assert!(intake.give(piece).await);
    }

    intake.go_on_with_increment(4711).await;
    let stripped = intake.finish().await.unwrap().take();

    assert_eq!(stripped.objects, 1);
    pair.take_in().unwrap();
    pair.assert_seeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_that_was_cut_or_damaged_leaves_nothing_and_the_group_can_be_made() {
    let mut pair = Pair::new();
    for inode in 1..=20 {
        pair.write(inode, noise(200_000, inode), true);
    }
    let stream = pair.stream();
    let before = pair.inventory();
    let container = format!("{}/seeds", pair.bench.dataset("oxfs/osd-2"));
    let left = |pair: &Pair| {
        let now = pair.inventory();
        let new = now.lines().filter(|line| !before.contains(line));
        new.filter(|line| !line.starts_with(&format!("{container}\t")))
            .count()
    };

    let whole: Bytes = stream.concat().into();
    let mut damaged = whole.to_vec();
    damaged[whole.len() / 2] ^= 0x10;
    for bad in [
        whole.slice(..whole.len() / 3),
        damaged.into(),
        Bytes::from_static(b"this is no stream"),
        Bytes::new(),
    ] {
        let error = pair.receive(vec![bad]).await.unwrap_err();
        assert!(!error.is_empty());
        machine::until("nothing is left", || left(&pair) == 0);
    }
    // Nobody says that it is to end.
    let intake = Intake::start(Arc::clone(&pair.to), GROUP, TO).unwrap();
    assert!(intake.give(whole.slice(..1 << 20)).await);
    drop(intake);
    machine::until("nothing is left of what was dropped", || left(&pair) == 0);

    assert!(pair.take_in().is_err(), "there is nothing to take in");
    assert!(!pair.to.is_ready(GROUP));
    let refused = make(&pair.to, GROUP).unwrap_err();
    assert!(refused.contains("on its way"), "{refused}");
    pair.to.datasets().unwrap().open_gate(GROUP);
    make(&pair.to, GROUP).unwrap();
    assert_eq!(pair.to.names(GROUP).unwrap(), []);
    assert!(!pair.to.datasets().unwrap().gate(GROUP), "it is there");
}

/// What the receiver itself has is never replaced.
#[tokio::test(flavor = "multi_thread")]
async fn group_that_was_made_meanwhile_stays_as_it_is() {
    let mut pair = Pair::new();
    pair.write(1, noise(10_000, 1), true);
    let datasets = Arc::clone(pair.to.datasets().unwrap());
    pair.receive(pair.stream()).await.unwrap();
    datasets.open_gate(GROUP);
    make(&pair.to, GROUP).unwrap();
    let mut store = DirectoryStore::new(Arc::clone(&pair.to));
    store.create(key(5), &Record::default()).unwrap();

    let error = pair.take_in().unwrap_err();

    assert!(error.contains("not awaited"), "{error}");
    assert_eq!(pair.to.names(GROUP).unwrap(), [key(5).object]);
    assert!(!pair.inventory().contains("seeds/1.3"));

    // Not even if the gate were still closed.
    let name = pair.bench.dataset("oxfs/osd-2/1/2");
    pair.receive(pair.stream()).await.unwrap();
    assert!(datasets.gate(OTHER));
    run("zfs", &["create", "-o", "mountpoint=none", name.as_str()]);
    let (seed, other) = (datasets.tree().seed(GROUP), datasets.tree().seed(OTHER));
    machine::until("the pool lets go of what was unmounted", || {
        datasets.tree().rename(&seed, &other).is_ok()
    });
    let (tell, told) = mpsc::channel();
    datasets.take_in(OTHER, Box::new(move |outcome| tell.send(outcome).unwrap()));
    let error = told.recv().unwrap().unwrap_err();
    assert!(error.contains(name.as_str()), "{error}");
    assert!(pair.inventory().contains(name.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn pool_without_room_refuses_the_stream_and_takes_no_harm() {
    let mut pair = Pair::new();
    for inode in 1..=12 {
        pair.write(inode, noise(1 << 20, inode), true);
    }
    let stream = pair.stream();
    let above = pair.bench.dataset("oxfs/osd-2");
    run("zfs", &["set", "quota=6M", above.as_str()]);

    let error = pair.receive(stream.clone()).await.unwrap_err();

    assert!(
        error.contains("space") || error.contains("quota"),
        "{error}"
    );
    machine::until("nothing is left", || {
        !pair.inventory().contains("seeds/1.3")
    });
    assert!(!pair.to.is_poisoned());
    run("zfs", &["set", "quota=none", above.as_str()]);
    pair.receive(stream).await.unwrap();
    pair.take_in().unwrap();
    pair.assert_seeded();
}

/// Not one of the records that the sender's server wrote comes back.
#[tokio::test(flavor = "multi_thread")]
async fn loss_of_power_leaves_either_nothing_or_copies_that_vouch_for_nothing() {
    let mut pair = Pair::new();
    for inode in 1..=300 {
        pair.write(inode, noise(5_000, inode), true);
    }
    pair.receive(pair.stream()).await.unwrap();
    pair.take_in().unwrap();

    // Nothing was synced since.
    if !pair.bench.machine.lose_power() {
        eprintln!("ZFS is in the kernel: only the server is started anew");
    }
    pair.to.datasets().unwrap().stop();
    pair.to = pair.grounds[1].open();

    assert!(pair.to.is_ready(GROUP), "its name is stable");
    pair.assert_seeded();
}

/// As of servers that were killed at work: the next start tidies up, and only there.
#[tokio::test(flavor = "multi_thread")]
async fn start_destroys_what_is_left_over_and_nothing_else() {
    let mut pair = Pair::new();
    pair.write(1, noise(300_000, 1), true);
    pair.receive(pair.stream()).await.unwrap();
    let tree = pair.from.datasets().unwrap().tree().clone();
    tree.snapshot_seed(GROUP, TO, 0).unwrap();
    tree.snapshot_seed(GROUP, TO, 2).unwrap();
    tree.snapshot_seed(GROUP, OsdId(17), 0).unwrap();
    for snapshot in ["oxfs-seed-x", "oxfs-seed-", "theirs", "oxfs-seed-017"] {
        let name = format!("{}@{snapshot}", tree.group(GROUP));
        run("zfs", &["snapshot", &name]);
    }
    let theirs = format!(
        "{}/mine",
        pair.to
            .datasets()
            .unwrap()
            .tree()
            .seed(GROUP)
            .parent()
            .unwrap()
    );
    run("zfs", &["create", "-o", "mountpoint=none", &theirs]);
    assert!(pair.inventory().contains("seeds/1.3"));

    pair.to.datasets().unwrap().stop();
    pair.from = pair.grounds[0].open();
    pair.to = pair.grounds[1].open();

    let now = pair.inventory();
    assert!(!now.contains("seeds/1.3"), "{now}");
    for gone in ["@oxfs-seed-2\t", "@oxfs-seed-2.2\t", "@oxfs-seed-17\t"] {
        assert!(!now.contains(gone), "{gone} in {now}");
    }
    for kept in [
        "@oxfs-seed-x\t",
        "@oxfs-seed-\t",
        "@theirs\t",
        "@oxfs-seed-017\t",
        "seeds/mine\t",
    ] {
        assert!(now.contains(kept), "{kept} in {now}");
    }
    assert_eq!(pair.from.names(GROUP).unwrap(), [key(1).object]);
}
