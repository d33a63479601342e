//! What a replica asks for, done by the simulated server.

use osd_core::{Effect, Input, ObjectReplica};
use proto::peer;
use types::Instant;

use crate::lease_model::MS;
use crate::sets::Settling;
use crate::world::{Event, World, node_of};

impl World {
    pub(crate) fn plan_wake(&mut self, node: usize, ticked: bool) -> Result<(), String> {
        let Some(replica) = self.nodes[node].replica.as_ref() else {
            return Ok(());
        };
        let Some(at) = replica.next_wakeup() else {
            return Ok(());
        };
        let at = at.as_nanos();
        if at <= self.now {
            let state = &mut self.nodes[node];
            if ticked {
                // It would be woken over and over.
                let status = replica_debug(state.replica.as_ref());
                return Err(format!(
                    "node {node} wants to be woken in the past: {status}"
                ));
            }
            let again = self.now + 1;
            if state.wake == Some(again) {
                return Ok(());
            }
            state.wake = Some(again);
            let target = self.for_node(node);
            self.schedule(again, target, Event::Wake);
            return Ok(());
        }
        if self.nodes[node]
            .wake
            .is_none_or(|wake| wake > at || wake <= self.now)
        {
            self.nodes[node].wake = Some(at);
            let target = self.for_node(node);
            self.schedule(at, target, Event::Wake);
        }
        Ok(())
    }

    pub(crate) fn perform(&mut self, node: usize, effect: Effect) {
        let target = self.for_node(node);
        match effect {
            Effect::Reply {
                request,
                result,
                valid_until,
            } => {
                self.note(request);
                self.schedule(
                    self.now,
                    target,
                    Event::SendReply {
                        request,
                        result,
                        valid_until,
                    },
                );
            }
            Effect::AnswerPeer {
                answer,
                response,
                payload,
            } => {
                self.moved_bytes += payload.bytes.len() as u64;
                if let Some(peer::response::Reply::BlockSums(sums)) = &response.reply {
                    self.moved_bytes += 4 * sums.sums.len() as u64;
                }
                if let Some((to, connection, call)) = self.nodes[node].answers.remove(&answer) {
                    let at = self.arrival(node, to, connection);
                    let target = self.for_node(to);
                    let from = node;
                    self.schedule(
                        at,
                        target,
                        Event::Response {
                            from,
                            connection,
                            call,
                            response,
                            payload,
                        },
                    );
                }
            }
            Effect::Send {
                to,
                call,
                message,
                payload,
                timeout,
            } => self.send(node, node_of(to), call, (message, payload), timeout),
            Effect::Sync { ticket, job, lazy } => {
                self.nodes[node].jobs.insert(ticket, job);
                let patience = if lazy { self.rng.below(200) * MS } else { 0 };
                let at = self.now + patience + self.disk_delay();
                self.schedule(at, target, Event::JobData(ticket));
            }
            Effect::AcquireLease { newborn, floor } => {
                let at = self.now + self.rng.between(1, 20) * MS;
                self.schedule(at, target, Event::Acquire { newborn, floor });
            }
            Effect::ReleaseLease | Effect::HandOverLease { .. } => self.lease.release(node),
            Effect::SetFloor { epoch } => {
                let floor = &mut self.lease.floors[node];
                *floor = (*floor).max(epoch);
            }
            Effect::Behind { replicas } => self.nodes[node].behind = replicas,
            Effect::Recovered { position } => {
                if self.nodes[node].settling == Settling::BringingUp {
                    self.nodes[node].settling = match position >= self.nodes[node].wanted {
                        true => Settling::Done,
                        false => Settling::Comparing,
                    };
                }
                self.nodes[node].recovered = true;
                self.nodes[node].incomplete = false;
                self.tell_membership(node);
            }
            Effect::NotRecovered => {
                if self.nodes[node].settling == Settling::BringingUp {
                    self.nodes[node].settling = Settling::Comparing;
                }
            }
            Effect::Deleted | Effect::Damaged { .. } | Effect::TakenAsFound { .. } => {}
        }
    }

    pub(crate) fn tell_membership(&mut self, node: usize) {
        let membership = self.membership(node);
        let now = Instant::from_nanos(self.now);
        let state = &mut self.nodes[node];
        let mut effects = Vec::new();
        if let Some(replica) = state.replica.as_mut() {
            let input = Input::Membership(membership);
            replica.step(now, input, &mut state.store, &mut effects);
        }
        for effect in effects {
            self.perform(node, effect);
        }
    }
}

pub(crate) fn replica_debug(replica: Option<&ObjectReplica>) -> String {
    replica.map_or_else(String::new, |replica| {
        let text = format!("{replica:?}");
        let from = text.find(", failed:").unwrap_or(0);
        let trust = text.find("trust: ").unwrap_or(0);
        let end = (from + 1_500).min(text.len());
        let trust = &text[trust..(trust + 16).min(text.len())];
        format!("{trust} {}\n{:?}\n", &text[from..end], replica.status())
    })
}
