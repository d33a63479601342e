//! docs/configuration.md says of every key what the programs do.

use std::collections::BTreeMap;

use serde_json::Value;
use shell::link::WireOptions;
use shell::reload::{is_online, keys};

const DOCUMENT: &str = include_str!("../../docs/configuration.md");

/// A row: default, and whether SIGHUP applies it.
type Rows = BTreeMap<String, (String, bool)>;

/// The table below a heading: key, unit, default, SIGHUP, reason.
fn table(heading: &str) -> Rows {
    let heading = format!("\n## {heading}\n");
    let begin = DOCUMENT.find(&heading).expect("the heading is there") + heading.len();
    let rest = &DOCUMENT[begin..];
    let section = &rest[..rest.find("\n## ").unwrap_or(rest.len())];
    section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [key, unit, default, online, reason] = cells[..] else {
                panic!("not five cells: {line}");
            };
            assert!(!unit.is_empty() && !reason.is_empty(), "{line}");
            let key = key.trim_matches('`').to_owned();
            (key, (default.trim_matches('`').to_owned(), online == "yes"))
        })
        .collect()
}

/// What the table should say of a configuration that was read from `minimal`, the lines it must have.
fn expected(found: BTreeMap<String, Value>, minimal: &str) -> Rows {
    let required = |key: &str| {
        let begin = format!("{key} = ");
        minimal.lines().any(|line| line.starts_with(&begin))
    };
    let row = |(key, value): (String, Value)| {
        let default = match value {
            _ if required(&key) => "required".to_owned(),
            Value::Null => "none".to_owned(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        let online = is_online(&key);
        (key, (default, online))
    };
    found.into_iter().map(row).collect()
}

fn without_wire(mut found: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    found.retain(|key, _| !key.starts_with("wire."));
    found
}

const MRC: &str = "cluster = \"00000000000000000000000000000007\"\nsecret_file = \"/s\"\nid = 1\n\
    listen = \"127.0.0.1:7000\"\ndir = \"/d\"\nmembers = []\n";
const OSD: &str = "cluster = \"00000000000000000000000000000007\"\nsecret_file = \"/s\"\nid = 1\n\
    listen = \"127.0.0.1:7000\"\ndir = \"/d\"\nmrc = []\n";

#[test]
fn keys_of_metadata_servers_are_documented_as_they_are() {
    let config: mrc::Config = toml::from_str(MRC).unwrap();

    assert_eq!(
        table("Metadata servers"),
        expected(without_wire(keys(&config)), MRC)
    );
}

#[test]
fn keys_of_object_servers_are_documented_as_they_are() {
    let config: osd::Config = toml::from_str(OSD).unwrap();

    assert_eq!(
        table("Object servers"),
        expected(without_wire(keys(&config)), OSD)
    );
}

#[test]
fn keys_of_mounts_are_documented_as_they_are() {
    let settings = client_fuse::Settings::default();

    assert_eq!(table("Mounts"), expected(without_wire(keys(&settings)), ""));
}

#[test]
fn wire_options_are_documented_as_they_are_and_all_processes_have_them() {
    let named = |(key, value)| (format!("wire.{key}"), value);
    let options: BTreeMap<String, Value> = keys(&WireOptions::default())
        .into_iter()
        .map(named)
        .collect();
    let mrc: mrc::Config = toml::from_str(MRC).unwrap();
    let osd: osd::Config = toml::from_str(OSD).unwrap();
    let all = [
        keys(&mrc),
        keys(&osd),
        keys(&client_fuse::Settings::default()),
    ];

    assert_eq!(table("The table `[wire]`"), expected(options.clone(), ""));
    for mut of_process in all {
        of_process.retain(|key, _| key.starts_with("wire."));
        assert_eq!(of_process, options);
    }
}
