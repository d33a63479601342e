//! Write policies, from the map to the answer.

use std::sync::Arc;
use std::time::Duration;

use proto::osd;
use shell::link::Payload;

use super::bed::{Bed, bytes, until};

#[tokio::test(flavor = "multi_thread")]
async fn write_that_waits_for_all_is_answered_once_a_majority_is_enough() {
    let mut bed = Bed::with_policy(3, "memsync", "all").await;
    let client = bed.client();
    client.write(1, 0, &bytes(1_000, 1)).await;
    let primary = *client.last.lock().unwrap();
    let dead = if primary.0 == 3 { 2 } else { 3 };
    bed.kill(dead).await;

    let op = osd::request::Op::Write(osd::Write {
        change_id: u64::MAX,
        ..osd::Write::default()
    });
    let request = client.request(1, op);
    let payload = Payload::of(bytes(5_000, 2));
    let link = Arc::clone(&client.links[&primary]);
    let waiting = tokio::spawn(async move {
        let patience = Duration::from_secs(20);
        link.call::<_, osd::Response>(&request, payload, patience)
            .await
    });
    let lag = |bed: &Bed| bed.nodes[primary.0 as usize - 1].board.lag_metrics()[0].value;
    until("the lag to be seen", || async { lag(&bed) == 5_000 }).await;
    assert!(!waiting.is_finished());

    bed.map.volumes[0].quorum = "majority".to_owned();
    bed.publish();

    // Not repeated, and not by another primary.
    let (answer, _) = waiting.await.unwrap().unwrap();
    assert_eq!(answer.length_bytes, 5_000);
    bed.start(dead).await;
    bed.until_full().await;
    until("the lag to be over", || async { lag(&bed) == 0 }).await;
    bed.stop_all().await;
    bed.assert_all_equal(1..=1);
}

#[tokio::test(flavor = "multi_thread")]
async fn fullsync_write_is_recorded_on_a_majority_of_the_disks_when_it_is_answered() {
    for (quorum, least) in [("majority", 2), ("all", 3)] {
        let mut bed = Bed::with_policy(3, "fullsync", quorum).await;
        let client = bed.client();

        let written = client.write(1, 0, &bytes(1_000, 1)).await;
        for id in 1..=3 {
            bed.kill(id).await;
        }

        let recorded = (1..=3).filter(|id| bed.recorded_seq(*id, 1) >= written.seq);
        assert!(recorded.count() >= least, "{quorum}");
    }
}
