//! Requests that reach a primary through another replica.

use bytes::Bytes;
use proto::osd::{self, request::Op};
use shell::link::{CallError, Payload};
use types::{Fault, OsdId, Remedy};

use super::bed::{Bed, Client, PATIENCE, bytes};

async fn ask(
    client: &Client,
    through: OsdId,
    request: &osd::Request,
    bytes: &Bytes,
) -> Result<Bytes, Fault> {
    let payload = Payload::of(bytes.clone());
    let answer = client.links[&through].call::<_, osd::Response>(request, payload, PATIENCE);
    match answer.await {
        Ok((_, payload)) => payload.verified(),
        Err(CallError::Fault(fault)) => Err(fault),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_is_passed_on_once_to_the_server_that_the_mount_names() {
    let mut bed = Bed::new(3).await;
    let client = bed.client();
    let (old, new) = (bytes(10_000, 1), bytes(10_000, 2));
    client.write(1, 0, &old).await;
    let primary = *client.last.lock().unwrap();
    let other = OsdId(primary.0 % 3 + 1);
    let third = OsdId(other.0 % 3 + 1);
    let request = |op, forward_to: OsdId| osd::Request {
        forward_to: forward_to.0,
        ..client.request(1, op)
    };
    let read = || {
        Op::Read(osd::Read {
            offset: 0,
            length_bytes: 20_000,
        })
    };
    let none = Bytes::new();

    let found = ask(&client, other, &request(read(), primary), &none).await;
    assert!(found.unwrap() == old);
    let write = Op::Write(osd::Write {
        change_id: 1_000_000,
        ..osd::Write::default()
    });
    ask(&client, other, &request(write, primary), &new)
        .await
        .unwrap();
    let found = ask(&client, primary, &request(read(), primary), &none).await;
    assert!(found.unwrap() == new, "to itself it is an ordinary one");

    // Only the server named is asked, and says what it knows.
    let fault = ask(&client, other, &request(read(), third), &none)
        .await
        .unwrap_err();
    assert_eq!(
        (fault.remedy, fault.osd_hint),
        (Remedy::Redirect, Some(primary))
    );
    let fault = ask(&client, other, &request(read(), OsdId(9)), &none)
        .await
        .unwrap_err();
    assert_eq!(fault.remedy, Remedy::Refresh, "{fault}");
    let stats = Op::LeaseStats(osd::LeaseStats {});
    let fault = ask(&client, other, &request(stats, primary), &none)
        .await
        .unwrap_err();
    assert_eq!(fault.errno, libc::EPROTO, "{fault}");
    let mut forged = request(read(), primary);
    forged.capability = Bytes::from_static(b"nothing");
    let fault = ask(&client, other, &forged, &none).await.unwrap_err();
    assert_eq!(fault.errno, libc::EACCES, "{fault}");

    bed.kill(third.0).await;
    let fault = ask(&client, other, &request(read(), third), &none)
        .await
        .unwrap_err();
    assert_eq!(fault.remedy, Remedy::Retry, "{fault}");
}
