//! Performing what the machine of an open file asks for.

use std::sync::Arc;

use bytes::Bytes;
use client_core::{Answer, Change, Effect, Failure, ProbeAnswer, SendOrder};
use proto::osd;
use shell::clock::boottime;
use shell::link::{CallError, Payload};
use types::{Instant, OsdId};

use crate::config::OBJECT_TIMEOUT;
use crate::file::File;
use crate::lock;
use crate::peer::failure_of;

impl File {
    pub(crate) fn perform(&self, effect: Effect) {
        let Some(this) = self.this.upgrade() else {
            return;
        };
        match effect {
            Effect::Send {
                token,
                attempt,
                osd,
                order,
                change,
            } => self.send_change(this, (token, attempt), osd, order, change),
            Effect::Renew => {
                let renew = async move { this.renew().await };
                self.shared.runtime.spawn(renew);
            }
            Effect::Probe { attempt, osd } => {
                if let Some(silent) = lock(&self.state).changes.target() {
                    self.shared.servers.missed(silent);
                }
                self.send_probe(this, attempt, osd);
            }
            Effect::CutOff(osd) => self.shared.servers.cut_off(osd),
            Effect::Settled { .. } | Effect::Lost | Effect::Stalled(_) | Effect::Resumed => {}
        }
    }

    fn send_change(
        &self,
        this: Arc<Self>,
        (token, attempt): (u64, u64),
        osd: OsdId,
        order: SendOrder,
        change: Change,
    ) {
        let change_id = order.change_id;
        let (op, payload) = match change {
            Change::Write { offset, bytes } => {
                let write = write_of(offset, false, order);
                (osd::request::Op::Write(write), Payload::of(bytes))
            }
            Change::Append { bytes } => {
                let write = write_of(0, true, order);
                (osd::request::Op::Write(write), Payload::of(bytes))
            }
            Change::Truncate { length } => {
                let truncate = osd::Truncate {
                    length_bytes: length,
                    change_id,
                    first_id: order.first_id,
                    first_session: order.first_session.0,
                    after: order.after,
                    ..osd::Truncate::default()
                };
                (osd::request::Op::Truncate(truncate), Payload::none())
            }
            Change::Sync => (
                osd::request::Op::Sync(osd::Sync::default()),
                Payload::none(),
            ),
        };
        let done = move |outcome: Result<osd::Response, CallError>| {
            let now = boottime();
            this.step(|state, out| match outcome {
                Ok(reply) => {
                    let answer = Answer {
                        change_id,
                        offset: reply.offset,
                        length: reply.length_bytes,
                    };
                    state
                        .changes
                        .answered(now, &this.shared.ids, token, answer, out);
                    state.read_route.found(osd);
                }
                Err(error) => {
                    let failure = this.failure(osd, &error);
                    let ids = &this.shared.ids;
                    state.changes.failed(now, ids, token, attempt, failure, out);
                }
            });
        };
        let way = lock(&self.state)
            .changes
            .route()
            .way(|osd| self.shared.servers.is_reached(osd));
        let way = way.filter(|way| way.forward_to == Some(osd));
        match way {
            Some(way) => self.post(way.osd, op, payload, Some(osd), done),
            None => self.post(osd, op, payload, None, done),
        }
    }

    fn send_probe(&self, this: Arc<Self>, attempt: u64, osd: OsdId) {
        let done = move |outcome: Result<osd::Response, CallError>| {
            let answer = match outcome {
                Ok(_) => ProbeAnswer::Primary(osd),
                Err(error) => match failure_of(&error) {
                    Failure::Redirect(Some(primary)) => ProbeAnswer::Primary(primary),
                    Failure::Refresh => ProbeAnswer::Refresh,
                    _ => ProbeAnswer::Nothing,
                },
            };
            let now = boottime();
            this.step(|state, out| {
                state
                    .changes
                    .probed(now, &this.shared.ids, (attempt, osd), answer, out);
            });
        };
        let op = osd::request::Op::Stat(osd::Stat {});
        self.post(osd, op, Payload::none(), None, done);
    }

    /// Sends a request, to be passed on if need be; `done` hears how it went, perhaps before this returns.
    fn post(
        &self,
        osd: OsdId,
        op: osd::request::Op,
        payload: Payload,
        forward_to: Option<OsdId>,
        done: impl FnOnce(Result<osd::Response, CallError>) + Send + 'static,
    ) {
        let Some(server) = self.shared.servers.get(osd) else {
            return done(Err(CallError::Disconnected(
                "unknown object server".to_owned(),
            )));
        };
        if let Some(error) = server.out_of_reach() {
            return done(Err(error));
        }
        let request = self.request(op, forward_to);
        let link = server.link.clone();
        link.send(&request, payload, OBJECT_TIMEOUT, move |outcome| {
            server.hear(&outcome);
            done(outcome.and_then(|(body, _)| decode(body)));
        });
    }

    pub(crate) fn request(
        &self,
        mut op: osd::request::Op,
        forward_to: Option<OsdId>,
    ) -> osd::Request {
        let (grant, renew) = {
            let mut state = lock(&self.state);
            // Together with the capability, whose session it is of.
            let follows = state.changes.follows();
            match &mut op {
                osd::request::Op::Write(write) => write.follows = follows,
                osd::request::Op::Truncate(truncate) => truncate.follows = follows,
                osd::request::Op::Sync(sync) => sync.follows = follows,
                _ => {}
            }
            let due = state.grant.renew_at <= boottime();
            if due {
                // Once per grant; a new one brings a new time.
                state.grant.renew_at = Instant::from_nanos(u64::MAX);
            }
            (state.grant.clone(), due)
        };
        if renew && let Some(this) = self.this.upgrade() {
            let renew = async move { this.renew().await };
            self.shared.runtime.spawn(renew);
        }
        osd::Request {
            object: Some(osd::ObjectRef {
                volume: self.shared.volume(),
                inode: self.inode,
                column: 0,
            }),
            pg: grant.pg,
            view: grant.view,
            capability: grant.capability,
            forward_to: forward_to.map_or(0, |osd| osd.0),
            op: Some(op),
        }
    }

    pub(crate) fn failure(&self, osd: OsdId, error: &CallError) -> Failure {
        tracing::debug!(
            inode = self.inode,
            server = self.shared.servers.name(osd),
            %error,
            "change not done"
        );
        failure_of(error)
    }
}

/// What it follows is added when it is sent, together with the capability.
fn write_of(offset: u64, append: bool, order: SendOrder) -> osd::Write {
    osd::Write {
        offset,
        append,
        change_id: order.change_id,
        first_id: order.first_id,
        first_session: order.first_session.0,
        after: order.after,
        ..osd::Write::default()
    }
}

fn decode(body: Bytes) -> Result<osd::Response, CallError> {
    prost::Message::decode(body).map_err(|error| {
        CallError::Fault(types::Fault::surface(
            libc::EPROTO,
            format!("an object server's reply is not decodable: {error}"),
        ))
    })
}
