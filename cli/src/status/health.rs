//! What servers and the leader say that needs somebody's attention, in words: pools, disks, clocks, releases,
//! and what is about to be done about replicas.

use std::collections::BTreeMap;

use proto::mrc::{self, Jobs};

use crate::numbers::{Asked, Said};
use crate::render;

/// How far a clock may be from the others. 1 s: any synchronisation keeps within that, and rights of mounts last
/// for many seconds.
const CLOCK_OFF_MS: i64 = 1000;

/// A disk with less than this part of it free is nearly full: a twentieth.
const NEARLY_FULL_PART: u64 = 20;

/// Servers that were asked, and what they said.
pub(super) type Heard = [(Asked, Said)];

/// One sentence for each pool that has a problem.
pub(super) fn pools(osds: &[mrc::Osd]) -> Vec<String> {
    let troubled = osds.iter().filter_map(|osd| {
        let pool = osd.pool.as_ref().filter(|pool| !pool.healthy)?;
        let (id, dataset) = (osd.osd, &pool.dataset);
        let problem = match pool.problem.as_str() {
            "" => "it says no more",
            problem => problem,
        };
        Some(match pool.state.as_str() {
            "faulted" | "unavailable" | "suspended" => format!(
                "the pool below {dataset} of osd-{id} is {} ({problem}), so its store takes no changes and the \
                 other replicas serve: bring the pool back (`zpool status`, `zpool clear`, `zpool import`), then \
                 kill the server and start it",
                pool.state
            ),
            "degraded" => format!(
                "the pool below {dataset} of osd-{id} is degraded ({problem}): the server goes on, and one more \
                 device may be too much; replace the device (`zpool replace`), then `zpool clear`"
            ),
            "unknown" => format!(
                "how the pool below {dataset} of osd-{id} is can't be told ({problem}): look with `zpool status` \
                 there"
            ),
            state => format!(
                "the pool below {dataset} of osd-{id} is {state} and counts errors ({problem}): look at its \
                 devices with `zpool status`, replace what is bad, then `zpool clear`"
            ),
        })
    });
    troubled.collect()
}

/// One sentence for each disk that is full, or soon will be.
pub(super) fn disks(osds: &[mrc::Osd], heard: &Heard) -> Vec<String> {
    let of_osds = osds.iter().filter_map(|osd| {
        let id = osd.osd;
        match osd.state.as_str() {
            "full" => Some(format!(
                "the disk of osd-{id} is full: its replicas fall behind, and programs get ENOSPC where a majority \
                 of a file's replicas has no room; make room on it (its directory is {}), or add an object server",
                osd.dir
            )),
            "up" if osd.free_bytes < osd.capacity_bytes / NEARLY_FULL_PART => Some(format!(
                "the disk of osd-{id} is nearly full, {} of {} are free: make room, or add an object server; from \
                 full ones replicas move to others",
                render::bytes(osd.free_bytes),
                render::bytes(osd.capacity_bytes)
            )),
            _ => None,
        }
    });
    let of_mrcs = heard.iter().filter_map(|(server, said)| {
        said.number("oxfs_mrc_disk_low").filter(|low| *low > 0)?;
        Some(format!(
            "the disk of {} is nearly full: while it leads, making files fails with ENOSPC, removing and writing \
             them goes on; make room on it",
            server.name()
        ))
    });
    of_osds.chain(of_mrcs).chain(slow_disks(heard)).collect()
}

fn slow_disks(heard: &Heard) -> impl Iterator<Item = String> {
    heard.iter().filter_map(|(server, said)| {
        let ms = said
            .number("oxfs_mrc_disk_slow_ms")
            .filter(|ms| *ms > 0)?;
        Some(format!(
            "the disk of {} is slow, a write of its log takes {}: names are served while a majority of the \
             metadata servers has better disks, and the lead is left to one of these; look what else uses the \
             disk and whether it is dying (`iostat -x`, `smartctl`), or replace the server (`xfs-admin mrc replace`)",
            server.name(),
            render::millis(ms)
        ))
    })
}

/// One sentence for each store that takes no changes any more. A pool that is the reason has its own.
pub(super) fn stores(heard: &Heard) -> Vec<String> {
    let failed = heard.iter().filter_map(|(server, said)| {
        said.number("oxfs_osd_store_failed").filter(|it| *it > 0)?;
        Some(format!(
            "a write to the disk of {} failed, so its store takes no changes and the other replicas serve: check \
             the disk (the server's log says what failed), then kill the server and start it; it is brought up \
             from the others",
            server.name()
        ))
    });
    failed.collect()
}

/// One sentence for each clock that is far from the others'; that of this machine counts as one.
pub(super) fn clocks(heard: &Heard) -> Vec<String> {
    let mut clocks: Vec<(String, i64, i64)> = heard
        .iter()
        .filter_map(|(server, said)| Some((server.name(), said.ahead_ms?, said.unsure_ms)))
        .collect();
    clocks.push((String::new(), 0, 0));
    let mut sorted: Vec<i64> = clocks.iter().map(|(_, ahead, _)| *ahead).collect();
    sorted.sort_unstable();
    let usual = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    let wrong = clocks.iter().filter_map(|(name, ahead, unsure)| {
        let off = ahead - usual;
        if off.abs() <= CLOCK_OFF_MS + unsure {
            return None;
        }
        let amount = render::millis(off.unsigned_abs());
        let way = if off > 0 { "ahead of" } else { "behind" };
        Some(match name.as_str() {
            "" => format!(
                "the clock of this machine is {amount} {way} those of the servers: set it, or times shown here are \
                 wrong"
            ),
            name => format!(
                "the clock of {name} is {amount} {way} the others': set it (chrony keeps it so); until then times of \
                 files jump if it leads, and servers that are down may be replaced too early or too late"
            ),
        })
    });
    wrong.collect()
}

/// One sentence if programs of different releases run.
pub(super) fn releases(heard: &Heard, mounts: &[(String, String)]) -> Vec<String> {
    let mut releases: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (server, said) in heard {
        releases
            .entry(&said.release)
            .or_default()
            .push(server.name());
    }
    for (mount, release) in mounts {
        releases.entry(release).or_default().push(mount.clone());
    }
    if releases.len() < 2 {
        return Vec::new();
    }
    let parts: Vec<String> = releases
        .iter()
        .map(|(release, names)| {
            let names = names.join(", ");
            match *release {
                "" => format!("an older one that does not say which on {names}"),
                release => format!("{release} on {names}"),
            }
        })
        .collect();
    vec![format!(
        "programs of different releases run: {}; finish the upgrade, one server after the other",
        parts.join("; ")
    )]
}

/// What is about to be done about replicas, and what keeps it from being done.
pub(super) fn rescue(jobs: &Jobs, osds: &[mrc::Osd], replicas_max: u32) -> Vec<String> {
    let mut said = Vec::new();
    if jobs.paused {
        said.push(format!(
            "changes of replica sets are paused by an administrator, {} placement groups wait for them: \
             `xfs-admin job resume` goes on",
            jobs.notes.len()
        ));
    }
    let mut waiting: BTreeMap<u64, (usize, u64)> = BTreeMap::new();
    let mut stuck: BTreeMap<&str, usize> = BTreeMap::new();
    for note in &jobs.notes {
        if note.grace_server != 0 {
            let (count, left) = waiting.entry(note.grace_server).or_default();
            *count += 1;
            *left = (*left).max(note.grace_left_ms);
        } else if note.state == "stuck" {
            *stuck.entry(&note.why).or_default() += 1;
        }
    }
    let able = osds
        .iter()
        .filter(|osd| osd.state != "down" && !osd.draining)
        .count();
    for (server, (count, left_ms)) in waiting {
        let (groups, left) = (groups(count), span(left_ms));
        said.push(if able < replicas_max as usize {
            format!(
                "osd-{server} is away and {groups} lack a replica for it: there is no further object server that \
                 could take its place; start it again, or add one (`oxfs start --new-osd`), which takes over in {left}"
            )
        } else {
            format!(
                "osd-{server} is away and {groups} lack a replica for it: if it is not back in {left}, others begin \
                 to take its place"
            )
        });
    }
    for (why, count) in stuck {
        said.push(format!("{}: {why}", groups(count)));
    }
    if jobs.pgs_changing > 0 && !jobs.paused {
        let rate = render::bytes(jobs.rate_bytes_per_s);
        let rest = match jobs.left_bytes.checked_div(jobs.rate_bytes_per_s) {
            Some(seconds) if jobs.left_bytes > 0 => {
                format!(
                    ", which takes about {} yet",
                    span(seconds.saturating_mul(1000))
                )
            }
            _ => String::new(),
        };
        said.push(format!(
            "replicas are being moved, which needs nobody: {} are changing, about {} are left at {rate}/s{rest}",
            groups(usize::try_from(jobs.pgs_changing).unwrap_or(usize::MAX)),
            render::bytes(jobs.left_bytes)
        ));
    }
    said
}

fn groups(count: usize) -> String {
    match count {
        1 => "1 placement group".to_owned(),
        count => format!("{count} placement groups"),
    }
}

/// A stretch of time in its two largest units.
fn span(ms: u64) -> String {
    let seconds = ms.div_ceil(1000);
    match (seconds / 3600, seconds / 60) {
        (0, 0) => format!("{seconds} s"),
        (0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (hours, minutes) => format!("{hours} h {} min", minutes % 60),
    }
}

#[cfg(test)]
mod tests;
