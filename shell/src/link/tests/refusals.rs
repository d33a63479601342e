//! What a link and a server refuse.

use proto::link::{Frame, Kind, Message};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::link::refusals::Reason;

async fn refusal(server: &Running, identity: Identity) -> String {
    let link = server.link_as(identity);
    let CallError::Refused(why) = ask(&link, "x").await.unwrap_err() else {
        panic!("not refused");
    };
    // Until it has rested, further requests learn the same at once.
    assert_eq!(ask(&link, "y").await, Err(CallError::Refused(why.clone())));
    why
}

#[tokio::test]
async fn another_cluster_is_refused_naming_both() {
    let server = Running::start().await;
    let stranger = Identity {
        cluster: ClusterId(8),
        ..identity(Role::Mount)
    };

    let why = refusal(&server, stranger).await;

    assert!(why.contains(&ClusterId(7).to_string()), "{why}");
    assert!(why.contains(&ClusterId(8).to_string()), "{why}");
    assert_eq!(server.refusals.of(Reason::Cluster), 1);
    assert_eq!(server.refusals.of(Reason::Secret), 0);
    assert!(lock(&server.oracle.seen).is_empty());
}

#[tokio::test]
async fn another_secret_is_refused() {
    let server = Running::start().await;
    let forger = Identity {
        secret: Secret::from_bytes([2; 32]),
        ..identity(Role::Mount)
    };

    let why = refusal(&server, forger).await;

    assert!(why.contains("does not know the secret"), "{why}");
}

#[tokio::test]
async fn missing_service_and_forbidden_role_are_refused() {
    let server = Running::start().await;
    let open = |kind| {
        let address = server.address.to_string();
        Link::open(identity(Role::Osd), kind, address, LinkOptions::default())
    };

    let missing = ask(&open(ServiceKind::Mrc), "x").await.unwrap_err();
    assert!(
        missing.to_string().contains("has no service mrc"),
        "{missing}"
    );

    let forbidden = ask(&open(ServiceKind::Raft), "x").await.unwrap_err();
    assert!(forbidden.to_string().contains("may not use"), "{forbidden}");
}

/// Changes one field of a good greeting and checks it as the server does.
fn refused_field(key: &'static str, value: &str) -> String {
    let (mut metadata, _) =
        handshake::greeting(&identity(Role::Osd), ServiceKind::Osd, Agreed::default());
    assert!(handshake::admit(&metadata, None, &identity(Role::Osd)).is_ok());
    metadata.insert(key, value.parse().unwrap());
    match handshake::admit(&metadata, None, &identity(Role::Osd)) {
        Err(refused) => refused.status.message().to_owned(),
        Ok(_) => panic!("accepted {key} = {value}"),
    }
}

#[test]
fn every_field_of_the_greeting_is_signed() {
    let fields = [
        ("oxfs-role", "mount"),
        ("oxfs-id", "4"),
        ("oxfs-service", "peer"),
        ("oxfs-nonce", "0"),
        ("oxfs-compression", "lz4"),
        ("oxfs-checksum", "none"),
        ("oxfs-auth", "00"),
        ("oxfs-auth", "zz"),
    ];
    for (key, value) in fields {
        let why = refused_field(key, value);
        assert!(why.contains("does not know the secret"), "{key}: {why}");
    }
}

/// A greeting signed as its sender would, with a value that this release does not know.
#[test]
fn unknown_compression_and_checksum_are_refused_naming_the_known_ones() {
    let me = identity(Role::Osd);
    for (key, name, known) in [
        ("oxfs-compression", "compression", "none, hole, lz4, zstd"),
        ("oxfs-checksum", "checksum", "crc32c, sha256, none"),
    ] {
        let (mut metadata, _) = handshake::greeting(&me, ServiceKind::Osd, Agreed::default());
        metadata.insert(
            tonic::metadata::AsciiMetadataKey::from_static(key),
            "rot13".parse().unwrap(),
        );
        handshake::sign(&mut metadata, &me.secret);

        let refused = handshake::admit(&metadata, None, &me).err().unwrap();

        assert_eq!(refused.reason, Reason::Option);
        let text = refused.status.message();
        assert!(text.contains(&format!("the {name} \"rot13\"")), "{text}");
        assert!(text.contains(known), "{text}");
        assert!(text.contains(&format!("`wire.{name}`")), "{text}");
    }
}

/// What a server says to a caller of another release, which signs what it says.
fn greeted_by(newest: &str, oldest: Option<&str>) -> Result<String, String> {
    let me = identity(Role::Osd);
    let (mut metadata, _) = handshake::greeting(&me, ServiceKind::Osd, Agreed::default());
    metadata.insert("oxfs-version", newest.parse().unwrap());
    metadata.remove("oxfs-version-oldest");
    if let Some(oldest) = oldest {
        metadata.insert("oxfs-version-oldest", oldest.parse().unwrap());
    }
    handshake::sign(&mut metadata, &me.secret);
    match handshake::admit(&metadata, None, &me) {
        Ok(admitted) => Ok(admitted
            .answer
            .get("oxfs-version")
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()),
        Err(refused) => {
            assert_eq!(refused.reason, Reason::Version);
            Err(refused.status.message().to_owned())
        }
    }
}

#[test]
fn release_that_speaks_no_common_version_is_refused_naming_both_and_who_is_older() {
    let ours = crate::link::PROTOCOL_VERSION;

    let newer = greeted_by("99", Some("98")).unwrap_err();
    let older = greeted_by("1", None).unwrap_err();

    let speaks = format!("osd 3 speaks {ours}");
    assert!(
        newer.contains("version 98 to 99") && newer.contains(&speaks),
        "{newer}"
    );
    assert!(newer.contains("upgrade osd first"), "{newer}");
    assert!(
        older.contains("version 1,") && older.contains("upgrade the caller first"),
        "{older}"
    );
}

#[test]
fn newer_release_that_still_speaks_our_version_is_answered_in_it() {
    let ours = crate::link::PROTOCOL_VERSION.to_string();

    assert_eq!(greeted_by("99", Some(&ours)), Ok(ours.clone()));
    // The release before this one says only one.
    assert_eq!(greeted_by(&ours, None), Ok(ours));
}

#[test]
fn answer_in_a_version_that_we_do_not_speak_is_refused() {
    let mut answer = tonic::metadata::MetadataMap::new();
    assert!(
        handshake::is_spoken(&answer),
        "of the release before this one"
    );

    answer.insert("oxfs-version", "99".parse().unwrap());

    assert!(!handshake::is_spoken(&answer));
}

#[test]
fn greeting_without_a_field_is_refused() {
    let empty = tonic::metadata::MetadataMap::new();

    let refused = handshake::admit(&empty, None, &identity(Role::Osd))
        .err()
        .unwrap();

    assert_eq!(refused.reason, Reason::Greeting);
    let text = refused.status.message();
    assert!(text.contains("oxfs-version"), "{text}");
}

#[test]
fn answer_must_be_signed_for_the_nonce() {
    let me = identity(Role::Osd);
    let agreed = Agreed {
        compression: Compression::Zstd,
        checksum: Checksum::Sha256,
    };
    let (metadata, nonce) = handshake::greeting(&me, ServiceKind::Osd, agreed);
    let admitted = handshake::admit(&metadata, None, &me).ok().unwrap();

    assert_eq!(admitted.agreed, agreed);
    let is_answer =
        |nonce, agreed, secret| handshake::is_answer(&admitted.answer, nonce, agreed, secret);
    let other = Secret::from_bytes([2; 32]);
    assert!(is_answer(&nonce, agreed, &me.secret));
    assert!(!is_answer("other", agreed, &me.secret));
    assert!(!is_answer(&nonce, agreed, &other));
    // A server that understood something else.
    assert!(!is_answer(&nonce, Agreed::default(), &me.secret));
}

#[tokio::test]
async fn oversized_request_and_reply_are_faults_and_the_link_lives() {
    let server = Running::start().await;
    let link = server.link();

    let payload = Payload::of(Bytes::from(vec![0; MESSAGE_BYTES_MAX]));
    let request = link
        .call::<String, String>(&"x".to_owned(), payload, LONG)
        .await
        .unwrap_err();
    assert!(
        request.to_string().contains("exceeds the limit"),
        "{request}"
    );

    let reply = ask(&link, "huge").await.unwrap_err();
    assert!(reply.to_string().contains("exceeds the limit"), "{reply}");

    let largest = Payload::of(Bytes::from(vec![0; MESSAGE_BYTES_MAX - 100]));
    let echoed = link
        .call::<String, String>(&"x".to_owned(), largest.clone(), LONG)
        .await
        .unwrap();
    assert_eq!(echoed.1, largest);
}

#[tokio::test]
async fn full_link_refuses_at_once() {
    let server = Running::start().await;
    let options = LinkOptions {
        in_flight_max: 1,
        ..LinkOptions::default()
    };
    let link = Link::open(
        identity(Role::Mount),
        ServiceKind::Osd,
        server.address.to_string(),
        options,
    );
    link.send(&"keep".to_owned(), Payload::none(), LONG, |_| {});

    assert_eq!(ask(&link, "x").await, Err(CallError::Full));

    until(|| !lock(&server.oracle.kept).is_empty()).await;
    lock(&server.oracle.kept).clear();
    until(|| link.in_flight() == 0).await;
    assert_eq!(ask(&link, "x").await.unwrap(), "x");
}

#[tokio::test]
async fn silent_server_does_not_hold_a_request_beyond_its_time() {
    // Accepts by the kernel only, as a stopped process does.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let impatient = Identity {
        wire: Wire::new(WireOptions {
            connect_timeout_ms: 50,
            ..WireOptions::default()
        }),
        ..identity(Role::Mount)
    };
    let link = Link::open(impatient, ServiceKind::Osd, address, LinkOptions::default());

    let error = ask(&link, "x").await.unwrap_err();

    assert!(
        error.to_string().contains("did not answer within 50 ms"),
        "{error}"
    );
}

#[tokio::test]
async fn garbage_on_the_socket_and_in_frames_does_not_stop_the_server() {
    let server = Running::start().await;
    let mut raw = TcpStream::connect(server.address).await.unwrap();
    raw.write_all(&[0xff; 4096]).await.unwrap();
    let mut rest = Vec::new();
    // The server hangs up, however it says so.
    let ended = tokio::time::timeout(LONG, raw.read_to_end(&mut rest)).await;
    assert!(ended.is_ok());

    for frame in [undecodable(), unknown_kind()] {
        speak(&server, frame).await;
    }

    assert_eq!(ask(&server.link(), "alive").await.unwrap(), "alive");
}

/// A frame whose message claims more bytes than there are.
fn undecodable() -> Vec<u8> {
    vec![0x0a, 0x7f, 0x01]
}

fn unknown_kind() -> Vec<u8> {
    let message = Message {
        request_id: 1,
        kind: 77,
        ..Message::default()
    };
    let answer = Message {
        kind: Kind::Response.into(),
        ..Message::default()
    };
    let frame = Frame {
        messages: vec![message, answer],
    };
    prost::Message::encode_to_vec(&frame)
}

/// Sends raw frame bytes through a proper handshake and waits for the end of the stream.
async fn speak(server: &Running, frame: Vec<u8>) {
    use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

    #[derive(Clone, Copy, Default)]
    struct Raw;
    impl Codec for Raw {
        type Encode = Vec<u8>;
        type Decode = ();
        type Encoder = Self;
        type Decoder = Self;
        fn encoder(&mut self) -> Self {
            Self
        }
        fn decoder(&mut self) -> Self {
            Self
        }
    }
    impl Encoder for Raw {
        type Item = Vec<u8>;
        type Error = tonic::Status;
        fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
            bytes::BufMut::put_slice(to, &item);
            Ok(())
        }
    }
    impl Decoder for Raw {
        type Item = ();
        type Error = tonic::Status;
        fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, tonic::Status> {
            bytes::Buf::advance(from, bytes::Buf::remaining(from));
            Ok(Some(()))
        }
    }

    let uri = format!("http://{}", server.address);
    let channel = tonic::transport::Endpoint::from_shared(uri)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let mut request = tonic::Request::new(tokio_stream::iter([frame]));
    let (greeting, _) =
        handshake::greeting(&identity(Role::Mount), ServiceKind::Osd, Agreed::default());
    *request.metadata_mut() = greeting;
    let path = http::uri::PathAndQuery::from_static("/oxfs.link.Link/Exchange");
    let response = client.streaming(request, path, Raw).await.unwrap();
    let mut inbound = response.into_inner();
    while let Ok(Some(())) = inbound.message().await {}
}
