//! Health of a pool whose disk lies.

use zfs_driver::{DataErrors, NewDataset, Pool, PoolName, ScanPhase, State};

use crate::machine::{Machine, until, write_noise};
use crate::side::PG;

#[test]
fn scrub_finds_the_damaged_half_of_a_mirror() {
    let mut machine = Machine::take();
    let pool = machine.pool("twins", &["mirror"], 2);
    let tree = machine.tree(&pool);
    let files = machine.dir().join("twins-files");
    let new = NewDataset {
        mountpoint: Some(files.clone()),
        ..NewDataset::default()
    };
    let name = tree.create(PG, &new).unwrap();
    tree.mount(&name).unwrap();
    write_noise(&files.join("a"), 8 << 20, 1);
    // A snapshot is made when all before it is on the disks.
    tree.snapshot(&name.snapshot("a").unwrap()).unwrap();

    let status = pool.status().unwrap();
    assert!(status.is_healthy(), "{status:?}");
    assert_eq!((status.scan.as_ref(), status.vdevs.len()), (None, 4));
    let space = pool.space().unwrap();
    assert!(
        space.size_bytes > 100 << 20 && space.allocated_bytes > 8 << 20,
        "{space:?}"
    );
    assert!(
        space.data_bytes > 8 << 20 && space.available_bytes < space.size_bytes,
        "{space:?}"
    );
    let features = pool.features().unwrap();
    assert!(features.version.is_some() || !features.features.is_empty());

    machine.damage(pool.name().as_str(), 1);
    pool.start_scrub().unwrap();
    until("the scrub ends", || {
        let scan = pool.status().unwrap().scan;
        scan.is_some_and(|scan| matches!(scan.phase, ScanPhase::Finished { .. }))
    });

    let status = pool.status().unwrap();
    assert!(!status.is_healthy());
    let errors: Vec<_> = status
        .vdevs
        .iter()
        .map(|vdev| vdev.checksum_errors)
        .collect();
    assert!(errors[3] > 0 && errors[..3] == [0, 0, 0], "{status:?}");
    assert!(
        matches!(status.state, State::Online | State::Degraded),
        "{status:?}"
    );
    assert_eq!(status.data_errors, DataErrors::None);
    let ScanPhase::Finished {
        errors, ended_s, ..
    } = status.scan.as_ref().unwrap().phase
    else {
        panic!("{status:?}");
    };
    assert_eq!(errors, 0, "all was repaired from the other half");
    assert!(ended_s.is_some());
    pool.stop_scrub().unwrap();
    let missing = PoolName::new("no-such-pool").unwrap();
    let error = Pool::new(machine.tools.clone(), missing)
        .status()
        .unwrap_err();
    assert!(error.is_missing(), "{error}");
}
