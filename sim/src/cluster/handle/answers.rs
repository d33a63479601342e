//! What object servers answer the program at an open file.

use crate::cluster::handle::Kind;
use crate::cluster::world::World;
use client_core::{Answer, Failure, ProbeAnswer};
use osd_core::Done;
use types::{Fault, Remedy};

impl World {
    pub(crate) fn object_gone(&mut self, mount: usize, call: u64) {
        self.object_failed(mount, call, Failure::Gone);
        self.plan_mount(mount);
    }

    pub(super) fn object_failed(&mut self, mount: usize, id: u64, failure: Failure) {
        let Some(call) = self.mounts[mount].objects.remove(&id) else {
            return;
        };
        let (index, osd) = (call.handle, call.osd);
        match call.kind {
            Kind::Change { token, attempt, .. } => {
                self.change(mount, index, |changes, now, ids, out| {
                    changes.failed(now, ids, token, attempt, failure, out);
                });
            }
            Kind::Probe { attempt } => {
                let answer = match failure {
                    Failure::Redirect(Some(primary)) => ProbeAnswer::Primary(primary),
                    Failure::Refresh => ProbeAnswer::Refresh,
                    _ => ProbeAnswer::Nothing,
                };
                self.change(mount, index, |changes, now, ids, out| {
                    changes.probed(now, ids, (attempt, osd), answer, out);
                });
            }
            Kind::Read => self.read_failed(mount, index, id, failure),
        }
    }

    pub(crate) fn object_answered(&mut self, mount: usize, id: u64, result: Result<Done, Fault>) {
        match result {
            Err(fault) => self.object_failed(mount, id, failure_of(&fault)),
            Ok(done) => {
                let Some(call) = self.mounts[mount].objects.remove(&id) else {
                    return;
                };
                let (index, osd) = (call.handle, call.osd);
                match call.kind {
                    Kind::Change {
                        token, change_id, ..
                    } => {
                        let answer = Answer {
                            change_id,
                            offset: done.offset,
                            length: done.length_bytes,
                        };
                        if let Some(open) = self.handle(mount, index).ready() {
                            open.read_route.found(osd);
                        }
                        self.change(mount, index, |changes, now, ids, out| {
                            changes.answered(now, ids, token, answer, out);
                        });
                    }
                    Kind::Probe { attempt } => {
                        let answer = ProbeAnswer::Primary(osd);
                        self.change(mount, index, |changes, now, ids, out| {
                            changes.probed(now, ids, (attempt, osd), answer, out);
                        });
                    }
                    Kind::Read => self.read_done(mount, index, (id, osd), &done),
                }
            }
        }
        self.plan_mount(mount);
    }
}

fn failure_of(fault: &Fault) -> Failure {
    if fault.is_changes_lost() {
        return Failure::Lost;
    }
    if fault.is_out_of_order() {
        return Failure::OutOfOrder;
    }
    match fault.remedy {
        Remedy::Retry => Failure::Retry,
        Remedy::Redirect => Failure::Redirect(fault.osd_hint),
        Remedy::Refresh => Failure::Refresh,
        Remedy::Surface => Failure::Surface(fault.errno),
    }
}
