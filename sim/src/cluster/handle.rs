//! An open file of a mount, and the program that uses it: it opens a name, reads and writes for a
//! while, closes it, and begins anew.

mod answers;
mod changing;
mod reading;
mod rights;

use client_core::{Change, ChangeLimits, Changes, Route};
use osd_core::ObjectKey;
use proto::mrc::{self, request, response};
use rand::RngExt;
use types::{Duration, Inode, ObjectId};

use crate::cluster::content::{
    Content, Keeps, Known, MOUNTS, OFFSETS, REGISTERS, Record, length_of, register_bytes,
};
use crate::cluster::happening::Right;
use crate::cluster::mount::{Asker, is_log};
use crate::cluster::shell::ESTALE;
use crate::cluster::world::World;
use crate::network::percent;
use crate::time::TrueTime;
use rights::{fresh_until, members_of, open_of, right_of};

const EAGAIN: i32 = 11;
const ENOSPC: i32 = 28;

/// What a request to an object server was.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Change {
        token: u64,
        attempt: u64,
        change_id: u64,
    },
    Probe {
        attempt: u64,
    },
    Read,
}

impl Kind {
    pub(crate) const fn patience(self) -> Duration {
        match self {
            // Longer than a connection lives that nothing comes through.
            Self::Change { .. } | Self::Probe { .. } => Duration::from_secs(10),
            Self::Read => Duration::from_millis(700),
        }
    }
}

#[derive(Clone, Debug)]
enum Goal {
    Write {
        register: usize,
        value: u64,
    },
    Length {
        value: u64,
    },
    Append {
        id: u64,
        words: usize,
    },
    Read {
        register: usize,
    },
    ReadRecord {
        record: Record,
    },
    Stat,
    Sync,
    /// The metadata cluster is told of it.
    Tell,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    Looking,
    Creating,
    Opening,
    Ready(Box<Open>),
    Closing,
}

/// An open file.
#[derive(Debug)]
struct Open {
    key: ObjectKey,
    serial: u64,
    changes: Changes,
    read_route: Route,
    /// Under way, since when, and what was known then.
    goal: Option<(Goal, TrueTime, Known)>,
    token: u64,
    /// When to read (again).
    read_at: Option<TrueTime>,
    reading: Option<u64>,
    renew_at: Option<TrueTime>,
    /// It is under way.
    renewing: bool,
    right: Right,
    /// The session in which it is open.
    session: u64,
    /// When the right should be renewed.
    fresh_until: TrueTime,
    /// There is no such file any more.
    gone: bool,
    left: u32,
    end: u64,
    /// Losses of power before the newest acknowledged change was asked for.
    acked_losses: Option<u64>,
    /// The same in an earlier session: who asked in that one may be answered late.
    earlier_losses: Option<u64>,
}

/// A handle.
#[derive(Debug, Default)]
pub(crate) struct Handle {
    stage: Stage,
    name: Vec<u8>,
    write: bool,
    /// When the program goes on.
    at: TrueTime,
    /// The inode that the mount keeps in memory, from before it is opened until it is closed.
    pub(crate) entered: Option<u64>,
    /// The leader was told that it is open, and not that it is not any more.
    pub(crate) registered: bool,
}

impl Handle {
    pub(crate) const fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    pub(crate) const fn is_creating(&self) -> bool {
        matches!(self.stage, Stage::Creating)
    }

    pub(crate) fn inode(&self) -> Option<u64> {
        match &self.stage {
            Stage::Ready(open) => Some(open.key.object.inode.0),
            _ => None,
        }
    }

    pub(crate) fn target(&self) -> Option<(ObjectKey, u64)> {
        match &self.stage {
            Stage::Ready(open) => Some((open.key, open.serial)),
            _ => None,
        }
    }

    pub(crate) fn session(&self) -> Option<u64> {
        match &self.stage {
            Stage::Ready(open) => Some(open.session),
            _ => None,
        }
    }

    pub(crate) fn right(&self) -> Right {
        match &self.stage {
            Stage::Ready(open) => open.right.clone(),
            _ => Right::default(),
        }
    }

    pub(crate) fn describe(&self) -> String {
        match &self.stage {
            Stage::Ready(open) => format!(
                "{} write {} {:?} at {:?}",
                open.key,
                self.write,
                open.goal,
                open.changes.target()
            ),
            other => format!("{other:?}"),
        }
    }

    pub(crate) fn next_turn(&self, stopping: bool) -> Option<TrueTime> {
        match &self.stage {
            Stage::Idle => (!stopping).then_some(self.at),
            Stage::Ready(open) => {
                let changes = open.changes.next_wakeup();
                let changes = changes.map(|at| TrueTime(at.as_nanos()));
                let at = open.goal.is_none().then_some(self.at);
                let fresh = (!open.renewing && !open.gone).then_some(open.fresh_until);
                [changes, open.read_at, open.renew_at, fresh, at]
                    .into_iter()
                    .flatten()
                    .min()
            }
            _ => None,
        }
    }

    fn ready(&mut self) -> Option<&mut Open> {
        match &mut self.stage {
            Stage::Ready(open) => Some(open),
            _ => None,
        }
    }
}

impl World {
    fn handle(&mut self, mount: usize, handle: usize) -> &mut Handle {
        &mut self.mounts[mount].handles[handle]
    }

    pub(crate) fn content(&mut self, inode: u64, log: bool) -> &mut Content {
        let losses = self.losses;
        let (plan, rules) = (&self.plan, &mut self.contents);
        rules.entry(inode).or_insert_with(|| {
            let keeps = Keeps {
                loses: plan.loses(),
                reads_lose: plan.beyond_majority,
                is_stable: plan.is_stable(),
            };
            Content::new(log, losses, keeps)
        })
    }

    pub(crate) fn handle_turn(&mut self, mount: usize, index: usize) {
        let now = self.schedule.now();
        let stopping = self.stopping;
        let handle = self.handle(mount, index);
        match &mut handle.stage {
            Stage::Idle if handle.at <= now && !stopping => {
                let name = self.any_name();
                let write = percent(&mut self.rng, 70);
                let handle = self.handle(mount, index);
                handle.name.clone_from(&name);
                handle.write = write;
                handle.stage = Stage::Looking;
                let op = request::Op::Lookup(mrc::Lookup {
                    parent: mrc_core::ROOT.0,
                    name: name.into(),
                });
                self.ask_metadata(mount, Asker::Handle(index), op, false);
            }
            Stage::Ready(open) => {
                let reads = open.read_at.is_some_and(|at| at <= now);
                let due = open.renew_at.is_some_and(|at| at <= now);
                let renews = due || !open.gone && open.fresh_until <= now;
                let begins = open.goal.is_none() && handle.at <= now;
                self.change(mount, index, |changes, now, ids, out| {
                    changes.tick(now, ids, out);
                });
                if renews {
                    self.renews(mount, index);
                }
                if reads {
                    self.send_read(mount, index);
                }
                if begins {
                    self.begin(mount, index);
                }
            }
            _ => {}
        }
    }

    // ---- opening and closing

    pub(crate) fn handle_answered(
        &mut self,
        mount: usize,
        index: usize,
        session: u64,
        result: mrc_core::Reply,
    ) {
        let reply = match &result {
            Ok(response) => Ok(response.reply.as_ref()),
            Err(fault) => Err(fault.errno),
        };
        let handle = self.handle(mount, index);
        let write = handle.write;
        match (&handle.stage, reply) {
            (Stage::Looking, Ok(Some(response::Reply::Entry(entry)))) => {
                let inode = entry.attr.map_or(0, |attr| attr.inode);
                if !self.mounts[mount].may_enter(inode) {
                    return self.rest(mount, index);
                }
                let handle = self.handle(mount, index);
                handle.stage = Stage::Opening;
                handle.entered = Some(inode);
                let op = open_of(inode, write);
                self.ask_metadata(mount, Asker::Handle(index), op, write);
            }
            (Stage::Looking, Err(2)) => {
                handle.write = true;
                handle.stage = Stage::Creating;
                let op = request::Op::Create(mrc::Create {
                    parent: mrc_core::ROOT.0,
                    name: handle.name.clone().into(),
                    mode: 0o644,
                    owner: Some(mrc::Owner::default()),
                    exclusive: true,
                    write: true,
                });
                self.ask_metadata(mount, Asker::Handle(index), op, true);
            }
            (Stage::Creating | Stage::Opening, Ok(Some(response::Reply::Opened(opened)))) => {
                let inode = opened.attr.map_or(0, |attr| attr.inode);
                let grant = opened.grant.clone().unwrap_or_default();
                self.coverage.created += u64::from(!opened.existed);
                if !grant.capability.is_empty() {
                    return self.opened(mount, index, (inode, session), &grant);
                }
                // Opened in a session that has ended: once more, in the present one.
                let handle = self.handle(mount, index);
                handle.stage = Stage::Opening;
                handle.entered = Some(inode);
                let op = open_of(inode, write);
                self.ask_metadata(mount, Asker::Handle(index), op, write);
            }
            // Somebody was faster.
            (Stage::Creating, Err(17)) | (Stage::Looking | Stage::Opening, Err(116)) => {
                self.rest(mount, index);
            }
            (Stage::Closing, Ok(_)) => match handle.entered {
                Some(inode) if std::mem::take(&mut handle.registered) => {
                    let op = request::Op::Release(mrc::Release { inode });
                    self.ask_metadata(mount, Asker::Handle(index), op, false);
                }
                _ => {
                    self.coverage.done += 1;
                    self.rest(mount, index);
                }
            },
            // The file was truncated meanwhile: the object knows how long it is.
            (Stage::Closing, Err(EAGAIN)) => {
                if let Some(inode) = handle.entered {
                    let op = written(inode, 0, true);
                    self.ask_metadata(mount, Asker::Handle(index), op, true);
                }
            }
            // It was removed while the session was over.
            (Stage::Closing, Err(ESTALE)) => self.rest(mount, index),
            (Stage::Ready(_), Ok(_) | Err(EAGAIN | ESTALE)) => {
                if let Some(open) = self.handle(mount, index).ready() {
                    open.goal = None;
                }
            }
            (stage, reply) => {
                let wrong = format!("mount {mount} is told {reply:?} in stage {stage:?}");
                self.report(wrong);
            }
        }
    }

    fn rest(&mut self, mount: usize, index: usize) {
        let at = self.schedule.now() + self.between(1, 300);
        let handle = self.handle(mount, index);
        handle.stage = Stage::Idle;
        handle.at = at;
        handle.entered = None;
        handle.registered = false;
        self.drop_old_calls(mount);
    }

    fn opened(
        &mut self,
        mount: usize,
        index: usize,
        (inode, session): (u64, u64),
        grant: &mrc::Grant,
    ) {
        let now = self.schedule.now();
        let key = ObjectKey {
            pg: types::PgId(grant.pg),
            object: ObjectId {
                volume: self.meta.volume,
                inode: Inode(inode),
                column: 0,
            },
        };
        let members = members_of(grant);
        self.next_id += 1;
        let serial = self.next_id;
        let left = self.rng.random_range(0..40);
        let log = is_log(&self.handle(mount, index).name);
        self.content(inode, log);
        self.keys.insert(inode, key);
        let mut changes = Changes::new(Route::new(members.clone()), ChangeLimits::default(), None);
        let state = &self.mounts[mount];
        changes.enter_session(&state.ids, types::SessionId(session));
        let open = Open {
            key,
            serial,
            changes,
            read_route: Route::new(members),
            goal: None,
            token: 0,
            read_at: None,
            reading: None,
            renew_at: None,
            renewing: false,
            right: right_of(grant),
            session,
            fresh_until: fresh_until(now, grant),
            gone: false,
            left,
            end: 0,
            acked_losses: None,
            earlier_losses: None,
        };
        let handle = self.handle(mount, index);
        handle.stage = Stage::Ready(Box::new(open));
        handle.at = now;
        handle.entered = Some(inode);
        handle.registered |= !handle.write;
        self.reopen(mount, index);
    }

    fn close(&mut self, mount: usize, index: usize) {
        let handle = self.handle(mount, index);
        let write = handle.write;
        let Stage::Ready(open) = std::mem::replace(&mut handle.stage, Stage::Closing) else {
            return;
        };
        let inode = open.key.object.inode.0;
        self.drop_old_calls(mount);
        let op = match write {
            true => {
                if let Some(content) = self.contents.get_mut(&inode) {
                    content.owes_nothing(mount);
                }
                written(inode, open.end, true)
            }
            false => {
                self.handle(mount, index).registered = false;
                request::Op::Release(mrc::Release { inode })
            }
        };
        self.ask_metadata(mount, Asker::Handle(index), op, write);
    }

    // ---- the program

    fn begin(&mut self, mount: usize, index: usize) {
        let now = self.schedule.now();
        let stopping = self.stopping;
        let handle = self.handle(mount, index);
        let write = handle.write;
        let Some(open) = handle.ready() else {
            return;
        };
        if open.left == 0 || stopping || open.gone {
            if !open.renewing {
                return self.close(mount, index);
            }
            // Opening and closing go one after the other.
            self.handle(mount, index).at = now + Duration::from_millis(20);
            return;
        }
        open.left -= 1;
        let inode = open.key.object.inode.0;
        let goal = self.any_goal(mount, inode, write);
        let register = match &goal {
            Goal::Read { register } | Goal::Write { register, .. } => *register,
            _ => 0,
        };
        let Some(known) = self.contents.get(&inode).map(|one| one.known(register)) else {
            return;
        };
        let change = match &goal {
            Goal::Write { register, value } => Some(Change::Write {
                offset: OFFSETS[*register],
                bytes: register_bytes(*register, *value).into(),
            }),
            Goal::Length { value } => Some(Change::Truncate {
                length: length_of(*value),
            }),
            Goal::Append { id, words } => Some(Change::Append {
                bytes: id.to_le_bytes().repeat(*words).into(),
            }),
            Goal::Sync => Some(Change::Sync),
            Goal::Read { .. } | Goal::ReadRecord { .. } | Goal::Stat | Goal::Tell => None,
        };
        if let Some(open) = self.handle(mount, index).ready() {
            open.goal = Some((goal, now, known));
        }
        match change {
            Some(change) => {
                let mut token = 0;
                // Set before effects are looked at: none settles it at once.
                self.change(mount, index, |changes, now, ids, out| {
                    token = changes.add(now, ids, change, out);
                });
                if let Some(open) = self.handle(mount, index).ready() {
                    open.token = token;
                }
            }
            None => self.send_read(mount, index),
        }
    }

    fn any_goal(&mut self, mount: usize, inode: u64, write: bool) -> Goal {
        let log = self.contents.get(&inode).is_some_and(|one| one.log);
        let choice = self.rng.random_range(0..12);
        self.next_id += 1;
        let id = self.next_id;
        let words = self.rng.random_range(1..400);
        let reads = self.rng.random_range(0..REGISTERS);
        let mine = mount + MOUNTS * self.rng.random_range(0..REGISTERS / MOUNTS);
        let record = self.rng.random_range(0..1_000_usize);
        let content = self.content(inode, log);
        let records = content.appended();
        match choice {
            0 if write => Goal::Sync,
            1 => Goal::Stat,
            2..=4 if log && !records.is_empty() => Goal::ReadRecord {
                record: records[record % records.len()].clone(),
            },
            _ if log && write => {
                content.ask_append(id, words);
                Goal::Append { id, words }
            }
            2 if write && mount == 0 => Goal::Length {
                value: content.ask_length(),
            },
            6.. if write => Goal::Write {
                register: mine,
                value: content.ask(mine),
            },
            _ if log => Goal::Stat,
            _ => Goal::Read { register: reads },
        }
    }
}

fn written(inode: u64, size_at_least_bytes: u64, close: bool) -> request::Op {
    request::Op::Written(mrc::Written {
        inode,
        size_at_least_bytes,
        mtime_ns: None,
        close,
        stays_open: false,
        // No mount has heard of a truncation: one that has happened is always news.
        truncate_epoch: 0,
    })
}
