//! Wire options: agreed on by both ends, and changed while requests are under way.

use super::*;

fn with(change: impl FnOnce(&mut WireOptions)) -> WireOptions {
    let mut options = WireOptions::default();
    change(&mut options);
    options
}

/// A caller with a handle to its options.
fn caller(options: WireOptions) -> (Identity, Wire) {
    let wire = Wire::new(options);
    let identity = Identity {
        wire: wire.clone(),
        ..identity(Role::Mount)
    };
    (identity, wire)
}

async fn echoed(link: &Link, bytes: &[u8]) -> Bytes {
    let payload = Payload::of(Bytes::copy_from_slice(bytes));
    let (_, payload) = link
        .call::<String, String>(&"x".to_owned(), payload, LONG)
        .await
        .unwrap();
    payload.verified().unwrap()
}

/// Ports that callers came from, oldest first.
fn ports(server: &Running) -> Vec<u16> {
    let connections = lock(&server.oracle.connections);
    let port = |it: &Arc<Connection>| it.caller().address.unwrap().port();
    connections.iter().map(port).collect()
}

#[tokio::test]
async fn both_directions_use_what_the_caller_chose() {
    let server = Running::start().await;
    let zeros = vec![0; 1 << 20];
    for compression in Compression::ALL {
        for checksum in Checksum::ALL {
            let (identity, _) = caller(with(|it| {
                it.compression = compression;
                it.checksum = checksum;
            }));
            let link = server.link_as(identity);

            assert!(echoed(&link, &zeros).await == zeros, "{compression}");

            let agreed = lock(&server.oracle.connections).last().unwrap().agreed;
            assert_eq!(
                (agreed.compression, agreed.checksum),
                (compression, checksum)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_options_replace_the_connection_and_no_request_is_lost_or_overtaken() {
    let server = Running::start().await;
    let (identity, wire) = caller(WireOptions::default());
    let link = server.link_as(identity);
    let (replies, mut replied) = mpsc::unbounded_channel();
    let payload = Payload::of(Bytes::from(vec![5; 20_000]));
    let mut sent = 0;
    // Until the third connection: requests are under way all the time.
    while ports(&server).len() < 3 || sent < 3_000 {
        let replies = replies.clone();
        link.send(&sent.to_string(), payload.clone(), LONG, move |outcome| {
            let echoed = outcome.and_then(|(body, payload)| {
                payload.verified().map_err(CallError::Fault)?;
                Ok(text(body))
            });
            replies.send(echoed).unwrap();
        });
        sent += 1;
        if sent == 500 {
            wire.set(with(|it| it.compression = Compression::Lz4));
        }
        if sent == 1_500 {
            wire.set(with(|it| it.keepalive_ms = 700));
        }
        // Lets the answers in; the number of requests under way stays bounded.
        while link.in_flight() > 200 {
            tokio::task::yield_now().await;
        }
    }

    let expected: Vec<String> = (0..sent).map(|number| number.to_string()).collect();
    let mut received = Vec::new();
    for _ in 0..sent {
        received.push(replied.recv().await.unwrap().unwrap());
    }
    assert_eq!(received, expected);
    assert_eq!(*lock(&server.oracle.seen), expected);
    assert!(link.is_connected());
    let open = || {
        let connections = lock(&server.oracle.connections);
        connections.iter().filter(|it| !it.is_closed()).count()
    };
    until(|| open() == 1).await;
}

#[tokio::test]
async fn options_that_do_not_concern_a_connection_leave_it_alone() {
    let server = Running::start().await;
    let (identity, wire) = caller(WireOptions::default());
    let link = server.link_as(identity.clone());
    ask(&link, "x").await.unwrap();

    wire.set(with(|it| it.dial_timeout_ms = 400));
    // The second link is connected after whatever the first would do.
    ask(&server.link_as(identity), "y").await.unwrap();
    ask(&link, "z").await.unwrap();

    assert_eq!(ports(&server).len(), 2);
    let differs = |has_payloads| {
        with(|it| it.compression = Compression::Zstd)
            .makes_another_connection(&WireOptions::default(), has_payloads)
    };
    assert!(differs(true) && !differs(false));
}

/// A request that takes long keeps the old connection open, and the new one in use.
#[tokio::test]
async fn slow_request_gets_its_answer_through_the_old_connection() {
    let server = Running::start().await;
    let (identity, wire) = caller(WireOptions::default());
    let link = server.link_as(identity);
    let slow = tokio::spawn({
        let link = Arc::clone(&link);
        async move { ask(&link, "keep").await }
    });
    until(|| !lock(&server.oracle.kept).is_empty()).await;

    wire.set(with(|it| it.checksum = Checksum::Sha256));
    until(|| ports(&server).len() == 2).await;
    assert_eq!(ask(&link, "next").await.unwrap(), "next");
    let first = Arc::clone(lock(&server.oracle.connections).first().unwrap());
    assert!(!first.is_closed());
    let late = lock(&server.oracle.kept).pop().unwrap();
    late.ok(&"late".to_owned(), Payload::none());

    assert_eq!(slow.await.unwrap().unwrap(), "late");
    until(|| first.is_closed()).await;
    assert!(link.is_connected());
}

/// With new options that make no connection, the old one goes on.
#[tokio::test]
async fn connection_stays_while_the_new_options_make_none() {
    let server = Running::start().await;
    let (identity, wire) = caller(WireOptions::default());
    let link = server.link_as(identity);
    ask(&link, "x").await.unwrap();

    // An address of nobody here (RFC 5737).
    wire.set(with(|it| {
        it.source_address = Some("192.0.2.1".parse().unwrap())
    }));
    assert_eq!(ask(&link, "y").await.unwrap(), "y");
    wire.set(with(|it| {
        it.source_address = Some("127.0.0.5".parse().unwrap())
    }));
    until(|| ports(&server).len() == 2).await;

    assert_eq!(ask(&link, "z").await.unwrap(), "z");
    let connections = lock(&server.oracle.connections);
    let source = connections.last().unwrap().caller().address.unwrap().ip();
    assert_eq!(source.to_string(), "127.0.0.5");
}
