//! What an operator is told when a server can't start, and requests that no program of ours sends.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

mod common;

use std::net::SocketAddr;
use std::path::Path;

use common::{Client, Cluster, config, make_dir, write_secret};
use mrc::{Config, run};
use proto::mrc as wire;
use proto::mrc::request::Op;
use shell::link::Role;

/// What `run` says; it must not come up.
fn refusal(config: Config) -> String {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let result = runtime.block_on(run(config, async {}));
    result.unwrap_err().to_string()
}

fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn parse(text: &str) -> Result<Config, shell::config::ConfigError> {
    shell::config::parse(text, Path::new("mrc.toml"))
}

const MINIMAL: &str = r#"
cluster = "00000000000000000000000000000abc"
secret_file = "secret"
id = 1
listen = "127.0.0.1:1"
dir = "mrc-1"
members = [{ id = 1, address = "127.0.0.1:1" }]
"#;

#[test]
fn minimal_configuration_is_enough_and_unknown_keys_are_named() {
    let config = parse(MINIMAL).unwrap().validated().unwrap();
    assert_eq!(config.session_timeout_ms, 30_000);

    let error = parse(&format!("{MINIMAL}sesion_timeout_ms = 5\n")).unwrap_err();

    assert!(error.to_string().contains("sesion_timeout_ms"), "{error}");
}

#[test]
fn unusable_settings_are_named_with_their_values() {
    let refused = |change: &str| {
        let text = format!("{MINIMAL}{change}\n");
        parse(&text).unwrap().validated().unwrap_err().to_string()
    };

    assert!(refused("election_ms = 5").contains("`election_ms` is 5"));
    assert!(refused("heartbeat_ms = 500").contains("`heartbeat_ms` is 500"));
    let mut config = parse(MINIMAL).unwrap();
    config.id = 2;
    let error = config.validated().unwrap_err().to_string();
    assert!(error.contains("does not list this server"), "{error}");
    let mut config = parse(MINIMAL).unwrap();
    config.members.push(config.members[0].clone());
    let error = config.validated().unwrap_err().to_string();
    assert!(error.contains("lists id 1 twice"), "{error}");
    let mut config = parse(MINIMAL).unwrap();
    config.listen = "192.0.2.1:1".parse().unwrap();
    let error = config.validated().unwrap_err().to_string();
    assert!(error.contains("insecure_network"), "{error}");
}

#[test]
fn taken_port_and_missing_secret_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();

    let text = refusal(config(dir.path(), 1, &[address]));
    assert!(text.contains(&address.port().to_string()), "{text}");

    let text = refusal(config(dir.path(), 1, &[free_address()]));
    assert!(text.contains("secret"), "{text}");
}

#[test]
fn directory_of_another_cluster_or_in_use_is_refused() {
    let mut cluster = Cluster::start(1);
    cluster.client().leader();
    let mut config = cluster.config(1);
    config.listen = free_address();

    let text = refusal(config.clone());
    assert!(text.contains("in use"), "{text}");

    cluster.stop(1).unwrap();
    config.cluster = types::ClusterId(1).to_string();
    let text = refusal(config);
    assert!(text.contains("belongs to"), "{text}");
}

#[test]
fn directory_that_was_only_started_on_with_a_wrong_cluster_id_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    write_secret(dir.path());
    // Alone it can't form a cluster, however long it runs before it is told to end.
    let addresses = [free_address(), free_address(), free_address()];
    let config = common::config(dir.path(), 1, &addresses);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let number = || {
        let index = |item: std::io::Result<std::fs::DirEntry>| {
            let name = item.ok()?.file_name().into_string().ok()?;
            name.strip_prefix("index-").map(str::to_owned)
        };
        let items = std::fs::read_dir(&config.dir).unwrap();
        items.filter_map(index).collect::<Vec<_>>()
    };
    runtime.block_on(run(config.clone(), async {})).unwrap();
    let first = number();

    let mut right = config.clone();
    right.cluster = types::ClusterId(1).to_string();
    runtime.block_on(run(right, async {})).unwrap();

    assert_eq!(first.len(), 1);
    assert_ne!(number(), first, "it is somebody else to the other members");
}

#[test]
fn oversized_and_meaningless_requests_are_refused_and_harm_nobody() {
    let cluster = Cluster::start(1);
    let mut client = cluster.client();
    client.open_volume(&Client::new(&cluster.addresses, Role::Osd, 1));

    let huge = client.change(make_dir(&"x".repeat(2 << 20))).unwrap_err();
    assert_eq!(huge.errno, libc::E2BIG);
    client.slot_seq -= 1;
    let empty = client.ask(&wire::Request::default()).unwrap_err();
    assert_eq!(empty.errno, libc::EPROTO);
    let foreign = Client::new(&cluster.addresses, Role::Mount, 1);
    let beat = Op::OsdHeartbeat(common::heartbeat(1));
    assert_eq!(foreign.read(beat).unwrap_err().errno, libc::EPERM);

    client.change(make_dir("still-fine")).unwrap();
}
