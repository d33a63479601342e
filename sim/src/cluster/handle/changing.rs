//! Changes of the program at an open file.

use crate::cluster::content::{Record, length_of};
use crate::cluster::handle::{ENOSPC, Goal, Kind, written};
use crate::cluster::mount::Asker;
use crate::cluster::plan::Ailment;
use crate::cluster::shell::ESTALE;
use crate::cluster::world::World;
use bytes::Bytes;
use client_core::{Answer, Change, Changes, Effect, SendOrder};
use osd_core::{ChangeOrder, Op, Payload};
use proto::mrc::{self, request};
use types::{Duration, Instant};

impl World {
    pub(super) fn change(
        &mut self,
        mount: usize,
        index: usize,
        work: impl FnOnce(&mut Changes, Instant, &client_core::IdSource, &mut Vec<Effect>),
    ) {
        let now = Instant::from_nanos(self.schedule.now().0);
        let mut out = Vec::new();
        let state = &mut self.mounts[mount];
        let Some(open) = state.handles[index].ready() else {
            return;
        };
        work(&mut open.changes, now, &state.ids, &mut out);
        for effect in out {
            self.perform_change(mount, index, effect);
        }
    }

    pub(super) fn perform_change(&mut self, mount: usize, index: usize, effect: Effect) {
        let now = self.schedule.now();
        let Some(open) = self.handle(mount, index).ready() else {
            return;
        };
        match effect {
            Effect::Send {
                token,
                attempt,
                osd,
                order,
                change,
            } => {
                let op = op_of(change, order, open.changes.follows());
                let kind = Kind::Change {
                    token,
                    attempt,
                    change_id: order.change_id,
                };
                self.ask_object((mount, index), osd, kind, op);
            }
            Effect::Probe { attempt, osd } => {
                self.ask_object((mount, index), osd, Kind::Probe { attempt }, Op::Stat);
            }
            Effect::Renew => open.renew_at = Some(now + Duration::from_millis(50)),
            Effect::Settled {
                token,
                outcome,
                end,
                truncates: _,
            } => {
                open.end = open.end.max(end);
                if token == open.token {
                    self.settled(mount, index, outcome);
                }
            }
            Effect::Lost => {
                self.coverage.told += 1;
                let losses = self.losses;
                let Some(open) = self.handle(mount, index).ready() else {
                    return;
                };
                let (inode, acked) = (open.key.object.inode.0, open.acked_losses.take());
                let earlier = open.earlier_losses.take();
                let mut known = [acked, earlier].into_iter().flatten();
                let covered = known.all(|known| known == losses);
                if covered && !self.plan.loses() && !self.meta.names.removed.contains(&inode) {
                    self.report(format!("mount {mount} is told of a loss that was none"));
                }
                if let Some(content) = self.contents.get_mut(&inode) {
                    content.owes_nothing(mount);
                }
            }
            Effect::Stalled(_) | Effect::Resumed | Effect::CutOff(_) => {}
        }
    }

    pub(super) fn settled(&mut self, mount: usize, index: usize, outcome: Result<Answer, i32>) {
        let Some(open) = self.handle(mount, index).ready() else {
            return;
        };
        let (inode, key, end) = (open.key.object.inode.0, open.key, open.end);
        let Some((goal, begun, known)) = open.goal.take() else {
            return;
        };
        let answer = match outcome {
            Ok(answer) => answer,
            // Removed while the session was over.
            Err(ESTALE) if self.meta.names.removed.contains(&inode) => {
                if let Some(open) = self.handle(mount, index).ready() {
                    open.gone = true;
                }
                return self.achieved(mount, index, begun);
            }
            // A primary whose disk is full says so, however much room the others have.
            Err(ENOSPC) if self.plan.ailment == Ailment::Full => {
                if let (Goal::Append { id, .. }, Some(content)) =
                    (&goal, self.contents.get_mut(&inode))
                {
                    content.gives_up(*id);
                }
                return self.achieved(mount, index, begun);
            }
            Err(errno) => {
                return self.report(format!("{goal:?} of {key} fails with errno {errno}"));
            }
        };
        if !matches!(goal, Goal::Sync) {
            open.acked_losses = Some(known.losses);
        }
        let mut tell = None;
        let removed = self.meta.names.removed.contains(&inode);
        let Some(content) = self.contents.get_mut(&inode) else {
            return;
        };
        let right = match &goal {
            Goal::Write { register, value } => {
                content.write_acked(*register, *value, &known);
                Ok(())
            }
            Goal::Length { value } => {
                content.length_acked(*value, &known);
                tell = Some(request::Op::SetAttr(mrc::SetAttr {
                    inode,
                    size_bytes: Some(length_of(*value)),
                    ..mrc::SetAttr::default()
                }));
                Ok(())
            }
            Goal::Append { id, words } => {
                let (id, offset, words) = (*id, answer.offset, *words);
                let record = Record { id, offset, words };
                content.append_acked(mount, record, &known)
            }
            _ => {
                tell = Some(written(inode, end, false));
                let synced = content.synced(mount, &known);
                self.coverage.syncs += 1;
                self.synced_now();
                synced
            }
        };
        self.achieved(mount, index, begun);
        // What is written to a removed file is not kept.
        if let Err(wrong) = right
            && !removed
        {
            self.report(wrong);
        }
        if let Some(op) = tell {
            if let Some(open) = self.handle(mount, index).ready() {
                if matches!(goal, Goal::Length { .. }) {
                    open.end = 0;
                }
                open.goal = Some((Goal::Tell, begun, known));
            }
            self.ask_metadata(mount, Asker::Handle(index), op, true);
        }
    }
}

fn op_of(change: Change, order: SendOrder, follows: u64) -> Op {
    let order = ChangeOrder {
        change_id: order.change_id,
        first_id: order.first_id,
        first_session: order.first_session,
        after: order.after,
        follows,
    };
    let write = |offset, bytes: Bytes, append| Op::Write {
        offset,
        data: Payload::of(bytes),
        append,
        order,
    };
    match change {
        Change::Write { offset, bytes } => write(offset, bytes, false),
        Change::Append { bytes } => write(0, bytes, true),
        Change::Truncate { length } => Op::Truncate {
            length_bytes: length,
            order,
        },
        Change::Sync => Op::Sync { follows },
    }
}
