//! Leases as administrators see and move them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use proto::osd::{self, request::Op};
use shell::link::{CallError, Identity, Link, LinkOptions, Payload, Role, ServiceKind, Wire};

use super::bed::{Bed, CLUSTER, PATIENCE, bytes, object, secret, until};

pub(super) struct Admin(Vec<Arc<Link>>);

impl Admin {
    pub(super) fn of(bed: &Bed) -> Self {
        let open = |node: &super::bed::Node| {
            let identity = Identity {
                cluster: CLUSTER,
                secret: secret(),
                role: Role::Admin,
                id: 1,
                wire: Wire::default(),
            };
            let options = LinkOptions::default();
            Link::open(identity, ServiceKind::Osd, node.address.clone(), options)
        };
        Self(bed.nodes.iter().map(open).collect())
    }

    pub(super) async fn ask(
        &self,
        osd: u64,
        inode: u64,
        op: Op,
    ) -> Result<osd::Response, CallError> {
        let request = osd::Request {
            object: Some(object(inode).into()),
            op: Some(op),
            ..osd::Request::default()
        };
        let link = &self.0[osd as usize - 1];
        let (response, _) = link.call(&request, Payload::none(), PATIENCE).await?;
        Ok(response)
    }

    async fn detail(&self, osd: u64, inode: u64) -> osd::LeaseDetail {
        let op = Op::LeaseShow(osd::LeaseShow {});
        let answer = self.ask(osd, inode, op).await.unwrap();
        answer.lease_detail.unwrap()
    }

    pub(super) async fn metrics(&self, osd: u64) -> BTreeMap<String, u64> {
        let op = Op::LeaseStats(osd::LeaseStats {});
        let answer = self.ask(osd, 1, op).await.unwrap();
        let metrics = answer.metrics.into_iter();
        metrics.map(|metric| (metric.name, metric.value)).collect()
    }

    /// Hands the object's lease to the server after its holder, as soon as it has one that can.
    pub(super) async fn move_on(&self, inode: u64) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for osd in 1..=self.0.len() as u64 {
                let to = osd % self.0.len() as u64 + 1;
                if self.detail(osd, inode).await.state == "held"
                    && self.hand_over(osd, inode, to).await.is_ok()
                {
                    return to;
                }
            }
            assert!(Instant::now() < deadline, "nobody hands the lease over");
            tokio::task::yield_now().await;
        }
    }

    async fn hand_over(&self, osd: u64, inode: u64, to: u64) -> Result<osd::Response, CallError> {
        let op = Op::LeaseHandOver(osd::LeaseHandOver { to });
        self.ask(osd, inode, op).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_is_handed_over_while_a_client_writes() {
    let bed = Bed::new(3).await;
    let client = Arc::new(bed.client());
    let admin = Admin::of(&bed);
    client.write(1, 0, &bytes(50_000, 1)).await;
    let writing = {
        let client = Arc::clone(&client);
        tokio::spawn(async move {
            for round in 0..200 {
                client.write(1, 0, &bytes(50_000, round)).await;
            }
        })
    };

    let mut epoch = 0;
    for _ in 0..3 {
        let to = admin.move_on(1).await;
        until("the successor to hold the lease", || async {
            admin.detail(to, 1).await.state == "held"
        })
        .await;
        let taken = admin.detail(to, 1).await;
        assert!(taken.epoch > epoch, "{taken:?}");
        assert_eq!(taken.members, [1, 2, 3]);
        epoch = taken.epoch;
    }
    let mut handed_over = 0;
    for osd in 1..=3 {
        let metrics = admin.metrics(osd).await;
        handed_over += metrics["oxfs_lease_ended{how=\"handed_over\"}"];
    }
    assert_eq!(handed_over, 3);
    writing.await.unwrap();

    assert_eq!(client.read(1, 0, 50_000).await, bytes(50_000, 199));
    let unknown = admin.hand_over(2, 77, 3).await.unwrap_err();
    assert!(unknown.to_string().contains("does not hold"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_was_stopped_in_order_needs_no_quarantine() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    client.write(1, 0, &bytes(1_000, 1)).await;

    bed.stop(1).await;
    bed.start(1).await;
    let admin = Admin::of(&bed);
    let metrics = admin.metrics(1).await;
    assert_eq!(metrics["oxfs_lease_quarantine_ms"], 0);
    assert_eq!(
        metrics["oxfs_lease_messages_dropped{reason=\"quarantine\"}"],
        0
    );
    bed.kill(1).await;
    bed.start(1).await;
    let admin = Admin::of(&bed);
    until("the server to take part again", || async {
        admin.metrics(1).await["oxfs_lease_quarantine_ms"] == 0
    })
    .await;
    assert_eq!(admin.detail(1, 1).await.state, "unknown", "it forgot");
}

#[tokio::test(flavor = "multi_thread")]
async fn running_leases_are_listed_in_pages() {
    let bed = Bed::new(1).await;
    let client = bed.client();
    let admin = Admin::of(&bed);
    for inode in 1..=10 {
        client.write(inode, 0, &bytes(10, 1)).await;
    }

    let (mut found, mut start) = (Vec::new(), 0);
    loop {
        let op = Op::LeaseList(osd::LeaseList { limit: 3, start });
        let page = admin.ask(1, 1, op).await.unwrap();
        assert!(page.leases.len() <= 3);
        assert!(page.leases.iter().all(|lease| lease.role == "holder"));
        found.extend(page.leases.iter().map(|lease| lease.object.unwrap().inode));
        start = page.lease_next;
        if start == 0 {
            break;
        }
    }
    found.sort_unstable();

    assert_eq!(found, (1..=10).collect::<Vec<_>>());
    assert_eq!(admin.metrics(1).await["oxfs_lease_held"], 10);
    assert_eq!(admin.detail(1, 99).await.state, "unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_requests_are_told_with_what_they_wait_for() {
    let mut bed = Bed::new(3).await;
    let client = Arc::new(bed.client());
    client.write(1, 0, &bytes(100, 1)).await;
    let admin = Admin::of(&bed);
    bed.kill(2).await;
    bed.kill(3).await;

    let stalled = {
        let client = Arc::clone(&client);
        tokio::spawn(async move { client.write(1, 0, &bytes(100, 2)).await })
    };
    let stalls = || async {
        let op = Op::Stalls(osd::Stalls {});
        admin.ask(1, 1, op).await.unwrap().stalls
    };
    until("the lease to be missed", || async {
        stalls()
            .await
            .iter()
            .any(|stall| stall.waits_for == "no_quorum")
    })
    .await;
    let stall = stalls().await.pop().unwrap();
    assert_eq!(stall.object.unwrap().inode, 1);
    assert!(stall.waited_ms >= 100 && stall.requests >= 1, "{stall:?}");
    assert!(stall.text.contains("no majority"), "{stall:?}");

    bed.start(2).await;
    bed.publish();
    stalled.await.unwrap();
    assert!(stalls().await.is_empty());
    let mount = client
        .ask(1, Op::Stalls(osd::Stalls {}), Bytes::new())
        .await;
    assert_eq!(mount.unwrap_err().errno, libc::EPERM);
}
