//! Connections between servers, and between mounts and servers: in order while they last. A
//! direction that is cut holds what was sent; a connection through which nothing comes breaks, and
//! what it held may arrive all the same.

use std::collections::BTreeMap;

use osd_core::PeerFailure;
use rand::RngExt;
use types::{Duration, OsdId};

use crate::cluster::happening::{Frame, Happening};
use crate::cluster::server::{Act, Item};
use crate::cluster::world::World;
use crate::time::TrueTime;

/// How long a connection outlives a cut. 2 s: the keepalive of links.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// How often connections are looked after.
const CONNECTIONS_LOOK: Duration = Duration::from_millis(100);

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Generation of the connection of a pair of servers, lower number first; even while it is down.
    generations: BTreeMap<(OsdId, OsdId), u64>,
    /// Directions that are cut: since when, until when.
    cuts: BTreeMap<(u64, u64), (TrueTime, TrueTime)>,
    last: BTreeMap<(u64, u64, u64), TrueTime>,
}

impl Streams {
    pub(crate) fn cut_until(&self, from: u64, to: u64) -> Option<TrueTime> {
        self.cuts.get(&(from, to)).map(|(_, until)| *until)
    }

    pub(crate) fn cut(&mut self, now: TrueTime, from: u64, to: u64, until: TrueTime) {
        let cut = self.cuts.entry((from, to)).or_insert((now, until));
        cut.1 = cut.1.max(until);
    }

    pub(crate) fn mend(&mut self) {
        self.cuts.clear();
    }

    fn mend_due(&mut self, now: TrueTime) {
        self.cuts.retain(|_, (_, until)| *until > now);
    }

    fn is_cut(&self, a: OsdId, b: OsdId, now: TrueTime, for_long: bool) -> bool {
        let old = if for_long { KEEPALIVE } else { Duration::ZERO };
        [(a.0, b.0), (b.0, a.0)].iter().any(|way| {
            let cut = self.cuts.get(way);
            cut.is_some_and(|(since, _)| *since + old <= now)
        })
    }

    fn generation(&mut self, a: OsdId, b: OsdId) -> &mut u64 {
        self.generations.entry((a.min(b), a.max(b))).or_default()
    }
}

impl World {
    /// When a message sent now arrives: in order on one connection.
    pub(crate) fn stream_arrival(&mut self, from: u64, to: u64, generation: u64) -> TrueTime {
        let at = self.schedule.now() + self.delay();
        let last = self.streams.last.entry((from, to, generation)).or_default();
        *last = at.max(TrueTime(last.0 + 1));
        *last
    }

    pub(crate) fn connections(&mut self) {
        let now = self.schedule.now();
        self.streams.mend_due(now);
        let osds = self.osds();
        for (at, a) in osds.iter().enumerate() {
            for b in &osds[at + 1..] {
                let up = *self.streams.generation(*a, *b) % 2 == 1;
                let both = self.server(*a).up && self.server(*b).up;
                if up && (!both || self.streams.is_cut(*a, *b, now, true)) {
                    self.disconnect(*a, *b);
                } else if !up && both && !self.streams.is_cut(*a, *b, now, false) {
                    *self.streams.generation(*a, *b) += 1;
                    self.deliver(*a, Item::PeerUp(*b));
                    self.deliver(*b, Item::PeerUp(*a));
                }
            }
        }
        self.schedule
            .after(CONNECTIONS_LOOK, Happening::Connections);
    }

    pub(crate) fn disconnect(&mut self, a: OsdId, b: OsdId) {
        let generation = self.streams.generation(a, b);
        if generation.is_multiple_of(2) {
            return;
        }
        *generation += 1;
        for (osd, other) in [(a, b), (b, a)] {
            if !self.server(osd).up {
                continue;
            }
            self.deliver(osd, Item::PeerLost(other));
            let server = self.server(osd);
            let calls = server.calls.iter();
            let calls = calls.filter(|(_, (to, ..))| *to == other);
            let lists = server.lists.iter().filter(|(_, (to, ..))| *to == other);
            let lost = calls.map(|(call, _)| *call);
            let lost: Vec<_> = lost.chain(lists.map(|(call, _)| *call)).collect();
            for call in lost {
                self.call_failed(osd, call, PeerFailure::Disconnected);
            }
        }
    }

    pub(crate) fn disconnect_all(&mut self, osd: OsdId) {
        for other in self.osds() {
            if other != osd {
                self.disconnect(osd, other);
            }
        }
    }

    /// Sends a frame if there is a connection.
    pub(crate) fn send_frame(&mut self, from: OsdId, to: OsdId, frame: Frame) -> bool {
        let generation = *self.streams.generation(from, to);
        if generation.is_multiple_of(2) || !self.server(to).up {
            return false;
        }
        let at = self.stream_arrival(from.0, to.0, generation);
        let life = self.server(to).life;
        let arrives = Happening::Stream {
            from,
            to,
            life,
            generation,
            frame,
        };
        self.schedule.at(at, arrives);
        true
    }

    pub(crate) fn arrives(&mut self, from: OsdId, to: OsdId, generation: u64, frame: Frame) {
        let present = *self.streams.generation(from, to) == generation;
        // What a broken connection held may come late.
        let late = !present && self.rng.random_range(0..3) == 0;
        match frame {
            Frame::Ask {
                key,
                asked,
                message,
                payload,
            } if present || late => {
                let message = *message;
                let item = Item::Peer {
                    key,
                    asked,
                    message,
                    payload,
                };
                self.deliver(to, item);
            }
            Frame::Answer { call, reply } if present => {
                if let Some(known) = self.server(to).calls.remove(&call) {
                    self.answered(to, known, *reply);
                }
            }
            Frame::List { group, view, asked } if present => {
                self.deliver(to, Item::List { group, view, asked });
            }
            Frame::Listed { call, list } if present => {
                if let Some(known) = self.server(to).lists.remove(&call) {
                    self.act(to, |server, now, acts: &mut Vec<Act>| {
                        server.listed(now, known, list);
                        server.look(now, acts);
                    });
                }
            }
            _ => {}
        }
    }
}
