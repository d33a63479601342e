//! What administrators ask: servers, placement groups, sessions, space.

use std::collections::BTreeMap;
use std::time::Duration;

use mrc_core::{FileSystem, IndexError, Reply, query};
use openraft::async_runtime::WatchReceiver;
use planner::{GroupState, Why};
use proto::mrc::request::Op;
use proto::mrc::{self, ClusterStatus, Mrcs, Osds, Pgs, Response, Server, Sessions, response};
use types::{Fault, SessionId, VolumeId};

use crate::config::REPAIR_BYTES_PER_S_EACH;
use crate::door::{Service, index_fault};
use crate::log_writer::lock;
use crate::member_change;
use crate::membership;
use crate::slow_disk;

/// Status of the cluster or of the metadata servers, from any of them.
pub(crate) async fn cluster(service: &Service, op: Option<Op>) -> Reply {
    let servers = metadata_servers(service).await;
    let reply = match op {
        Some(Op::MrcList(_)) => response::Reply::Mrcs(metadata_positions(service, servers)),
        _ => {
            let status = status(service, servers).map_err(|error| index_fault(&error))?;
            response::Reply::ClusterStatus(status)
        }
    };
    Ok(Response { reply: Some(reply) })
}

/// All members, or before there are any all configured servers; those that don't answer are down.
async fn metadata_servers(service: &Service) -> Vec<Server> {
    let node = &service.node;
    let members = node.members().into_iter();
    let members = members.map(|(number, it)| (it.id, node.peers.address(number, &it)));
    let mut addresses: BTreeMap<u64, String> = members.collect();
    if addresses.is_empty() {
        addresses = service.config.addresses();
    }
    let greetings = membership::hello_all(node, addresses.clone()).await;
    let servers = addresses.into_iter().map(|(id, address)| {
        let mut server = Server {
            role: "mrc".to_owned(),
            id,
            address,
            state: "down".to_owned(),
            ..Server::default()
        };
        if id == node.me.id {
            server.pid = u64::from(std::process::id());
            server.dir = service.config.dir.display().to_string();
            node.state().clone_into(&mut server.state);
        } else if let Some(greeting) = greetings.iter().find(|greeting| greeting.id == id) {
            server.pid = greeting.pid;
            server.dir.clone_from(&greeting.dir);
            server.state.clone_from(&greeting.state);
        }
        server
    });
    servers.collect()
}

fn metadata_positions(service: &Service, servers: Vec<Server>) -> Mrcs {
    let members = member_change::known(&service.node);
    let metrics = service.node.raft.metrics();
    let metrics = metrics.borrow_watched();
    Mrcs {
        members,
        servers,
        term: metrics.current_term,
        last_log_index: metrics.last_log_index.unwrap_or(0),
        applied_index: metrics.last_applied.map_or(0, |id| id.index),
        checkpoint_index: metrics.snapshot.map_or(0, |id| id.index),
    }
}

fn status(service: &Service, mut servers: Vec<Server>) -> Result<ClusterStatus, IndexError> {
    let index = &**service.node.index();
    let timeout = service.config.osd_timeout();
    for osd in osds(service)? {
        servers.push(Server {
            role: "osd".to_owned(),
            id: osd.osd,
            pid: osd.pid,
            address: osd.address,
            state: osd.state,
            dir: osd.dir,
        });
    }
    for session in sessions(service)? {
        servers.push(Server {
            role: "mount".to_owned(),
            id: session.session,
            pid: session.pid,
            address: session.client,
            state: session.state,
            dir: session.mount_point,
        });
    }
    let pgs = query::pgs(index, None)?;
    let health = service.osds.health(&pgs, timeout);
    let full = health.iter().filter(|health| health.full).count() as u64;
    Ok(ClusterStatus {
        cluster: service.config.cluster.clone(),
        servers,
        volumes: query::volumes(index)?,
        pgs_total: pgs.len() as u64,
        pgs_full: full,
        pgs_degraded: pgs.len() as u64 - full,
        leader: service.node.leader().unwrap_or_default().1,
        answered_by_leader: service.node.leading().is_ok(),
        disk_problem: service.disk.problem().unwrap_or_default(),
        disk_slow: slow_disk::problem(&service.node).unwrap_or_default(),
    })
}

/// One of the lists that need the leader.
pub(crate) fn list(service: &Service, op: &Op) -> Result<Reply, IndexError> {
    let reply = match op {
        Op::OsdList(_) => response::Reply::Osds(Osds {
            osds: osds(service)?,
        }),
        Op::JobList(_) => response::Reply::Jobs(jobs(service)?),
        Op::SessionList(_) => response::Reply::Sessions(Sessions {
            sessions: sessions(service)?,
        }),
        Op::PgList(list) => {
            let index = &**service.node.index();
            let volume = match list.volume.as_str() {
                "" => None,
                name => match query::volume_named(index, name)? {
                    Some((volume, _)) => Some(volume),
                    None => {
                        let text = format!("volume {name:?} does not exist");
                        return Ok(Err(Fault::surface(libc::ENOENT, text)));
                    }
                },
            };
            response::Reply::Pgs(Pgs {
                pgs: pgs(service, volume)?,
            })
        }
        _ => return Ok(Err(Fault::surface(libc::EPROTO, "not a list"))),
    };
    Ok(Ok(Response { reply: Some(reply) }))
}

fn osds(service: &Service) -> Result<Vec<mrc::Osd>, IndexError> {
    let timeout = service.config.osd_timeout();
    let index = &**service.node.index();
    let known = query::osds(index)?;
    let mut groups: BTreeMap<u64, u64> = BTreeMap::new();
    for pg in query::pgs(index, None)? {
        let gone = pg.previous.iter().filter(|osd| !pg.osds.contains(osd));
        for osd in pg.osds.iter().chain(gone) {
            *groups.entry(*osd).or_default() += 1;
        }
    }
    let seedings = service.osds.seedings(timeout);
    let shown = known.into_iter().map(|(osd, record)| {
        let heard = service.osds.get(osd, timeout);
        let state = match heard {
            Some(heard) if heard.up && heard.failed_for.is_some() => "failed",
            Some(heard) if heard.up && heard.free_bytes == 0 && heard.capacity_bytes > 0 => "full",
            Some(heard) if heard.up => "up",
            _ => "down",
        };
        mrc::Osd {
            osd: osd.0,
            address: record.address,
            store_uuid: record.store_uuid,
            state: state.to_owned(),
            capacity_bytes: record.capacity_bytes,
            free_bytes: heard.map_or(0, |heard| heard.free_bytes),
            pid: record.pid,
            dir: record.dir,
            heartbeat_age_ms: heard.map_or(u64::MAX, |heard| {
                u64::try_from(heard.age.as_millis()).unwrap_or(u64::MAX)
            }),
            objects_behind: heard.map_or(0, |heard| heard.objects_behind),
            draining: record.draining,
            location: record.location,
            pgs: groups.get(&osd.0).copied().unwrap_or(0),
            pool: service.osds.pool(osd),
            seedings: seedings
                .iter()
                .filter(|one| one.osd == osd.0)
                .copied()
                .collect(),
        }
    });
    Ok(shown.collect())
}

/// What the newest plan of the leader found.
fn jobs(service: &Service) -> Result<mrc::Jobs, IndexError> {
    let wanted = query::jobs(&**service.node.index())?;
    let set = mrc::Jobs {
        paused: wanted.paused,
        limit_bytes_per_s: wanted.limit_bytes_per_s,
        default_bytes_per_s_each: REPAIR_BYTES_PER_S_EACH,
        rate_bytes_per_s: lock(&service.rate).bytes_per_s(),
        moved_bytes: service.osds.repaired_bytes(),
        seedings: service.osds.seedings(service.config.osd_timeout()),
        ..mrc::Jobs::default()
    };
    let Some(report) = service.redundancy() else {
        return Ok(mrc::Jobs {
            unknown: true,
            ..set
        });
    };
    let grace = |why: &Why| match why {
        Why::Grace { server, left } => (server.0, left.as_millis()),
        _ => (0, 0),
    };
    let notes = report.notes.iter().map(|(group, note)| mrc::PgNote {
        grace_server: grace(&note.why).0,
        grace_left_ms: grace(&note.why).1,
        volume: group.volume.0,
        pg: group.pg.0,
        state: match note.state {
            GroupState::Below => "below",
            GroupState::Changing => "changing",
            GroupState::Stuck => "stuck",
        }
        .to_owned(),
        why: note.why.to_string(),
    });
    let draining = report.draining.iter().map(|(osd, left)| mrc::Draining {
        osd: osd.0,
        pgs: left.groups_count as u64,
        bytes: left.bytes,
    });
    Ok(mrc::Jobs {
        left_bytes: report.left_bytes,
        pgs_healthy: report.healthy_count as u64,
        pgs_below: report.below_count as u64,
        pgs_changing: report.changing_count as u64,
        pgs_stuck: report.stuck_count as u64,
        notes: notes.collect(),
        draining: draining.collect(),
        ..set
    })
}

fn pgs(service: &Service, volume: Option<VolumeId>) -> Result<Vec<mrc::Pg>, IndexError> {
    let mut pgs = query::pgs(&**service.node.index(), volume)?;
    let health = service.osds.health(&pgs, service.config.osd_timeout());
    for (pg, health) in pgs.iter_mut().zip(health) {
        pg.full_replicas = health.full_replicas;
        pg.state = if health.full { "full" } else { "degraded" }.to_owned();
        pg.lags = service.osds.lags(pg, service.config.osd_timeout());
        let sizes = service.osds.sizes(pg).into_iter().map(|(_, size)| size);
        pg.size = sizes.max_by_key(|size| size.bytes);
    }
    Ok(pgs)
}

/// Says of a volume which servers may still go by an older policy.
pub(crate) fn outdated(service: &Service, volume: &mut mrc::Volume) -> Result<(), IndexError> {
    let pgs = query::pgs(&**service.node.index(), Some(VolumeId(volume.volume)))?;
    volume.outdated_osds = service.osds.outdated(&pgs, volume.policy_version);
    Ok(())
}

fn sessions(service: &Service) -> Result<Vec<mrc::SessionInfo>, IndexError> {
    let known = query::sessions(&**service.node.index())?;
    let shown = known.into_iter().filter(|(_, record)| !record.settled);
    let shown = shown.map(|(SessionId(session), record)| {
        let activity = service.sessions.activity(SessionId(session));
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let age = activity
            .numbers
            .as_ref()
            .map_or(Duration::ZERO, |(age, _)| *age);
        let between = activity
            .before
            .as_ref()
            .map_or(Duration::ZERO, |(it, _)| *it);
        let state = match (record.ended, record.expired) {
            (false, _) => "active",
            (true, true) => "expired",
            (true, false) => "closed",
        };
        mrc::SessionInfo {
            session,
            volume: record.volume,
            client: record.client,
            mount_point: record.mount_point,
            pid: record.pid,
            state: state.to_owned(),
            idle_ms: ms(activity.idle),
            open_inodes: activity.open_inodes,
            numbers_age_ms: ms(age),
            numbers_between_ms: ms(between),
            numbers: activity.numbers.map(|(_, numbers)| numbers),
            numbers_before: activity.before.map(|(_, numbers)| numbers),
        }
    });
    Ok(shown.collect())
}

/// Adds what the object servers reported to what the index says of a volume: what fits with all replicas.
/// Servers that should hold nothing have no room.
pub(crate) fn space(
    service: &Service,
    volume: VolumeId,
    stat: &mut mrc::FsStat,
) -> Result<(), IndexError> {
    let index = &**service.node.index();
    let record = query::volume_record(index, volume)?.unwrap_or_default();
    let servers = query::osds(index)?.into_iter();
    let servers = servers.filter(|(_, record)| !record.draining);
    let servers = servers.map(|(osd, record)| (osd, record.capacity_bytes));
    let space = service.osds.space(servers);
    let fits = |disks: &[FileSystem]| mrc_core::usable_bytes(disks, record.replicas);
    mrc_core::show_space(stat, fits(&space.capacity), fits(&space.free));
    Ok(())
}
