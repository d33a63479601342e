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

use crate::config::{DEFAULT_VOLUME, LOOK_AGAIN, READY_PATIENCE, STATUS_TIMEOUT};
use crate::launch::Started;

/// Waits until a leader is elected and all object servers are registered with it.
pub(crate) async fn cluster(
    cluster: &LocalCluster,
    admin: &Admin,
    children: &mut [Started],
) -> Result<()> {
    let osds: HashSet<u64> = cluster
        .servers()
        .into_iter()
        .filter(|server| server.role == Role::Osd)
        .map(|server| server.id)
        .collect();
    let started = Instant::now();
    loop {
        check_alive(children)?;
        let answers = admin.statuses(admin.addresses(), STATUS_TIMEOUT).await;
        let leader = answers
            .iter()
            .filter_map(|(_, answer)| answer.as_ref().ok())
            .find(|status| status.answered_by_leader);
        let missing = leader.map(|status| missing_osds(status, &osds));
        if missing.as_ref().is_some_and(HashSet::is_empty) {
            return Ok(());
        }
        for (_, answer) in &answers {
            if let Err(CallError::Refused(why)) = answer {
                bail!("{why}");
            }
        }
        if started.elapsed() >= READY_PATIENCE {
            let seconds = READY_PATIENCE.as_secs();
            let logs = cluster.dir().join("logs");
            match missing {
                None => bail!(
                    "no metadata server became leader within {seconds} s; see {}",
                    logs.display()
                ),
                Some(missing) => bail!(
                    "object servers {missing:?} did not register within {seconds} s; see {}",
                    logs.display()
                ),
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn missing_osds(status: &ClusterStatus, wanted: &HashSet<u64>) -> HashSet<u64> {
    let up: HashSet<u64> = status
        .servers
        .iter()
        .filter(|server| server.role == Role::Osd.name() && server.state != "down")
        .map(|server| server.id)
        .collect();
    wanted.difference(&up).copied().collect()
}

/// Says so if one of our children has ended.
pub(crate) fn check_alive(children: &mut [Started]) -> Result<()> {
    for child in children {
        if let Some(status) = child.ended() {
            bail!(
                "{} ended at its start ({status}): {}",
                child.process.name,
                child.last_words()
            );
        }
    }
    Ok(())
}

/// Makes the default volume if there is none of its name.
pub(crate) async fn default_volume(admin: &Admin) -> Result<()> {
    let list = admin.ask_leader(Op::VolumeList(VolumeList {})).await?;
    if let Reply::Volumes(volumes) = list
        && volumes
            .volumes
            .iter()
            .any(|volume| volume.name == DEFAULT_VOLUME)
    {
        return Ok(());
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
        check_alive(std::slice::from_mut(child))?;
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
