//! Waits until processes that were started can be used.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{ClusterStatus, VolumeCreate, VolumeList};
use proto::osd;
use shell::admin::{Admin, AdminError};
use shell::link::{CallError, Link, LinkOptions, Payload, Role, ServiceKind};
use shell::local::{LocalCluster, LocalServer};

use crate::config::{
    DEFAULT_VOLUME, LOOK_AGAIN, READY_PATIENCE, STATUS_TIMEOUT, STRAGGLER_PATIENCE,
};
use crate::launch::Started;
use crate::quorum::{self, Missing};

/// Waits until a leader is elected and all servers that run have answered it, or a majority has and
/// the others take long; adds those that can't serve to `missing`.
///
/// # Errors
///
/// If no majority can be reached.
pub(crate) async fn cluster(
    cluster: &LocalCluster,
    admin: &Admin,
    children: &mut Vec<Started>,
    missing: &mut Vec<Missing>,
) -> Result<()> {
    let servers = cluster.servers();
    let started = Instant::now();
    let mut served_since = None;
    loop {
        bury(&servers, children, missing);
        let running: Vec<String> = children
            .iter()
            .filter(|child| child.process.role == Role::Mrc.name())
            .map(|child| child.process.address.clone())
            .collect();
        let answers = admin.statuses(&running, STATUS_TIMEOUT).await;
        end_strangers(&servers, &answers, children, missing);
        quorum::check(&servers, missing)?;
        let absent = absent(&servers, &answers, missing);
        if let Some(absent) = &absent {
            let without = missing.iter().chain(absent).cloned().collect::<Vec<_>>();
            if absent.is_empty() {
                return Ok(());
            }
            let serves = quorum::check(&servers, &without).is_ok();
            let since = *served_since.get_or_insert_with(Instant::now);
            if serves && since.elapsed() >= STRAGGLER_PATIENCE {
                *missing = without;
                return Ok(());
            }
            if !serves {
                served_since = None;
            }
        }
        if started.elapsed() >= READY_PATIENCE {
            bail!("{}", in_vain(cluster, absent, missing));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Why there is no majority after all that time.
fn in_vain(cluster: &LocalCluster, absent: Option<Vec<Missing>>, missing: &[Missing]) -> String {
    let seconds = READY_PATIENCE.as_secs();
    let absent = absent.unwrap_or_default();
    let all: Vec<String> = missing
        .iter()
        .chain(&absent)
        .map(|missing| missing.sentence(cluster.dir()))
        .collect();
    let said = match all.is_empty() {
        true => format!("; see {}", cluster.dir().join("logs").display()),
        false => format!(": {}", all.join("; ")),
    };
    format!(
        "the cluster does not serve after {seconds} s (a new one is formed when all its metadata \
         servers run, an old one by a majority){said}"
    )
}

/// Moves children that have ended to those that are missing.
fn bury(servers: &[LocalServer], children: &mut Vec<Started>, missing: &mut Vec<Missing>) {
    children.retain_mut(|child| {
        let server = servers
            .iter()
            .find(|server| server.name() == child.process.name);
        match (server, child.why_ended()) {
            (Some(server), Some(why)) => {
                missing.push(Missing::dead(server, why));
                false
            }
            _ => true,
        }
    });
}

/// Ends metadata servers that take us for somebody else's: they would serve another cluster.
fn end_strangers(
    servers: &[LocalServer],
    answers: &[(String, Result<ClusterStatus, CallError>)],
    children: &mut Vec<Started>,
    missing: &mut Vec<Missing>,
) {
    for (address, answer) in answers {
        let Err(CallError::Refused(why)) = answer else {
            continue;
        };
        children.retain_mut(|child| {
            let is_it = child.process.address == *address;
            if is_it {
                child.end_at_once();
                let server = servers.iter().find(|server| server.address == *address);
                missing.extend(server.map(|server| Missing::dead(server, why.clone())));
            }
            !is_it
        });
    }
}

/// Servers that run and are not there yet, if there is a leader.
fn absent(
    servers: &[LocalServer],
    answers: &[(String, Result<ClusterStatus, CallError>)],
    missing: &[Missing],
) -> Option<Vec<Missing>> {
    let heard = || {
        answers
            .iter()
            .filter_map(|(address, answer)| Some((address, answer.as_ref().ok()?)))
    };
    let (_, leader) = heard().find(|(_, status)| status.answered_by_leader)?;
    let registered: HashSet<u64> = leader
        .servers
        .iter()
        .filter(|server| server.role == Role::Osd.name() && server.state != "down")
        .map(|server| server.id)
        .collect();
    let is_there = |server: &LocalServer| match server.role {
        Role::Osd => registered.contains(&server.id),
        _ => heard().any(|(address, _)| *address == server.address),
    };
    let absent = servers.iter().filter(|server| {
        !is_there(server) && !missing.iter().any(|missing| missing.server == **server)
    });
    let slow = |server: &LocalServer| {
        let name = server.name();
        Missing::running(
            server,
            format!("does not answer yet; its log, logs/{name}.log, says what it waits for"),
        )
    };
    Some(absent.map(slow).collect())
}

/// Says so if a process that we started and wait for has ended.
pub(crate) fn check_alive(child: &mut Started) -> Result<()> {
    match child.why_ended() {
        Some(why) => bail!("{why}"),
        None => Ok(()),
    }
}

/// Makes the default volume if there is none of its name.
///
/// # Errors
///
/// If an object server is missing that the new volume should have replicas on.
pub(crate) async fn default_volume(admin: &Admin, missing: &[Missing]) -> Result<()> {
    let list = admin.ask_leader(Op::VolumeList(VolumeList {})).await?;
    if let Reply::Volumes(volumes) = list
        && volumes
            .volumes
            .iter()
            .any(|volume| volume.name == DEFAULT_VOLUME)
    {
        return Ok(());
    }
    if let Some(osd) = missing
        .iter()
        .find(|missing| missing.server.role == Role::Osd)
    {
        bail!(
            "the volume `{DEFAULT_VOLUME}` is made when all object servers run, or it would have \
             fewer replicas for ever; {}",
            osd.why()
        );
    }
    let create = VolumeCreate {
        name: DEFAULT_VOLUME.to_owned(),
        root_owner: Some(proto::mrc::Owner {
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
        }),
        // Never 0.
        nonce: rand::random::<u64>() | 1,
        ..VolumeCreate::default()
    };
    match admin.ask_leader(Op::VolumeCreate(create)).await {
        Ok(_) => Ok(()),
        // Asked twice because the first answer was lost.
        Err(AdminError::Fault(fault)) if fault.errno == libc::EEXIST => Ok(()),
        Err(error) => Err(error).context("can't create the volume `default`"),
    }
}

/// Waits until one server that was just started answers.
pub(crate) async fn server(
    cluster: &LocalCluster,
    server: &LocalServer,
    child: &mut Started,
) -> Result<()> {
    let identity = cluster.identity(Role::Admin)?;
    let service = if server.role == Role::Mrc {
        ServiceKind::Mrc
    } else {
        ServiceKind::Osd
    };
    let link = Link::open(
        identity,
        service,
        server.address.clone(),
        LinkOptions::default(),
    );
    let started = Instant::now();
    loop {
        check_alive(child)?;
        match greet(&link, server.role, Duration::from_secs(1)).await {
            // Even a fault is an answer.
            Ok(()) | Err(CallError::Fault(_)) => return Ok(()),
            Err(CallError::Refused(why)) => bail!("{why}"),
            Err(_) => {}
        }
        if started.elapsed() >= READY_PATIENCE {
            bail!(
                "{} does not answer at {} after {} s; see {}",
                server.name(),
                server.address,
                READY_PATIENCE.as_secs(),
                cluster.log_file(&server.name()).display()
            );
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn greet(link: &Link, role: Role, timeout: Duration) -> Result<(), CallError> {
    let none = Payload::none();
    if role == Role::Mrc {
        let request = proto::mrc::Request {
            op: Some(Op::Status(proto::mrc::Status {})),
            ..Default::default()
        };
        link.call::<_, proto::mrc::Response>(&request, none, timeout)
            .await?;
    } else {
        let request = osd::Request {
            op: Some(osd::request::Op::LeaseList(osd::LeaseList {
                limit: 1,
                start: 0,
            })),
            ..Default::default()
        };
        link.call::<_, osd::Response>(&request, none, timeout)
            .await?;
    }
    Ok(())
}
