//! Asking whoever is a file's primary for its bytes.

use bytes::Bytes;
use client_core::{CUT_PATIENCE, Failure, Next};
use proto::osd;
use shell::clock::boottime;
use shell::link::Payload;
use types::OsdId;

use crate::config::{METADATA_BACKOFF_MAX, OBJECT_TIMEOUT, READ_PATIENCE, STALL_REPORT};
use crate::errno::Errno;
use crate::file::File;
use crate::lock;
use crate::stall::Stall;

impl File {
    /// Reads from the primary. Fewer bytes than asked for: the object ends there.
    pub(crate) async fn read_object(&self, offset: u64, length: u32) -> Result<Bytes, Errno> {
        let op = osd::request::Op::Read(osd::Read {
            offset,
            length_bytes: length,
        });
        self.ask_object(op).await.map(|(_, bytes)| bytes)
    }

    /// Asks the primary for something that changes nothing.
    pub(crate) async fn ask_object(
        &self,
        op: osd::request::Op,
    ) -> Result<(osd::Response, Bytes), Errno> {
        let started = std::time::Instant::now();
        let mut stall = None;
        let mut renewed = 0;
        loop {
            let target = {
                let route = &mut lock(&self.state).read_route;
                route.avoid(|osd| self.shared.servers.is_reached(osd));
                route.target().ok_or(Errno(libc::EIO))?
            };
            let failure = match self.ask_from(target, &op, started, &mut stall).await {
                Ok((primary, answer)) => {
                    let mut state = lock(&self.state);
                    state.read_route.found(primary);
                    state.read_route.answered();
                    state.renewals = 0;
                    if state.changes.is_idle() {
                        state.changes.route().found(primary);
                    }
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            let next = lock(&self.state).read_route.failed(failure);
            match next {
                Next::GiveUp(errno) => return Err(Errno(errno)),
                Next::After(wait) => tokio::time::sleep(wait.to_std()).await,
                Next::Renew => {
                    renewed += 1;
                    if renewed > 1 {
                        tokio::time::sleep(METADATA_BACKOFF_MAX).await;
                    }
                    self.fetch_grant().await?;
                }
            }
        }
    }

    /// Asks `target`, and while it is silent others, too: one of them may have become the primary.
    async fn ask_from(
        &self,
        target: OsdId,
        op: &osd::request::Op,
        started: std::time::Instant,
        stall: &mut Option<Stall>,
    ) -> Result<(OsdId, (osd::Response, Bytes)), Failure> {
        let first = self.ask_target(target, op);
        tokio::pin!(first);
        let asked = boottime();
        let mut round = 0;
        loop {
            tokio::select! {
                outcome = &mut first => return outcome.map(|answer| (target, answer)),
                () = tokio::time::sleep(READ_PATIENCE) => {}
            }
            self.shared.servers.missed(target);
            if started.elapsed() >= STALL_REPORT && stall.is_none() {
                *stall = Some(self.shared.stalls.begin(&self.shared.servers.name(target)));
            }
            let other = lock(&self.state).read_route.other_than(target, round);
            round += 1;
            let Some(other) = other else { continue };
            let second = tokio::time::timeout(READ_PATIENCE, self.ask_once(other, op, None));
            tokio::select! {
                outcome = &mut first => return outcome.map(|answer| (target, answer)),
                outcome = second => match outcome {
                    Ok(Ok(answer)) => return Ok((other, answer)),
                    Ok(Err(Failure::Redirect(Some(primary)))) if primary != target => {
                        return Err(Failure::Redirect(Some(primary)));
                    }
                    // Silent for longer than its lease, which runs all the same.
                    Ok(Err(Failure::Redirect(_))) if asked + CUT_PATIENCE <= boottime() => {
                        self.shared.servers.cut_off(target);
                        lock(&self.state).read_route.confirmed(other);
                        return Err(Failure::Redirect(Some(target)));
                    }
                    Ok(Err(Failure::Refresh)) => return Err(Failure::Refresh),
                    // The lease of the silent one still runs, or this one is no better.
                    Ok(Err(_)) | Err(_) => {}
                }
            }
        }
    }

    /// Asks the target, through another server if only that one reaches it.
    async fn ask_target(
        &self,
        target: OsdId,
        op: &osd::request::Op,
    ) -> Result<(osd::Response, Bytes), Failure> {
        let reached = |osd| self.shared.servers.is_reached(osd);
        let way = lock(&self.state).read_route.way(reached);
        match way.filter(|way| way.forward_to == Some(target)) {
            Some(way) => self.ask_once(way.osd, op, Some(target)).await,
            None => self.ask_once(target, op, None).await,
        }
    }

    async fn ask_once(
        &self,
        osd: OsdId,
        op: &osd::request::Op,
        forward_to: Option<OsdId>,
    ) -> Result<(osd::Response, Bytes), Failure> {
        let server = self.shared.servers.get(osd).ok_or(Failure::Gone)?;
        if server.out_of_reach().is_some() {
            return Err(Failure::Gone);
        }
        let request = self.request(op.clone(), forward_to);
        let reply = server
            .link
            .call::<_, osd::Response>(&request, Payload::none(), OBJECT_TIMEOUT)
            .await;
        server.hear(&reply);
        let (response, payload) = reply.map_err(|error| self.failure(osd, &error))?;
        let bytes = payload.verified().map_err(|fault| {
            tracing::warn!(inode = self.inode, server = self.shared.servers.name(osd), %fault, "bytes changed on their way");
            Failure::Retry
        })?;
        Ok((response, bytes))
    }
}
