//! Datasets and snapshots, and that others' are left alone.

use std::fs;

use types::{ClusterId, PgId, PgKey};
use zfs_driver::{Changes, Error, NewDataset, StreamOptions, Tree};

use crate::machine::{CLUSTER, Machine, dataset, inventory, run, write_noise};
use crate::side::{PG, Side};

#[test]
fn datasets_are_made_listed_mounted_renamed_and_destroyed() {
    let mut machine = Machine::take();
    let side = Side::new(&mut machine, "life");
    let tree = &side.tree;
    assert_eq!(tree.list().unwrap(), []);

    let name = tree.create(PG, &side.plan()).unwrap();
    assert_eq!(tree.groups().unwrap(), [PG]);
    assert!(tree.create(PG, &side.plan()).is_err());
    assert!(!tree.info(&name).unwrap().is_mounted);
    tree.mount(&name).unwrap();
    tree.mount(&name).unwrap();
    write_noise(&side.files.join("a"), 1 << 20, 1);
    let info = tree.info(&name).unwrap();
    assert!(info.is_mounted && !info.is_readonly);
    assert_eq!(info.mountpoint.as_deref(), Some(side.files.as_path()));
    assert_eq!(
        run("zfs", &["get", "-H", "-o", "value", "atime", name.as_str()]),
        "off\n"
    );

    let first = side.snapshot("first");
    fs::remove_file(side.files.join("a")).unwrap();
    let second = side.snapshot("second");
    assert!(first.created_txg < second.created_txg && first.guid != second.guid);
    let listed = tree.snapshots(&name).unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0].name, first.name);
    assert!(listed[0].referenced_bytes >= 1 << 20, "{listed:?}");
    assert!(tree.rollback(&first.name).is_err(), "there is a newer one");
    tree.destroy_snapshot(&second.name).unwrap();
    tree.rollback(&first.name).unwrap();
    assert_eq!(fs::read(side.files.join("a")).unwrap().len(), 1 << 20);

    let open = fs::File::open(side.files.join("a")).unwrap();
    let error = tree.unmount(&name).unwrap_err().to_string();
    assert!(error.contains("busy") && error.contains("fuser"), "{error}");
    assert!(tree.destroy(&name).is_err());
    assert_eq!(tree.snapshots(&name).unwrap().len(), 1);
    drop(open);

    tree.set_readonly(&name, true).unwrap();
    assert!(fs::write(side.files.join("b"), "x").is_err());
    tree.unmount(&name).unwrap();
    tree.unmount(&name).unwrap();
    let stash = dataset(&side.pool, "oxfs/3/stash");
    tree.rename(&name, &stash).unwrap();
    assert!(matches!(tree.info(&name), Err(Error::Missing { .. })));
    assert_eq!(tree.groups().unwrap(), []);
    tree.destroy_empty(PG.volume).unwrap();
    tree.destroy(&stash).unwrap();
    tree.destroy_empty(PG.volume).unwrap();
    assert_eq!(tree.list().unwrap(), [tree.root().clone()]);
}

#[test]
fn datasets_without_the_mark_are_never_touched() {
    let mut machine = Machine::take();
    let side = Side::with_dataset(&mut machine, "marks");
    let tree = &side.tree;
    let below = dataset(&side.pool, "oxfs/3/7/below");
    let beside = dataset(&side.pool, "oxfs/3/8");
    let other = dataset(&side.pool, "oxfs/3/9");
    let other_mark = format!("oxfs:cluster={}", ClusterId(CLUSTER.0 + 1));
    // Made by hand: these inherit the mark, and one has that of another cluster.
    for name in [&below, &beside] {
        run("zfs", &["create", name.as_str()]);
    }
    run("zfs", &["create", "-o", &other_mark, other.as_str()]);
    for name in [&below, &beside, &other] {
        run("zfs", &["snapshot", &format!("{name}@theirs")]);
    }
    let before = inventory(&side.pool);

    assert!(matches!(
        tree.destroy(&side.name),
        Err(Error::HasChildren { .. })
    ));
    for name in [&below, &beside, &other] {
        let theirs = name.snapshot("theirs").unwrap();
        let new = name.snapshot("new").unwrap();
        let free = dataset(&side.pool, "oxfs/3/free");
        let refused = [
            tree.destroy(name),
            tree.rename(name, &free),
            tree.rollback(&theirs),
            tree.snapshot(&new).map(drop),
            tree.destroy_snapshot(&theirs),
            tree.mount(name),
            tree.unmount(name),
            tree.set_readonly(name, true),
            tree.info(name).map(drop),
            tree.snapshots(name).map(drop),
            tree.send(&theirs, None, StreamOptions::default()).map(drop),
            tree.receive_full(&new, &side.plan(), Changes::Discard)
                .map(drop),
            tree.receive_increment(&new, 1, Changes::Discard).map(drop),
        ];
        for (number, outcome) in refused.into_iter().enumerate() {
            let error = outcome.unwrap_err();
            assert!(matches!(error, Error::Foreign { .. }), "{number}: {error}");
            assert!(error.to_string().contains(name.as_str()), "{error}");
        }
    }
    assert_eq!(inventory(&side.pool), before);
    assert_eq!(tree.groups().unwrap(), [PG]);

    let outside = dataset(&side.pool, "elsewhere/7");
    let error = tree.rename(&side.name, &outside).unwrap_err();
    assert!(matches!(error, Error::Outside { .. }), "{error}");
    let root = tree.root().clone();
    let others = Tree::new(machine.tools.clone(), root, ClusterId(1)).unwrap();
    let error = others.create(PG, &side.plan()).unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    assert_eq!(inventory(&side.pool), before);
}

/// Two at once make zfs-fuse wait for ever for the rest of what they told it.
#[test]
fn many_processes_mount_at_once() {
    let mut machine = Machine::take();
    let pool = machine.pool("many", &[], 1);
    let tree = machine.tree(&pool);
    let groups: Vec<_> = (0..24).map(|pg| PgKey { pg: PgId(pg), ..PG }).collect();
    for group in &groups {
        let new = NewDataset {
            mountpoint: Some(machine.dir().join(format!("many-{}", group.pg))),
            ..NewDataset::default()
        };
        tree.create(*group, &new).unwrap();
    }

    // Each opens the lock for itself, as processes do.
    let tree = &tree;
    std::thread::scope(|scope| {
        for part in groups.chunks(6) {
            scope.spawn(move || {
                for group in part {
                    tree.mount(&tree.group(*group)).unwrap();
                }
            });
        }
    });

    for group in &groups {
        let path = machine.dir().join(format!("many-{}", group.pg));
        fs::write(path.join("a"), "x").unwrap();
        assert!(tree.info(&tree.group(*group)).unwrap().is_mounted);
    }
}
