//! Three real object servers in one process, over loopback.

mod bed;
mod failures;
mod forwarding;
mod leases;
mod on_zfs;
mod policies;
mod scrub;
mod seeding;

use std::sync::Arc;

use bytes::Bytes;
use proto::{mrc, osd};
use shell::link::{CallError, Identity, Link, LinkOptions, Payload, Role, ServiceKind, Wire};
use tokio::sync::watch;
use types::{Capability, OsdId, Remedy};

use crate::config::Config;
use crate::map::Map;
use crate::server::{MapSource, run_with};
use bed::{Bed, CLUSTER, PATIENCE, PG, bytes, object, secret, until};

#[tokio::test(flavor = "multi_thread")]
async fn one_server_writes_reads_and_syncs_a_new_object() {
    let bed = Bed::new(1).await;
    let client = bed.client();
    let data = bytes(100_000, 1);

    let written = client.write(5, 10, &data).await;

    assert_eq!((written.offset, written.length_bytes), (10, 100_010));
    assert_eq!(client.read(5, 10, 200_000).await, data);
    assert_eq!(client.read(5, 0, 10).await, vec![0; 10]);
    assert_eq!(client.sync(5).await.length_bytes, 100_010);
    assert_eq!(client.length(5).await, 100_010);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_hold_the_same_bytes_after_a_clean_stop() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();

    for inode in 1..=8 {
        client.write(inode, 0, &bytes(70_000, inode)).await;
        client.write(inode, 30_000, &bytes(999, inode)).await;
    }
    client.sync(3).await;
    bed.stop_all().await;

    bed.assert_all_equal(1..=8);
    let first = bed.at_rest(1, 4).unwrap();
    assert_eq!(first.len(), 70_000);
    assert_eq!(first.slice(30_000..30_999), bytes(999, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_backup_is_gone_on_without_and_catches_up_after_its_restart() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    for inode in 1..=4 {
        client.write(inode, 0, &bytes(200_000, inode)).await;
    }

    bed.kill(3).await;
    client.write(1, 50_000, &bytes(100_000, 77)).await;
    client.write(5, 0, &bytes(10_000, 5)).await;
    client.sync(1).await;
    bed.start(3).await;
    bed.until_full().await;
    bed.stop_all().await;

    bed.assert_all_equal(1..=5);
    assert_eq!(
        bed.at_rest(3, 1).unwrap().slice(50_000..150_000),
        bytes(100_000, 77)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_primary_loses_nothing_that_was_acknowledged() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    for inode in 1..=4 {
        client.write(inode, 0, &bytes(50_000, inode)).await;
    }

    bed.kill(1).await;
    for inode in 1..=4 {
        assert_eq!(client.read(inode, 0, 50_000).await, bytes(50_000, inode));
        client.write(inode, 50_000, &bytes(1_000, inode)).await;
    }
    bed.start(1).await;
    bed.until_full().await;
    bed.stop_all().await;

    bed.assert_all_equal(1..=4);
    assert_eq!(bed.at_rest(1, 2).unwrap().len(), 51_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_append_is_done_once_even_by_another_primary() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    let first = client.append(1, 1, &bytes(1_000, 1)).await;
    let second = client.append(1, 2, &bytes(1_000, 2)).await;
    assert_eq!((first.offset, second.offset), (0, 1_000));

    let again = client.append(1, 2, &bytes(1_000, 2)).await;
    bed.kill(1).await;
    let after = client.append(1, 2, &bytes(1_000, 2)).await;
    let third = client.append(1, 3, &bytes(1_000, 3)).await;

    assert_eq!((again.offset, after.offset), (1_000, 1_000));
    assert_eq!((third.offset, third.length_bytes), (2_000, 3_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn wiped_server_is_rebuilt_while_clients_write() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    for inode in 1..=20 {
        client.write(inode, 0, &bytes(100_000, inode)).await;
    }

    bed.kill(2).await;
    bed.wipe(2);
    // The metadata cluster sees a new store in the first report.
    bed.map.pgs[0].incomplete = vec![2];
    bed.start(2).await;
    for inode in 15..=25 {
        client.write(inode, 40_000, &bytes(30_000, inode)).await;
    }
    bed.until_full().await;
    bed.map.pgs[0].incomplete.clear();
    bed.publish();
    bed.stop_all().await;

    bed.assert_all_equal(1..=25);
}

#[tokio::test(flavor = "multi_thread")]
async fn crashed_server_becomes_full_although_another_stays_down() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    for inode in 1..=4 {
        client.write(inode, 0, &bytes(20_000, inode)).await;
        client.sync(inode).await;
    }

    bed.kill(3).await;
    bed.kill(2).await;
    bed.start(2).await;
    let client = bed.client();
    for inode in 3..=6 {
        client.write(inode, 5_000, &bytes(5_000, 9)).await;
    }
    let map = Map::from_wire(&bed.map);
    until("the restarted server to be full", || async {
        let report = &bed.nodes[1].board.reports(OsdId(2), &map)[0];
        report.state() == mrc::PgState::PgFull
    })
    .await;
    bed.stop(1).await;
    bed.stop(2).await;

    for inode in 1..=6 {
        assert!(bed.at_rest(1, inode).is_some());
        assert!(bed.at_rest(1, inode) == bed.at_rest(2, inode), "{inode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fsynced_data_survives_the_death_of_all_servers_at_once() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    client.write(1, 0, &bytes(300_000, 1)).await;
    client.sync(1).await;

    for id in 1..=3 {
        bed.kill(id).await;
    }
    for id in 1..=3 {
        bed.start(id).await;
    }
    let client = bed.client();

    assert_eq!(client.read(1, 0, 300_000).await, bytes(300_000, 1));
    bed.until_full().await;
    bed.stop_all().await;
    bed.assert_all_equal(1..=1);
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_restart_of_all_finds_everything_without_comparing_bytes() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    client.write(1, 0, &bytes(10_000, 1)).await;

    bed.stop_all().await;
    for id in 1..=3 {
        bed.start(id).await;
    }
    let client = bed.client();

    assert_eq!(client.read(1, 0, 20_000).await, bytes(10_000, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_object_is_gone_everywhere_and_refused_afterwards() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    client.write(1, 0, &bytes(10_000, 1)).await;
    client.write(2, 0, &bytes(10_000, 2)).await;

    for node in &bed.nodes {
        let identity = Identity {
            cluster: CLUSTER,
            secret: secret(),
            role: Role::Mrc,
            id: 1,
            wire: Wire::default(),
        };
        let link = Link::open(
            identity,
            ServiceKind::Osd,
            node.address.clone(),
            LinkOptions::default(),
        );
        let request = osd::Request {
            op: Some(osd::request::Op::Delete(osd::Delete {
                objects: vec![osd::ObjectInPg {
                    object: Some(object(1).into()),
                    pg: PG.pg.0,
                    moved: false,
                }],
            })),
            ..osd::Request::default()
        };
        link.call::<_, osd::Response>(&request, Payload::none(), PATIENCE)
            .await
            .unwrap();
    }
    let op = osd::request::Op::Read(osd::Read {
        offset: 0,
        length_bytes: 1,
    });
    let fault = client.ask(1, op, Bytes::new()).await.unwrap_err();
    assert_eq!(fault.errno, libc::ESTALE, "{fault}");
    bed.stop_all().await;

    for id in 1..=3 {
        assert_eq!(bed.at_rest(id, 1), None);
    }
    bed.assert_all_equal(2..=2);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_may_not_be_done_get_a_clear_fault() {
    let bed = Bed::new(1).await;
    let client = bed.client();
    client.write(1, 0, &bytes(10, 1)).await;
    let link = &client.links[&OsdId(1)];
    let stat = || osd::request::Op::Stat(osd::Stat {});
    let fault_of = |request: osd::Request, payload: Payload| async move {
        let answer = link
            .call::<_, osd::Response>(&request, payload, PATIENCE)
            .await;
        match answer {
            Err(CallError::Fault(fault)) => fault,
            other => panic!("{other:?}"),
        }
    };

    let mut forged = client.request(1, stat());
    forged.capability = vec![7; Capability::ENCODED_BYTES].into();
    let fault = fault_of(forged, Payload::none()).await;
    assert_eq!((fault.remedy, fault.errno), (Remedy::Surface, libc::EACCES));

    let mut old_view = client.request(1, stat());
    old_view.view = 0;
    let fault = fault_of(old_view, Payload::none()).await;
    assert_eq!(fault.remedy, Remedy::Refresh, "{fault}");

    let mut new_view = client.request(1, stat());
    new_view.view = 9;
    let fault = fault_of(new_view, Payload::none()).await;
    assert_eq!(fault.remedy, Remedy::Retry, "{fault}");

    let write = osd::request::Op::Write(osd::Write {
        change_id: 99,
        ..osd::Write::default()
    });
    let damaged = Payload {
        crc32c: Some(1),
        ..Payload::of(bytes(10, 1))
    };
    let fault = fault_of(client.request(1, write), damaged).await;
    assert_eq!(fault.remedy, Remedy::Retry, "{fault}");

    let long = osd::request::Op::Read(osd::Read {
        offset: 0,
        length_bytes: u32::MAX,
    });
    let fault = fault_of(client.request(1, long), Payload::none()).await;
    assert_eq!(fault.errno, libc::EINVAL, "{fault}");

    let delete = osd::request::Op::Delete(osd::Delete::default());
    let fault = fault_of(client.request(1, delete), Payload::none()).await;
    assert_eq!(fault.errno, libc::EPERM, "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn start_is_refused_with_one_clear_sentence() {
    let bed = Bed::new(1).await;
    // It runs once it serves.
    bed.client().write(1, 0, &bytes(10, 1)).await;
    let start = |config: Config| async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = MapSource::Channel {
            maps: watch::Sender::new(mrc::OsdMap::default()).subscribe(),
            board: Arc::default(),
            pacer: crate::pacer::Pacer::default(),
            seed_counts: Arc::default(),
        };
        run_with(config, listener, source, async {})
            .await
            .unwrap_err()
            .to_string()
    };

    let in_use = start(bed.config(1)).await;
    assert!(in_use.contains("in use"), "{in_use}");

    let mut no_secret = bed.config(1);
    no_secret.secret_file = bed.root.path().join("nowhere");
    let no_secret = start(no_secret).await;
    assert!(no_secret.contains("nowhere"), "{no_secret}");

    let mut foreign = bed.config(1);
    foreign.dir = bed.root.path().to_owned();
    let foreign = start(foreign).await;
    assert!(foreign.contains("not empty"), "{foreign}");

    let mut config = bed.config(1);
    config.listen = bed.nodes[0].address.parse().unwrap();
    let taken = crate::run(config, async {}).await.unwrap_err().to_string();
    assert!(taken.contains("port"), "{taken}");
}
