//! Recorded texts of old and new versions.

use proptest::prelude::*;

use super::*;
use crate::scan::{ScanKind, ScanPhase};

/// In the format of zfs-fuse 0.7.0: a mirror with a damaged half, after a scrub.
const OLD: &str = "  pool: tank
 state: ONLINE
status: One or more devices has experienced an unrecoverable error.  An
\tattempt was made to correct the error.  Applications are unaffected.
action: Determine if the device needs to be replaced, and clear the errors
\tusing 'zpool clear' or replace the device with 'zpool replace'.
   see: http://www.sun.com/msg/ZFS-8000-9P
 scrub: scrub completed after 0h0m with 0 errors on Sun Nov 29 23:08:11 2026
config:

\tNAME              STATE     READ WRITE CKSUM
\ttank              ONLINE       0     0     0
\t  mirror-0        ONLINE       0     0     0
\t    /tmp/a b.img  ONLINE       0     0 1.32K  87.1M repaired
\t    /tmp/b.img    ONLINE       0     0     0

errors: No known data errors
";

/// In the format of OpenZFS 2.2: a pool in trouble.
const NEW: &str = "  pool: tank
 state: DEGRADED
status: One or more devices could not be used because the label is missing or
\tinvalid.  Sufficient replicas exist for the pool to continue
\tfunctioning in a degraded state.
action: Replace the device using 'zpool replace'.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-4J
  scan: scrub in progress since Sun Nov 29 23:08:11 2026
\t1.20G / 3.00G scanned at 100M/s, 500M / 3.00G issued at 50M/s
\t0B repaired, 16.20% done, 00:00:50 to go
config:

\tNAME                      STATE     READ WRITE CKSUM
\ttank                      DEGRADED     0     0     0
\t  raidz1-0                DEGRADED     0     0     0
\t    sda                   ONLINE       0     0     0
\t    1234567890123456789   UNAVAIL      3 1.06K     0  was /dev/sdb1
\t    sdc                   FAULTED      9     0     0  too many errors
\tspecial\t
\t  nvme1                   ONLINE       0     0     0
\tlogs\t
\t  nvme0                   ONLINE       0     0     0
\tcache
\t  nvme2                   ONLINE       0     0     0
\tspares
\t  sdd                     AVAIL   

errors: 2 data errors, use '-v' for a list

  pool: other
 state: ONLINE
config:

\tNAME        STATE     READ WRITE CKSUM
\tother       ONLINE       0     0     0
";

#[test]
fn status_of_zfs_fuse_is_understood() {
    let status = PoolStatus::parse(OLD).unwrap();

    assert_eq!(status.state, State::Online);
    assert!(
        status
            .problem
            .as_deref()
            .unwrap()
            .ends_with("are unaffected.")
    );
    assert!(status.action.as_deref().unwrap().contains("zpool clear"));
    let scan = status.scan.as_ref().unwrap();
    assert_eq!(scan.kind, ScanKind::Scrub);
    assert!(matches!(scan.phase, ScanPhase::Finished { errors: 0, .. }));
    assert_eq!(status.data_errors, DataErrors::None);
    let names: Vec<_> = status
        .vdevs
        .iter()
        .map(|vdev| (vdev.name.as_str(), vdev.depth))
        .collect();
    assert_eq!(
        names,
        [
            ("tank", 0),
            ("mirror-0", 1),
            ("/tmp/a b.img", 2),
            ("/tmp/b.img", 2)
        ]
    );
    assert_eq!(status.vdevs[2].checksum_errors, 1351);
    assert_eq!(status.vdevs[2].note, "87.1M repaired");
    assert!(!status.is_healthy());
}

#[test]
fn status_of_openzfs_is_understood() {
    let status = PoolStatus::parse(NEW).unwrap();

    assert_eq!(status.state, State::Degraded);
    assert!(status.scan.as_ref().unwrap().is_running());
    assert_eq!(status.data_errors, DataErrors::Some(2));
    let lost = &status.vdevs[3];
    assert_eq!(
        (lost.state, lost.read_errors, lost.write_errors),
        (State::Unavailable, 3, 1085)
    );
    assert_eq!(lost.note, "was /dev/sdb1");
    assert_eq!(status.vdevs[4].state, State::Faulted);
    let roles: Vec<_> = status.vdevs[5..].iter().map(|vdev| vdev.role).collect();
    assert_eq!(roles, [Role::Special, Role::Log, Role::Cache, Role::Spare]);
    assert_eq!(status.vdevs[8].state, State::Spare);
    assert_eq!(status.vdevs.len(), 9);
}

#[test]
fn what_is_not_about_a_pool_is_none() {
    for text in [
        "",
        "no pools available\n",
        "  pool: tank\n",
        " state: ONLINE\n",
    ] {
        assert_eq!(PoolStatus::parse(text), None, "{text:?}");
    }
}

proptest! {
    #[test]
    fn prop_noise_is_no_panic(text in "(\\PC|\n|\t){0,300}") {
        let _ = PoolStatus::parse(&text);
    }

    /// Cut anywhere and with any byte of it changed.
    #[test]
    fn prop_damaged_status_is_no_panic(at in 0..NEW.len(), end in 0..NEW.len(), byte in 0..128_u8) {
        let mut bytes = NEW.as_bytes().to_vec();
        bytes[at] = byte;
        bytes.truncate(end);
        let _ = PoolStatus::parse(&String::from_utf8(bytes).unwrap());
    }
}
