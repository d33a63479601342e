//! Statuses put together from pieces.

use super::*;

fn server(role: &str, id: u64, state: &str) -> mrc::Server {
    mrc::Server {
        role: role.to_owned(),
        id,
        pid: 100 + id,
        address: format!("{role}:{id}"),
        state: state.to_owned(),
        dir: format!("/{role}-{id}"),
    }
}

fn answer(
    asked: u64,
    servers: Vec<mrc::Server>,
    leads: bool,
) -> (String, Result<ClusterStatus, CallError>) {
    let status = ClusterStatus {
        servers,
        pgs_total: 32,
        pgs_full: 30,
        pgs_degraded: 2,
        answered_by_leader: leads,
        volumes: vec![mrc::Volume {
            name: "default".to_owned(),
            ..mrc::Volume::default()
        }],
        ..ClusterStatus::default()
    };
    (format!("mrc:{asked}"), Ok(status))
}

fn states(status: &Status) -> Vec<String> {
    let shown = status.servers.iter();
    shown
        .map(|server| format!("{}-{} {}", server.role, server.id, server.state))
        .collect()
}

fn local(role: &str, id: u64, process: Known) -> Local {
    Local {
        role: role.to_owned(),
        id,
        process,
        address: format!("{role}:{id}"),
        dir: "/local".to_owned(),
    }
}

fn with_trouble(answers: &Answers, trouble: &str) -> Status {
    Status {
        wrong: vec![trouble.to_owned()],
        ..merge(answers, None)
    }
}

#[test]
fn json_has_exactly_the_promised_fields() {
    let answers = vec![answer(1, vec![server("mrc", 1, "leader")], true)];

    let json = show(&with_trouble(&answers, "x")).json;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();

    let keys = |value: &serde_json::Value| {
        let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    let promised = ["placement_groups", "servers", "volumes", "wrong"];
    assert_eq!(keys(&json), promised);
    assert_eq!(json["wrong"], serde_json::json!(["x"]));
    let server = ["address", "dir", "id", "pid", "role", "state"];
    assert_eq!(keys(&json["servers"][0]), server);
    assert_eq!(
        keys(&json["placement_groups"]),
        ["degraded", "full", "total"]
    );
    assert_eq!(json["placement_groups"]["full"], 30);
    assert_eq!(json["volumes"][0]["name"], "default");
}

#[test]
fn metadata_servers_speak_for_themselves_and_silent_ones_are_down() {
    let all = |own: u64, state: &str| {
        let mut servers: Vec<_> = (1..=3).map(|id| server("mrc", id, "follower")).collect();
        servers[usize::try_from(own).unwrap() - 1].state = state.to_owned();
        servers.push(server("osd", 1, "up"));
        servers
    };
    let answers = vec![
        answer(2, all(2, "leader"), true),
        answer(1, all(1, "learner"), false),
        ("mrc:3".to_owned(), Err(CallError::Timeout)),
    ];

    let status = merge(&answers, None);

    assert_eq!(
        states(&status),
        ["mrc-1 learner", "mrc-2 leader", "mrc-3 down", "osd-1 up"]
    );
    assert_eq!(status.servers[2].pid, 0);
}

#[test]
fn without_a_leader_each_that_answers_is_shown() {
    let answers = vec![
        answer(
            1,
            vec![server("mrc", 1, "candidate"), server("mrc", 2, "")],
            false,
        ),
        ("mrc:2".to_owned(), Err(CallError::Timeout)),
    ];

    assert!(leader(&answers).is_none());
    assert_eq!(
        states(&merge(&answers, None)),
        ["mrc-1 candidate", "mrc-2 down"]
    );
}

#[test]
fn this_machine_knows_who_is_dead_before_the_cluster_does() {
    let servers = vec![
        server("mrc", 1, "leader"),
        server("osd", 1, "up"),
        server("osd", 2, "up"),
        // Started by hand.
        server("osd", 4, "up"),
        // The mount's id is its session's.
        server("mount", 7, "active"),
        server("mount", 8, "active"),
    ];
    let answers = vec![answer(1, servers, true)];
    let known = [
        local("mrc", 1, Known::Running(5)),
        local("osd", 1, Known::Dead),
        local("osd", 2, Known::Running(6)),
        local("osd", 3, Known::Running(9)),
        local("osd", 4, Known::Nothing),
        // Remembered by their pids.
        local("mount", 107, Known::Running(107)),
        local("mount", 108, Known::Dead),
    ];

    let status = merge(&answers, Some(&known));

    let expected = [
        "mrc-1 leader",
        "osd-1 down",
        "osd-2 up",
        "osd-3 starting",
        "osd-4 up",
        "mount-7 active",
    ];
    assert_eq!(states(&status), expected);
    let pids: Vec<u64> = status.servers.iter().map(|server| server.pid).collect();
    assert_eq!(pids, [5, 0, 6, 9, 104, 107]);
}

#[test]
fn table_names_servers_as_other_commands_take_them() {
    let answers = vec![answer(1, vec![server("mrc", 1, "leader")], true)];

    let text = show(&with_trouble(&answers, "osd-2 is down")).text;

    assert!(text.contains("mrc-1"), "{text}");
    assert!(text.ends_with("what is wrong:\n- osd-2 is down"), "{text}");
    assert!(text.contains("32 in all, 30 full, 2 degraded"), "{text}");
}
