//! What of a status needs somebody's attention, in words, and what to do about it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proto::mrc::{Jobs, Pg};

use super::{Known, Local, Server};

/// Reasons why groups are stuck that a status tells. 3: of more, most are the same in other numbers.
const STUCK_SHOWN_MAX: usize = 3;

/// What a sentence about placement groups has in common for all groups it is about.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
struct Kind {
    /// Too few replicas are left to serve.
    stopped: bool,
    /// Members that are down.
    down: BTreeSet<u64>,
    /// Members that run and whose store is new to the group.
    incomplete: BTreeSet<u64>,
}

/// What is known besides the servers and what they say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Knowledge<'a> {
    /// A metadata server leads: it hears the object servers, the others don't.
    pub(super) has_leader: bool,
    /// The cluster's directory, if it is on this machine.
    pub(super) dir: Option<&'a Path>,
    /// What this machine knows.
    pub(super) local: &'a [Local],
}

/// One sentence for each thing that is wrong.
pub(super) fn sentences(servers: &[Server], pgs: &[Pg], known: Knowledge<'_>) -> Vec<String> {
    let Knowledge {
        has_leader,
        dir,
        local,
    } = known;
    // Without a leader only this machine knows whether an object server runs.
    let is_sure =
        |server: &&Server| has_leader || server.role == "mrc" || (dir.is_some() && server.pid == 0);
    let mut said: Vec<String> = servers
        .iter()
        .filter(is_sure)
        .filter_map(|server| of_server(server, dir))
        .collect();
    said.extend(local.iter().filter_map(|known| of_mount(known, dir)));
    said.extend(of_groups(servers, pgs));
    said
}

fn of_server(server: &Server, dir: Option<&Path>) -> Option<String> {
    let Server { role, id, .. } = server;
    let name = format!("{role}-{id}");
    match (server.state.as_str(), role.as_str()) {
        // This machine knows better than the leader.
        ("down", "mrc" | "osd") if dir.is_some() && server.pid != 0 => Some(format!(
            "{name} runs as pid {} and is not heard: wait if it was just started, else look at its \
             log ({}/logs/{name}.log) and whether it is frozen (`kill -CONT {}`)",
            server.pid,
            dir?.display(),
            server.pid
        )),
        ("down", "mrc" | "osd") => Some(match dir {
            Some(dir) => {
                let dir = dir.display();
                format!(
                    "{name} is down: run `oxfs start --dir {dir} {name}`, which says why if it can't \
                     start (its log is {dir}/logs/{name}.log)"
                )
            }
            None => format!(
                "{name} at {} is down, or this machine can't reach it: start it on its machine with \
                 `oxfs {role} --config FILE`",
                server.address
            ),
        }),
        ("failed", "osd") => Some(format!(
            "{name} takes no changes since a write to its disk failed: check the disk, then restart \
             the server; what it misses is brought up from the others"
        )),
        ("starting", "mrc" | "osd") => Some(format!(
            "{name} runs and has not reported yet: wait, or look what its log says"
        )),
        _ => None,
    }
}

/// What is the matter with groups that get no further by themselves.
pub(super) fn of_jobs(jobs: &Jobs) -> Vec<String> {
    let mut stuck: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for note in jobs.notes.iter().filter(|note| note.state == "stuck") {
        let group = format!("{}.{}", note.volume, note.pg);
        stuck.entry(&note.why).or_default().push(group);
    }
    let more = stuck.len().saturating_sub(STUCK_SHOWN_MAX);
    let mut said: Vec<String> = stuck
        .into_iter()
        .take(STUCK_SHOWN_MAX)
        .map(|(why, groups)| match &groups[..] {
            [only] => format!("placement group {only} gets no further: {why}"),
            [first, others @ ..] => {
                let others = others.len();
                format!("placement group {first} and {others} more get no further: {why}")
            }
            [] => why.to_owned(),
        })
        .collect();
    if more > 0 {
        said.push(format!(
            "{more} more reasons why placement groups get no further: `xfs-admin job list`"
        ));
    }
    said
}

fn of_mount(known: &Local, dir: Option<&Path>) -> Option<String> {
    if known.role != "mount" || known.process != Known::Dead {
        return None;
    }
    let (point, dir) = (&known.dir, dir?.display());
    Some(format!(
        "the mount on {point} has died: run `oxfs up --restart --dir {dir}` if `oxfs up` made it, else \
         `umount -l {point}` and `oxfs mount` again"
    ))
}

fn of_groups(servers: &[Server], pgs: &[Pg]) -> Vec<String> {
    let is_up = |osd: &u64| {
        servers
            .iter()
            .any(|server| server.role == "osd" && server.id == *osd && server.state != "down")
    };
    let mut kinds: BTreeMap<Kind, usize> = BTreeMap::new();
    for pg in pgs.iter().filter(|pg| pg.state != "full") {
        let down: BTreeSet<u64> = pg.osds.iter().copied().filter(|osd| !is_up(osd)).collect();
        let incomplete: BTreeSet<u64> = pg.incomplete.iter().copied().filter(is_up).collect();
        // A replica whose store is new does not count until it has everything.
        let counts = |osd: &&u64| !down.contains(osd) && !incomplete.contains(osd);
        let stopped = pg.osds.iter().filter(counts).count() < pg.osds.len() / 2 + 1;
        *kinds
            .entry(Kind {
                stopped,
                down,
                incomplete,
            })
            .or_default() += 1;
    }
    kinds
        .into_iter()
        .map(|(kind, count)| of_kind(&kind, count))
        .collect()
}

fn of_kind(kind: &Kind, count: usize) -> String {
    let groups = match count {
        1 => "1 placement group".to_owned(),
        count => format!("{count} placement groups"),
    };
    let (down, new) = (names(&kind.down), names(&kind.incomplete));
    if kind.stopped && kind.down.is_empty() {
        return format!(
            "{groups} can't be read or written: the stores of {new} are new, and the others are too few \
             to say what is newest; bring back one of the stores that were replaced"
        );
    }
    if kind.stopped {
        let copied = match new.is_empty() {
            true => String::new(),
            false => format!(" (the store of {new} is new and does not count yet)"),
        };
        return format!(
            "{groups} can't be read or written until more of {down} run: too few complete replicas \
             are up{copied}"
        );
    }
    if !kind.down.is_empty() {
        return format!(
            "{groups} lack the replica on {down}: nothing is lost and programs go on, but don't stop \
             another object server before it is back"
        );
    }
    if !kind.incomplete.is_empty() {
        return format!(
            "{groups} are being copied to {new}, whose store is new: wait, and don't stop another \
             object server meanwhile"
        );
    }
    format!(
        "{groups}: replicas are being compared or brought up to date, as after every start: wait; if it \
         stays so, look at the room on the disks (`xfs-admin osd list`)"
    )
}

fn names(osds: &BTreeSet<u64>) -> String {
    let names: Vec<String> = osds.iter().map(|osd| format!("osd-{osd}")).collect();
    names.join(" and ")
}

#[cfg(test)]
mod tests {
    use proto::mrc::PgNote;

    use super::*;

    fn osd(id: u64, state: &str) -> Server {
        Server {
            role: "osd".to_owned(),
            id,
            pid: 0,
            address: format!("10.0.0.{id}:7"),
            state: state.to_owned(),
            dir: String::new(),
        }
    }

    const LED: Knowledge<'_> = Knowledge {
        has_leader: true,
        dir: None,
        local: &[],
    };

    fn here<'a>() -> Knowledge<'a> {
        Knowledge {
            dir: Some(Path::new("/c")),
            ..LED
        }
    }

    fn group(pg: u32, incomplete: &[u64]) -> Pg {
        Pg {
            pg,
            osds: vec![1, 2, 3],
            incomplete: incomplete.to_vec(),
            state: "degraded".to_owned(),
            ..Pg::default()
        }
    }

    #[test]
    fn healthy_cluster_has_nothing_to_say() {
        let full = Pg {
            state: "full".to_owned(),
            ..group(0, &[])
        };
        let servers = [osd(1, "up"), osd(2, "up"), osd(3, "up")];

        assert!(sentences(&servers, &[full], LED).is_empty());
    }

    #[test]
    fn dead_server_is_told_with_its_command_and_the_groups_that_lack_it() {
        let servers = [osd(1, "up"), osd(2, "down"), osd(3, "up")];
        let pgs = [group(0, &[]), group(1, &[])];

        let local = sentences(&servers, &pgs, here());

        assert_eq!(local.len(), 2, "{local:?}");
        assert!(local[0].contains("run `oxfs start --dir /c osd-2`"));
        assert!(local[1].starts_with("2 placement groups lack the replica on osd-2: nothing"));
        let remote = sentences(&servers, &[], LED);
        assert!(remote[0].starts_with("osd-2 at 10.0.0.2:7 is down"));
    }

    #[test]
    fn groups_that_get_no_further_are_told_by_their_reason() {
        let note = |pg, state: &str, why: &str| PgNote {
            volume: 1,
            pg,
            state: state.to_owned(),
            why: why.to_owned(),
            ..PgNote::default()
        };
        let jobs = Jobs {
            notes: vec![
                note(0, "stuck", "no room"),
                note(1, "changing", "waits"),
                note(2, "stuck", "no room"),
                note(3, "stuck", "a"),
                note(4, "stuck", "b"),
                note(5, "stuck", "c"),
            ],
            ..Jobs::default()
        };

        let said = of_jobs(&jobs);

        assert_eq!(said[0], "placement group 1.3 gets no further: a");
        assert_eq!(said.len(), 4);
        assert!(said[3].starts_with("1 more reason"), "{said:?}");
        let jobs = Jobs {
            notes: jobs.notes.into_iter().take(3).collect(),
            ..Jobs::default()
        };
        assert_eq!(
            of_jobs(&jobs),
            ["placement group 1.0 and 1 more get no further: no room"]
        );
    }

    #[test]
    fn disk_that_failed_is_told_with_what_to_do() {
        let said = sentences(&[osd(2, "failed")], &[], LED);
        assert!(said[0].starts_with("osd-2 takes no changes"), "{said:?}");
    }

    #[test]
    fn server_that_runs_unheard_is_not_to_be_started() {
        let servers = [Server {
            pid: 7,
            ..osd(1, "down")
        }];

        let said = sentences(&servers, &[], here());

        assert!(said[0].contains("runs as pid 7"), "{said:?}");
    }

    #[test]
    fn groups_without_a_majority_are_told_apart_from_those_being_repaired() {
        let servers = [osd(1, "down"), osd(2, "down"), osd(3, "up")];
        let said = of_groups(&servers, &[group(0, &[])]);
        assert!(said[0].starts_with("1 placement group can't be read or written"));
        assert!(said[0].contains("osd-1 and osd-2"), "{said:?}");

        let servers = [osd(1, "down"), osd(2, "up"), osd(3, "up")];
        let said = of_groups(&servers, &[group(0, &[3])]);
        assert!(said[0].contains("can't be read or written until more of osd-1"));
        assert!(said[0].contains("store of osd-3 is new"), "{said:?}");
        let said = of_groups(&servers, &[group(0, &[1])]);
        assert!(said[0].contains("programs go on"), "{said:?}");

        let servers = [osd(1, "up"), osd(2, "up"), osd(3, "up")];
        let said = of_groups(&servers, &[group(0, &[3]), group(1, &[])]);
        assert!(said.iter().any(|text| text.contains("copied to osd-3")));
        assert!(said.iter().any(|text| text.contains("compared")));
    }

    #[test]
    fn without_a_leader_object_servers_are_down_only_if_this_machine_knows_it() {
        let servers = [osd(1, "down")];
        let unled = |dir| Knowledge {
            dir,
            ..Knowledge::default()
        };

        assert!(sentences(&servers, &[], unled(None)).is_empty());
        assert_eq!(
            sentences(&servers, &[], unled(Some(Path::new("/c")))).len(),
            1
        );
    }

    #[test]
    fn dead_mount_is_told_with_its_directory() {
        let mount = Local {
            role: "mount".to_owned(),
            id: 7,
            process: Known::Dead,
            address: String::new(),
            dir: "/mnt".to_owned(),
        };

        let said = sentences(
            &[],
            &[],
            Knowledge {
                local: &[mount],
                ..here()
            },
        );

        assert!(said[0].contains("/mnt") && said[0].contains("--restart --dir /c"));
    }
}
