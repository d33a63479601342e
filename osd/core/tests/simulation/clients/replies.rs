//! What clients make of answers.

use types::Remedy;

use super::{CLIENTS, Goal};
use crate::faults::Fault;
use crate::full_disks::ENOSPC;
use crate::lease_model::MS;
use crate::oracle::{Record, SHARED};
use crate::world::{Event, Reply, Target, World};

impl World {
    pub(super) fn client_reply(&mut self, request: u64, result: Reply) -> Result<(), String> {
        let index = (request % CLIENTS as u64) as usize;
        let now = self.now;
        let client = &mut self.clients.clients[index];
        let Some(goal) = client.goal.clone().filter(|_| client.waits_for(request)) else {
            return Ok(());
        };
        let done = match result {
            Ok(done) => done,
            Err(fault) if fault.is_changes_lost() => {
                let none = client.follows_losses == self.clients.oracle.losses;
                if none && !self.plan.loses() && !self.holders.lost_any_of(index) {
                    return Err(format!("client {index}: told of a loss that was none"));
                }
                client.follows = 0;
                client.wait_for_nothing();
                client.resend_at = now;
                self.clients.oracle.told_lost(index);
                self.plan_turn(index, now + MS);
                return Ok(());
            }
            Err(fault) if fault.errno == ENOSPC => {
                if let Goal::Append { id, .. } = goal {
                    // The program gets an error; an earlier attempt may have been done.
                    client.goal = None;
                    client.known = Default::default();
                    if client.first_id == client.change_id {
                        self.clients.refused.insert(id);
                    }
                }
                let client = &mut self.clients.clients[index];
                client.wait_for_nothing();
                client.resend_at = now;
                let at = now + self.rng.between(5, 200) * MS;
                self.plan_turn(index, at);
                return Ok(());
            }
            Err(fault) if fault.remedy == Remedy::Surface => {
                return Err(format!("client {index}: {fault:?}"));
            }
            Err(fault) => {
                let nodes = self.nodes.len() as u64;
                let elsewhere = match fault.osd_hint {
                    Some(hint) => hint.0 as usize - 1,
                    None if fault.remedy == Remedy::Retry && self.rng.once_in(2) => client.node,
                    None => self.rng.below(nodes) as usize,
                };
                client.node = elsewhere;
                // Sent again at the client's next turn, or soon.
                client.wait_for_nothing();
                client.resend_at = now;
                let at = now + self.rng.between(5, 60) * MS;
                self.plan_turn(index, at);
                return Ok(());
            }
        };
        if let Some(write) = client.take_write(request) {
            self.write_acked(index, &write);
        }
        let client = &mut self.clients.clients[index];
        if matches!(&client.goal, Some(Goal::Write { writes }) if !writes.is_empty()) {
            // The other one is not answered yet.
            return Ok(());
        }
        let known = std::mem::take(&mut client.known);
        client.goal = None;
        let begun_at = client.begun_at;
        self.clients.longest = self.clients.longest.max(now - begun_at);
        self.clients.done += 1;
        let changes = matches!(goal, Goal::Length { .. } | Goal::Append { .. });
        let ids = (client.first_id, client.first_session);
        let followed = changes && client.acknowledged(ids, known.losses);
        let oracle = &mut self.clients.oracle;
        match &goal {
            Goal::Length { value } if followed => oracle.length.owed = *value,
            Goal::Append { id, bytes, .. } if followed => {
                let (id, offset, bytes) = (*id, done.offset, bytes.clone());
                oracle
                    .owed_appends
                    .push((index, Record { id, offset, bytes }));
            }
            _ => {}
        }
        let lost = known.losses != oracle.losses || self.plan.loses();
        match goal {
            Goal::Length { value } if !lost => oracle.length_acked(value),
            Goal::Append { id, bytes, .. } if !lost => {
                let offset = done.offset;
                self.holders.acked(index, request, id);
                // Who had it may have died since the answer left.
                if !self.holders.may_be_lost(id) {
                    oracle.append_acked(Record { id, offset, bytes })?;
                }
            }
            Goal::Write { .. } | Goal::Length { .. } | Goal::Append { .. } => {}
            Goal::Read { register: SHARED } => {
                let lost = lost || self.plan.beyond_majority;
                oracle.shared.read((begun_at, now), &done.payload, lost)?;
            }
            Goal::Read { register } => oracle.read(register, &known, &done.payload)?,
            Goal::ReadRecord { record } => {
                // It may have been lost with the power before this was asked.
                let still = oracle.appended.contains(&record);
                if !lost && still && done.payload != record.bytes {
                    return Err(format!("append {:#x} is not read as written", record.id));
                }
            }
            Goal::Stat if self.clients.appends => {}
            Goal::Stat => oracle.stat(&known, done.length_bytes)?,
            Goal::Sync => {
                if !self.plan.loses() {
                    oracle.synced(&known);
                }
                oracle.synced_by(index)?;
                self.schedule(now, Target::World, Event::Inject(Fault::Synced));
            }
        }
        if self.plan.is_stable() && !lost {
            self.clients.oracle.acked_is_durable();
        }
        let pause = match self.rng.below(20) {
            0 => self.rng.between(50, 300) * MS,
            _ => self.rng.between(100, 20_000) * 1_000,
        };
        self.plan_turn(index, now + pause);
        Ok(())
    }
}
