//! What of a status is about room that comes to an end, in words.

use proto::mrc::{ClusterStatus, Volume};

use super::{Answers, leader, own_words};
use crate::render;

/// One sentence for each disk that is full and each quota that is used up.
pub(super) fn sentences(answers: &Answers) -> Vec<String> {
    let mut said = Vec::new();
    for (address, answer) in answers {
        let Ok(status) = answer else { continue };
        if !status.disk_problem.is_empty() {
            let name = own_words(answers, address).map_or_else(
                || format!("the metadata server at {address}"),
                |own| format!("mrc-{}", own.id),
            );
            said.push(of_metadata(&name, &status.disk_problem));
        }
    }
    if let Some(status) = leader(answers) {
        said.extend(of_stores(status));
        said.extend(status.volumes.iter().flat_map(of_quotas));
    }
    said
}

fn of_metadata(name: &str, problem: &str) -> String {
    format!(
        "{name}: its {problem}: while it leads, names can be removed and files that exist can be written, \
         and whatever needs room there gets ENOSPC; make room on that disk"
    )
}

fn of_stores(status: &ClusterStatus) -> impl Iterator<Item = String> {
    let servers = status.servers.iter();
    let full = servers.filter(|server| server.role == "osd" && server.state == "full");
    full.map(|server| {
        format!(
            "osd-{}: its disk is full, or has failed (its log says so): it takes nothing that needs room, and \
             its replicas stay behind; make room on that disk, or remove files from the mounts",
            server.id
        )
    })
}

fn of_quotas(volume: &Volume) -> Vec<String> {
    let name = &volume.name;
    let remedy = format!("remove some, or raise it with `xfs-admin quota set {name}");
    let mut said = Vec::new();
    if volume.quota_bytes > 0 && volume.used_bytes >= volume.quota_bytes {
        said.push(format!(
            "volume {name:?} has used its quota ({} of {}), so longer files get EDQUOT: {remedy} --bytes SIZE`",
            render::bytes(volume.used_bytes),
            render::bytes(volume.quota_bytes)
        ));
    }
    if volume.quota_files > 0 && volume.used_files >= volume.quota_files {
        said.push(format!(
            "volume {name:?} has as many files as its quota allows ({} of {}), so further ones get EDQUOT: \
             {remedy} --files COUNT`",
            volume.used_files, volume.quota_files
        ));
    }
    said
}

#[cfg(test)]
mod tests {
    use proto::mrc::Server;

    use super::*;

    fn server(role: &str, id: u64, state: &str) -> Server {
        Server {
            role: role.to_owned(),
            id,
            address: format!("10.0.0.{id}:7"),
            state: state.to_owned(),
            ..Server::default()
        }
    }

    fn volume(used: (u64, u64), quota: (u64, u64)) -> Volume {
        Volume {
            name: "home".to_owned(),
            used_bytes: used.0,
            used_files: used.1,
            quota_bytes: quota.0,
            quota_files: quota.1,
            ..Volume::default()
        }
    }

    #[test]
    fn full_disks_and_used_up_quotas_are_told_and_nothing_else() {
        let status = ClusterStatus {
            servers: vec![
                server("mrc", 1, "leader"),
                server("osd", 1, "up"),
                server("osd", 2, "full"),
            ],
            volumes: vec![
                volume((5, 5), (0, 0)),
                volume((5, 5), (6, 6)),
                volume((2 << 20, 5), (2 << 20, 6)),
                volume((0, 7), (1, 6)),
            ],
            answered_by_leader: true,
            disk_problem: "disk is nearly full (/d has 3 MiB free)".to_owned(),
            ..ClusterStatus::default()
        };

        let said = sentences(&vec![("10.0.0.1:7".to_owned(), Ok(status))]);

        assert_eq!(said.len(), 4, "{said:?}");
        assert!(said[0].starts_with("mrc-1: its disk is nearly full (/d has 3 MiB free)"));
        assert!(said[1].starts_with("osd-2: its disk is full"));
        assert!(said[2].contains("2.0 MiB of 2.0 MiB") && said[2].contains("--bytes"));
        assert!(said[3].contains("7 of 6") && said[3].contains("quota set home --files"));
        assert!(sentences(&Vec::new()).is_empty());
    }
}
