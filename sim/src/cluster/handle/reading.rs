//! Reads of the program at an open file.

use crate::cluster::content::{OFFSETS, REGISTER_BYTES};
use crate::cluster::handle::{Goal, Kind};
use crate::cluster::shell::ESTALE;
use crate::cluster::world::World;
use crate::network::percent;
use crate::time::TrueTime;
use client_core::{Failure, Next};
use osd_core::{Done, Op};
use rand::RngExt as _;
use types::{Duration, OsdId};

impl World {
    pub(super) fn send_read(&mut self, mount: usize, index: usize) {
        let Some(open) = self.handle(mount, index).ready() else {
            return;
        };
        open.read_at = None;
        let op = match &open.goal {
            Some((Goal::Read { register }, ..)) => Op::Read {
                offset: OFFSETS[*register],
                length_bytes: REGISTER_BYTES as u32,
            },
            Some((Goal::ReadRecord { record }, ..)) => Op::Read {
                offset: record.offset,
                length_bytes: record.words as u32 * 8,
            },
            _ => Op::Stat,
        };
        if let Some(osd) = open.read_route.target() {
            self.ask_object((mount, index), osd, Kind::Read, op);
            let call = self.next_id;
            if let Some(open) = self.handle(mount, index).ready() {
                open.reading = Some(call);
            }
        }
    }

    pub(super) fn read_failed(&mut self, mount: usize, index: usize, call: u64, failure: Failure) {
        let now = self.schedule.now();
        let gone = self.meta.names.removed.clone();
        let Some(open) = self.handle(mount, index).ready() else {
            return;
        };
        if open.reading != Some(call) {
            return;
        }
        open.reading = None;
        let inode = open.key.object.inode.0;
        let removed = gone.contains(&inode);
        let wait = match open.read_route.failed(failure) {
            Next::After(wait) => wait.max(Duration::from_micros(1)),
            Next::Renew => {
                open.renew_at = Some(now + Duration::from_micros(1));
                Duration::from_millis(50)
            }
            Next::GiveUp(ESTALE) if removed => {
                open.gone = true;
                let begun = open.goal.take().map_or(now, |(_, begun, _)| begun);
                return self.achieved(mount, index, begun);
            }
            Next::GiveUp(errno) => {
                let wrong = format!("a read of {} fails with errno {errno}", open.key);
                return self.report(wrong);
            }
        };
        open.read_at = Some(now + wait);
    }

    pub(super) fn read_done(
        &mut self,
        mount: usize,
        index: usize,
        (call, osd): (u64, OsdId),
        done: &Done,
    ) {
        let Some(open) = self.handle(mount, index).ready() else {
            return;
        };
        if open.reading != Some(call) {
            return;
        }
        open.reading = None;
        open.read_route.found(osd);
        open.read_route.answered();
        let inode = open.key.object.inode.0;
        let Some((goal, begun, known)) = open.goal.take() else {
            return;
        };
        let Some(content) = self.contents.get_mut(&inode) else {
            return;
        };
        let right = match &goal {
            Goal::Read { register } => content.read(*register, &known, &done.payload),
            Goal::ReadRecord { record } => content.read_record(record, &known, &done.payload),
            _ => content.stat(&known, done.length_bytes),
        };
        self.achieved(mount, index, begun);
        let removed = self.meta.names.removed.contains(&inode);
        if let Err(wrong) = right
            && !removed
        {
            self.report(format!(
                "{goal:?} of inode {inode} by mount {mount}: {wrong}"
            ));
        }
    }

    pub(super) fn achieved(&mut self, mount: usize, index: usize, begun: TrueTime) {
        let now = self.schedule.now();
        self.coverage.done += 1;
        let took = Duration::from_nanos(now.0 - begun.0);
        self.coverage.longest = self.coverage.longest.max(took);
        let pause = match percent(&mut self.rng, 5) {
            true => self.between(50, 300),
            false => Duration::from_micros(self.rng.random_range(100..20_000)),
        };
        self.handle(mount, index).at = now + pause;
    }
}
