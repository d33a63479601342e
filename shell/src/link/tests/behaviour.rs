//! What a working link does.

use super::*;

#[tokio::test]
async fn reply_carries_body_and_payload() {
    let server = Running::start().await;
    let link = server.link();
    let payload = Payload::of(Bytes::from(vec![9; 300_000]));

    let (text, echoed) = link
        .call::<String, String>(&"hello".to_owned(), payload.clone(), LONG)
        .await
        .unwrap();

    assert_eq!(text, "hello");
    assert_eq!(echoed.verified().unwrap(), payload.bytes);
}

#[tokio::test]
async fn changed_payload_is_noticed() {
    let mut payload = Payload::of(Bytes::from_static(b"data"));
    payload.bytes = Bytes::from_static(b"date");

    let fault = payload.verified().unwrap_err();

    assert_eq!(fault.remedy, types::Remedy::Retry);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_requests_arrive_and_return_in_order() {
    let server = Running::start().await;
    let link = server.link();
    let (replies, mut replied) = mpsc::unbounded_channel();

    // A large one now and then must not be overtaken.
    for number in 0..5_000 {
        let size = if number % 500 == 0 { 2 << 20 } else { 10 };
        let replies = replies.clone();
        let payload = Payload::of(Bytes::from(vec![0; size]));
        link.send(&number.to_string(), payload, LONG, move |outcome| {
            replies.send(outcome.map(|(body, _)| text(body))).unwrap();
        });
    }

    let expected: Vec<String> = (0..5_000).map(|number| number.to_string()).collect();
    let mut received = Vec::new();
    for _ in 0..expected.len() {
        received.push(replied.recv().await.unwrap().unwrap());
    }
    assert_eq!(received, expected);
    assert_eq!(*lock(&server.oracle.seen), expected);
    assert_eq!(link.in_flight(), 0);
}

#[tokio::test]
async fn unanswered_request_times_out_and_others_go_on() {
    let server = Running::start().await;
    let link = server.link();
    ask(&link, "warm").await.unwrap();

    let kept = link
        .call::<String, String>(
            &"keep".to_owned(),
            Payload::none(),
            Duration::from_millis(30),
        )
        .await;

    assert_eq!(kept.unwrap_err(), CallError::Timeout);
    assert_eq!(ask(&link, "next").await.unwrap(), "next");
    // The late answer is nobody's.
    let late = lock(&server.oracle.kept).pop().unwrap();
    late.ok(&"late".to_owned(), Payload::none());
    assert_eq!(ask(&link, "after").await.unwrap(), "after");
}

#[tokio::test]
async fn shorter_deadline_fires_before_a_longer_one_that_came_first() {
    let server = Running::start().await;
    let link = server.link();
    let (outcomes, mut outcome) = mpsc::unbounded_channel();
    for (name, timeout) in [("long", 300), ("short", 20)] {
        let outcomes = outcomes.clone();
        let timeout = Duration::from_millis(timeout);
        link.send(
            &"keep".to_owned(),
            Payload::none(),
            timeout,
            move |result| {
                outcomes.send((name, result.unwrap_err())).unwrap();
            },
        );
    }

    assert_eq!(outcome.recv().await, Some(("short", CallError::Timeout)));
    assert_eq!(outcome.recv().await, Some(("long", CallError::Timeout)));
}

#[tokio::test]
async fn fault_and_dropped_responder_reach_the_caller() {
    let server = Running::start().await;
    let link = server.link();

    let CallError::Fault(fault) = ask(&link, "fault").await.unwrap_err() else {
        panic!("no fault");
    };
    assert_eq!(fault, Fault::surface(2, "no such file"));

    let CallError::Fault(dropped) = ask(&link, "drop").await.unwrap_err() else {
        panic!("no fault");
    };
    assert_eq!(dropped.remedy, types::Remedy::Retry);
}

#[tokio::test]
async fn lost_connection_fails_what_waits_and_the_next_request_connects_again() {
    let server = Running::start().await;
    let link = server.link();
    let waiting = tokio::spawn({
        let link = link.clone();
        async move { ask(&link, "keep").await }
    });
    until(|| !lock(&server.oracle.kept).is_empty()).await;

    let hung_up = ask(&link, "hang up").await.unwrap_err();

    assert!(matches!(hung_up, CallError::Disconnected(_)), "{hung_up:?}");
    let waited = waiting.await.unwrap().unwrap_err();
    assert!(matches!(waited, CallError::Disconnected(_)), "{waited:?}");
    assert_eq!(ask(&link, "again").await.unwrap(), "again");
}

#[tokio::test]
async fn restarted_server_is_found_and_a_stopped_one_named() {
    let server = Running::start().await;
    let address = server.address.to_string();
    let link = server.link();
    ask(&link, "before").await.unwrap();
    server.stop().await;

    let CallError::Disconnected(reason) = ask(&link, "down").await.unwrap_err() else {
        panic!("reached a stopped server");
    };
    assert!(reason.contains(&address), "{reason}");

    let server = Running::start_at(&address).await;
    let mut answer = ask(&link, "up").await;
    while matches!(answer, Err(CallError::Disconnected(_))) {
        answer = ask(&link, "up").await;
    }
    assert_eq!(answer.unwrap(), "up");
    assert!(link.is_connected());
    drop(server);
}

#[tokio::test]
async fn messages_without_answer_travel_both_ways() {
    struct Ear(mpsc::UnboundedSender<String>);
    impl Listener for Ear {
        fn push(&self, body: Bytes, _payload: Payload) {
            self.0.send(text(body)).unwrap();
        }
        fn connected(&self) {
            self.0.send("connected".to_owned()).unwrap();
        }
        fn disconnected(&self, _reason: &str) {
            self.0.send("disconnected".to_owned()).unwrap();
        }
    }
    let server = Running::start().await;
    let (heard, mut hear) = mpsc::unbounded_channel();
    let link = Link::open_with(
        identity(Role::Mount),
        ServiceKind::Osd,
        server.address.to_string(),
        LinkOptions::default(),
        Arc::new(Ear(heard)),
    );

    assert!(link.push(&"ping".to_owned()));

    assert_eq!(hear.recv().await.unwrap(), "connected");
    assert_eq!(hear.recv().await.unwrap(), "ping back");
    ask(&link, "push").await.unwrap();
    assert_eq!(hear.recv().await.unwrap(), "pushed");
    let connection = lock(&server.oracle.connections).pop().unwrap();
    assert_eq!(connection.caller().role, Role::Mount);
    assert_eq!(connection.caller().id, 3);
    connection.close();
    assert_eq!(hear.recv().await.unwrap(), "disconnected");
    assert!(!connection.push(&"late".to_owned(), Payload::none()));
}

#[tokio::test]
async fn closed_link_answers_everything_and_tells_the_server() {
    let server = Running::start().await;
    let (closed, mut was_closed) = mpsc::unbounded_channel();
    *lock(&server.oracle.closed) = Some(closed);
    let link = server.link();
    let (outcomes, mut outcome) = mpsc::unbounded_channel();
    link.send(&"keep".to_owned(), Payload::none(), LONG, move |result| {
        outcomes.send(result.unwrap_err()).unwrap();
    });
    until(|| !lock(&server.oracle.kept).is_empty()).await;

    link.close();

    let error = outcome.recv().await.unwrap();
    assert!(matches!(error, CallError::Disconnected(_)), "{error:?}");
    assert!(outcome.recv().await.is_none(), "answered twice");
    tokio::time::timeout(LONG, was_closed.recv()).await.unwrap();
    let after = ask(&link, "after").await.unwrap_err();
    assert!(matches!(after, CallError::Disconnected(_)), "{after:?}");
    // Answering a caller that is gone is harmless.
    lock(&server.oracle.kept).clear();
}

#[tokio::test]
async fn stopping_server_ends_its_connections_at_once() {
    let server = Running::start().await;
    let link = server.link();
    ask(&link, "warm").await.unwrap();
    let waiting = tokio::spawn({
        let link = link.clone();
        async move { ask(&link, "keep").await }
    });
    until(|| !lock(&server.oracle.kept).is_empty()).await;

    server.stop().await;

    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Disconnected(_)), "{error:?}");
}

#[tokio::test]
async fn panicking_callbacks_do_not_stop_the_link() {
    let server = Running::start().await;
    let link = server.link();
    let go_wrong = |text: &str, timeout| {
        link.send(&text.to_owned(), Payload::none(), timeout, |_| {
            panic!("on purpose")
        });
    };

    go_wrong("x", LONG);
    go_wrong("keep", Duration::from_millis(20));
    go_wrong("keep", LONG);

    until(|| link.in_flight() == 1).await;
    assert_eq!(ask(&link, "again").await.unwrap(), "again");
    let hung_up = ask(&link, "hang up").await.unwrap_err();
    assert!(matches!(hung_up, CallError::Disconnected(_)), "{hung_up:?}");
    assert_eq!(ask(&link, "and again").await.unwrap(), "and again");
}
