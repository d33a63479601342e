//! A session that has ended, and the next one: the rules of `client-fuse/src/metadata.rs` and `files.rs`.

use client_core::{Slot, Slots};
use proto::mrc::{self, request, response};
use rand::RngExt as _;

use super::{Asker, HANDLES, Mount};
use crate::cluster::world::World;
use crate::time::TrueTime;

/// A request that waits for a new session is not sent meanwhile.
const PARKED: TrueTime = TrueTime(u64::MAX);

const EINVAL: i32 = 22;

impl Mount {
    /// The request in the present session, with a slot of it if it changes something.
    pub(super) fn in_session(
        &mut self,
        request: mrc::Request,
        changes: bool,
    ) -> (Option<Slot>, mrc::Request) {
        let slot = changes.then(|| self.slots.take()).flatten();
        let opens = matches!(request.op, Some(request::Op::OpenSession(_)));
        let request = mrc::Request {
            session: if opens { 0 } else { self.session },
            slot: slot.map_or(0, |slot| slot.number),
            slot_seq: slot.map_or(0, |slot| slot.seq),
            ..request
        };
        (slot, request)
    }
}

impl World {
    /// A request is refused because its session has ended: it was not done, and goes again in a new one.
    pub(super) fn session_is_over(&mut self, mount: usize, id: u64) {
        let state = &mut self.mounts[mount];
        let present = state.session;
        let Some(call) = state.metas.get_mut(&id) else {
            return;
        };
        call.sent = false;
        call.failures = 0;
        if call.request.session != present {
            return self.asks_again(mount, id);
        }
        call.at = PARKED;
        let mut metas = state.metas.values();
        if metas.any(|call| call.asker == Asker::NewSession) {
            return;
        }
        self.opens_session(mount);
    }

    fn opens_session(&mut self, mount: usize) {
        let open = mrc::OpenSession {
            volume: "v".to_owned(),
            nonce: self.rng.random_range(1_000..=u64::MAX),
            ..mrc::OpenSession::default()
        };
        let op = request::Op::OpenSession(open);
        self.ask_metadata(mount, Asker::NewSession, op, false);
    }

    /// The request in the present session, under a number of its own: it is another change.
    fn asks_again(&mut self, mount: usize, id: u64) {
        let now = self.schedule.now();
        self.next_id += 1;
        let again = self.next_id;
        let state = &mut self.mounts[mount];
        let Some(mut call) = state.metas.remove(&id) else {
            return;
        };
        (call.slot, call.request) = state.in_session(call.request, call.slot.is_some());
        call.change = again;
        call.attempt = 0;
        call.at = now;
        state.metas.insert(again, call);
        self.meta_due(mount, again);
        self.plan_mount(mount);
    }

    pub(super) fn session_opened(&mut self, mount: usize, result: mrc_core::Reply) {
        let opened = match result {
            Ok(mrc::Response {
                reply: Some(response::Reply::SessionOpened(opened)),
            }) => opened,
            // This nonce opened one that has ended before it was heard of.
            Err(fault) if fault.errno == EINVAL => return self.opens_session(mount),
            other => return self.report(format!("mount {mount} gets no session: {other:?}")),
        };
        self.coverage.sessions += 1;
        let state = &mut self.mounts[mount];
        state.session = opened.session;
        state.slots = Slots::new(opened.slot_count.max(1));
        let metas = state.metas.iter();
        let parked = metas.filter(|(_, call)| call.at == PARKED);
        for id in parked.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.asks_again(mount, id);
        }
        for handle in 0..HANDLES {
            self.reopen(mount, handle);
        }
    }
}
