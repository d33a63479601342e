//! What of a status needs somebody's attention, in words, and what to do about it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proto::mrc::Pg;

use super::{Known, Local, Server};

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

/// One sentence for each thing that is wrong. `dir` is the cluster's directory, if it is on this machine.
pub(super) fn sentences(
    servers: &[Server],
    pgs: &[Pg],
    local: &[Local],
    dir: Option<&Path>,
) -> Vec<String> {
    let mut said: Vec<String> = servers
        .iter()
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
        ("starting", "mrc" | "osd") => Some(format!(
            "{name} runs and has not reported yet: wait, or look what its log says"
        )),
        _ => None,
    }
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
        let left = pg.osds.len() - down.len();
        let stopped = left < pg.osds.len() / 2 + 1;
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
    if kind.stopped {
        return format!(
            "{groups} can't be read or written until more of {down} run: too few replicas are up"
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
        "{groups}: the replicas are being compared and brought up to date, as after every start: wait"
    )
}

fn names(osds: &BTreeSet<u64>) -> String {
    let names: Vec<String> = osds.iter().map(|osd| format!("osd-{osd}")).collect();
    names.join(" and ")
}

#[cfg(test)]
mod tests {
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

        assert!(sentences(&servers, &[full], &[], None).is_empty());
    }

    #[test]
    fn dead_server_is_told_with_its_command_and_the_groups_that_lack_it() {
        let servers = [osd(1, "up"), osd(2, "down"), osd(3, "up")];
        let pgs = [group(0, &[]), group(1, &[])];

        let local = sentences(&servers, &pgs, &[], Some(Path::new("/c")));

        assert_eq!(local.len(), 2, "{local:?}");
        assert!(local[0].contains("run `oxfs start --dir /c osd-2`"));
        assert!(local[1].starts_with("2 placement groups lack the replica on osd-2: nothing"));
        let remote = sentences(&servers, &[], &[], None);
        assert!(remote[0].starts_with("osd-2 at 10.0.0.2:7 is down"));
    }

    #[test]
    fn server_that_runs_unheard_is_not_to_be_started() {
        let servers = [Server {
            pid: 7,
            ..osd(1, "down")
        }];

        let said = sentences(&servers, &[], &[], Some(Path::new("/c")));

        assert!(said[0].contains("runs as pid 7"), "{said:?}");
    }

    #[test]
    fn groups_without_a_majority_are_told_apart_from_those_being_repaired() {
        let servers = [osd(1, "down"), osd(2, "down"), osd(3, "up")];
        let said = of_groups(&servers, &[group(0, &[])]);
        assert!(said[0].starts_with("1 placement group can't be read or written"));
        assert!(said[0].contains("osd-1 and osd-2"), "{said:?}");

        let servers = [osd(1, "up"), osd(2, "up"), osd(3, "up")];
        let said = of_groups(&servers, &[group(0, &[3]), group(1, &[])]);
        assert!(said.iter().any(|text| text.contains("copied to osd-3")));
        assert!(said.iter().any(|text| text.contains("compared")));
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

        let said = sentences(&[], &[], &[mount], Some(Path::new("/c")));

        assert!(said[0].contains("/mnt") && said[0].contains("--restart --dir /c"));
    }
}
