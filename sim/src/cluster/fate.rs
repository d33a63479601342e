//! What goes wrong in a run, drawn from its seed.

use rand::RngExt;
use types::{Duration, OsdId, PgKey};

use crate::cluster::content::MOUNTS;
use crate::cluster::happening::Happening;
use crate::cluster::meta::MEMBERS;
use crate::cluster::mount::{meta_end, mount_end};
use crate::cluster::plan::Ailment;
use crate::cluster::server::Item;
use crate::cluster::world::World;
use crate::network::{Weather, percent};
use crate::time::TrueTime;

impl World {
    pub(crate) fn start(&mut self, osd: OsdId) {
        let now = self.schedule.now();
        let seed = self.rng.random();
        let server = self.server(osd);
        let clock = server.clock.read(now);
        server.start(clock, seed);
        let life = server.life;
        let looks = Happening::Looks(osd, life);
        self.schedule.after(Duration::from_millis(10), looks);
        let beat = self.between(1, 500);
        self.schedule.after(beat, Happening::Beats(osd, life));
        self.plan_timers(osd);
    }

    pub(crate) fn misfortune(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.between(50, 2_000);
        self.schedule.after(pause, Happening::Misfortune);
        let osds = self.osds();
        let osd = osds[self.rng.random_range(0..osds.len())];
        let other = osds[self.rng.random_range(0..osds.len())];
        let choice = self.rng.random_range(0..20);
        self.trace
            .note(self.schedule.now(), &("misfortune", choice, osd.0));
        match choice {
            0..=2 if self.plan.crashes => self.crash_one(osd),
            3 if self.plan.total_losses => self.power_fails(),
            4 | 5 if self.plan.cuts && osd != other => {
                let until = self.schedule.now() + self.between(100, 4_500);
                self.cut(osd.0, other.0, until);
            }
            6 if self.plan.cuts => self.isolate(osd),
            7 if self.plan.cuts => {
                // A mount and a server lose sight of each other.
                let mount = mount_end(self.rng.random_range(0..MOUNTS));
                let until = self.schedule.now() + self.between(100, 4_500);
                self.cut(mount, osd.0, until);
            }
            8 | 9 if self.plan.pauses => self.freeze(osd, 4_000),
            10 if self.plan.pauses => {
                self.coverage.pauses += 1;
                let now = self.schedule.now();
                let until = now + self.between(100, 4_000);
                let server = self.server(osd);
                if server.stuck_until <= now {
                    server.stuck_since = now;
                    server.stuck_until = until;
                }
            }
            11 if !self.options.fair => self.network.weather = Weather::draw(&mut self.rng),
            12 if self.plan.elections => self.deposes(),
            13 if self.plan.crashes => self.stops(osd),
            14 => self.hands_over(osd),
            15 if self.plan.ill.is_some() => self.suffers(),
            16 | 17 if self.plan.sessions => self.strands(),
            18 if self.plan.cuts => {
                // A server hears nothing of the metadata cluster for a while.
                let until = self.schedule.now() + self.between(500, 6_000);
                for member in 0..MEMBERS {
                    self.cut(osd.0, meta_end(member), until);
                }
            }
            _ if !self.options.fair && osd != other => self.disconnect(osd, other),
            _ => {}
        }
    }

    // ---- the network

    fn cut(&mut self, a: u64, b: u64, until: TrueTime) {
        let now = self.schedule.now();
        let ways = self.rng.random_range(0..3);
        if ways != 1 {
            self.streams.cut(now, a, b, until);
        }
        if ways != 2 {
            self.streams.cut(now, b, a, until);
        }
    }

    fn isolate(&mut self, osd: OsdId) {
        let until = self.schedule.now() + self.between(100, 4_500);
        for other in self.osds() {
            if other != osd {
                self.cut(osd.0, other.0, until);
            }
        }
    }

    // ---- processes

    fn freeze(&mut self, osd: OsdId, longest: u64) {
        let now = self.schedule.now();
        let until = now + self.between(10, longest);
        let looks = self.rng.random();
        let server = self.server(osd);
        if server.paused_until <= now {
            server.paused_until = until;
            server.old_look = Some(server.clock.read(now)).filter(|_| looks);
        }
    }

    /// Now and then between the work and its consequences.
    pub(crate) fn maybe_freeze(&mut self, osd: OsdId) {
        if !self.calm && self.plan.pauses && self.rng.random_range(0..3_000) == 0 {
            self.freeze(osd, 4_000);
        }
    }

    fn crash(&mut self, osd: OsdId, power: bool) {
        self.disconnect_all(osd);
        self.mounts_lose(osd);
        let server = &mut self.servers[osd.0 as usize - 1];
        server.crash();
        if power {
            let rng = &mut self.rng;
            server.store.lose_power(&mut |n| rng.random_range(0..n));
        }
    }

    /// Whether the promises cover that a server goes: so many of each set it is in keep what they have in memory.
    fn is_spare(&mut self, osd: OsdId) -> bool {
        let beyond = self.plan.beyond_majority;
        let servers = &self.servers;
        let sound = |member: &u64, group: PgKey| {
            let server = servers.get(*member as usize - 1);
            server.is_some_and(|server| server.is_sound(group))
        };
        let covers = |set: &[u64], pg: &proto::mrc::Pg| {
            let group = crate::cluster::map::key_of(pg);
            let unsound = |member: &&u64| !sound(member, group) || pg.incomplete.contains(member);
            let unsound = set.iter().filter(unsound).count();
            let most = match beyond {
                true => set.len().saturating_sub(1),
                false => set.len().saturating_sub(1) / 2,
            };
            !set.contains(&osd.0) || unsound < most && sound(&osd.0, group)
        };
        let pgs = self.meta.pgs();
        let mut pgs = pgs.iter();
        self.servers[osd.0 as usize - 1].up
            && pgs.all(|pg| covers(&pg.osds, pg) && covers(&pg.previous, pg))
    }

    /// A crash that the promises cover.
    fn crash_one(&mut self, osd: OsdId) {
        if !self.is_spare(osd) {
            return;
        }
        let power = self.rng.random();
        self.coverage.crashes += 1;
        self.crash(osd, power);
        // A second disk is lost only when the first one's loss is made up for.
        if self.plan.wipes && self.is_made_up() && percent(&mut self.rng, 35) {
            self.wipes(osd);
        }
        let back = self.between(1, 4_000);
        self.schedule.after(back, Happening::Starts(osd));
    }

    /// Whether every store has what it should, as far as the metadata cluster knows.
    fn is_made_up(&mut self) -> bool {
        let marked = self.meta.pgs().iter().any(|pg| !pg.incomplete.is_empty());
        let unnoticed = self.servers.iter().any(|one| one.map.version == 0);
        let pending = self.meta.pgs().iter().any(|pg| pg.osds.len() < 3);
        !marked && !unnoticed && !pending
    }

    fn wipes(&mut self, osd: OsdId) {
        self.coverage.wipes += 1;
        self.server(osd).wipe();
    }

    /// Everything everywhere ends at once.
    pub(crate) fn power_fails(&mut self) {
        let unnoticed = self
            .servers
            .iter()
            .any(|one| !one.up || one.map.version == 0);
        if self.calm || unnoticed || self.meta.pgs().iter().any(|pg| !pg.incomplete.is_empty()) {
            return;
        }
        let power = percent(&mut self.rng, 70);
        for osd in self.osds() {
            self.crash(osd, power);
            let back = self.between(1, 2_000);
            self.schedule.after(back, Happening::Starts(osd));
        }
        // One disk may be gone with it: the others are a majority.
        if self.plan.wipes && self.is_made_up() && percent(&mut self.rng, 30) {
            let osd = OsdId(self.rng.random_range(1..=self.plan.servers));
            self.wipes(osd);
        }
        self.losses += 1;
        self.coverage.losses += 1;
        for content in self.contents.values_mut() {
            content.power_lost();
        }
    }

    /// A sync was just acknowledged: a good moment for the power to fail.
    pub(crate) fn synced_now(&mut self) {
        if self.plan.total_losses && !self.calm && percent(&mut self.rng, 5) {
            self.schedule.after(Duration::ZERO, Happening::PowerFails);
        }
    }

    fn stops(&mut self, osd: OsdId) {
        if !self.is_spare(osd) {
            return;
        }
        self.act(osd, |server, now, acts| server.shut_down(now, acts));
        let life = self.server(osd).life;
        let ends = Happening::StopEnds(osd, life);
        self.schedule.after(Duration::from_secs(5), ends);
    }

    /// A stop is over: in good order if nothing is left in memory.
    pub(crate) fn stopped(&mut self, osd: OsdId) {
        let now = self.schedule.now();
        let server = self.server(osd);
        let orderly = server.slots.is_empty();
        let mut saved = None;
        if orderly {
            let clock = server.clock.read(now);
            let mut acts = Vec::new();
            server.with_host(clock, &mut acts, |host, now, out| {
                host.release_all(now, out)
            });
            saved = server.host.as_mut().and_then(|host| host.shutdown(clock));
        }
        self.crash(osd, false);
        self.coverage.stops += u64::from(orderly);
        let server = self.server(osd);
        server.trusted = orderly;
        server.saved = saved;
        let back = self.between(1, 3_000);
        self.schedule.after(back, Happening::Starts(osd));
    }

    fn hands_over(&mut self, osd: OsdId) {
        let slots = self.server(osd).slots.values();
        let primary = slots.filter(|slot| slot.is_primary()).map(|slot| slot.key);
        let Some(key) = primary.last() else {
            return;
        };
        let members = self.members(key);
        let to = members[self.rng.random_range(0..members.len())];
        let object = key.object;
        self.deliver(osd, Item::HandOver { object, to });
    }

    // ---- disks

    fn suffers(&mut self) {
        let Some(osd) = self.plan.ill else {
            return;
        };
        self.plan.is_acute = !self.plan.is_acute;
        let acute = self.plan.is_acute;
        match self.plan.ailment {
            Ailment::Nothing | Ailment::Hangs => {}
            Ailment::Rots => self.rots(osd),
            Ailment::Full => {
                let room = self.rng.random_range(0..200_000);
                self.server(osd).store.limit(acute.then_some(room));
            }
            Ailment::Fails => self.server(osd).store.fail_syncs(),
        }
    }

    /// Some blocks of one server change, whosever they are: by themselves, because a write did not
    /// arrive, or because it arrived somewhere else (then two are damaged). Their sums tell all
    /// three alike, as they are kept apart from the bytes.
    fn rots(&mut self, osd: OsdId) {
        let keys: Vec<_> = self.keys.values().copied().collect();
        for _ in 0..self.rng.random_range(1..=4) {
            if keys.is_empty() {
                return;
            }
            let key = keys[self.rng.random_range(0..keys.len())];
            let block = self.rng.random_range(0..20);
            let store = &self.server(osd).store;
            // Of a block that is being changed nobody could tell.
            if !store.is_being_changed(key, block) {
                store.damage(key, block);
            }
        }
    }

    // ---- the metadata cluster

    fn deposes(&mut self) {
        if self.meta.leader.is_none() {
            return;
        }
        let kept = self.rng.random_range(0..=self.meta.pending());
        self.coverage.deposed += 1;
        self.coverage.lost += (self.meta.pending() - kept) as u64;
        let committed = self.meta.depose(self.schedule.now(), kept);
        self.committed(committed, false);
        let vacancy = self.between(100, 3_000);
        self.schedule.after(vacancy, Happening::Elects);
    }

    pub(crate) fn elects(&mut self) {
        if self.meta.leader.is_some() {
            return;
        }
        let away = self.meta.away.unwrap_or(MEMBERS);
        let others: Vec<_> = (0..MEMBERS).filter(|member| *member != away).collect();
        let member = others[self.rng.random_range(0..others.len())];
        self.meta.elect(self.schedule.now(), member);
    }

    /// Whether a server is up and lacks nothing.
    fn is_whole(&self, osd: OsdId) -> bool {
        let server = &self.servers[osd.0 as usize - 1];
        let mut groups = server.map.groups_of(osd).into_iter();
        // One with a new disk knows no map at first.
        let knows = server.map.version > 0;
        server.up && knows && groups.all(|group| server.is_sound(group))
    }

    /// A mount hears nothing of the metadata cluster, perhaps for longer than its session lives.
    fn strands(&mut self) {
        let mount = self.rng.random_range(0..MOUNTS);
        let timeout = self.plan.session_timeout.as_millis();
        let until = self.schedule.now() + self.between(timeout / 2, 3 * timeout);
        self.coverage.stranded += 1;
        for member in 0..MEMBERS {
            let now = self.schedule.now();
            self.streams
                .cut(now, mount_end(mount), meta_end(member), until);
            self.streams
                .cut(now, meta_end(member), mount_end(mount), until);
        }
    }

    /// All faults end, but one server may stay away or ill for ever.
    pub(crate) fn calm_down(&mut self) {
        let now = self.schedule.now();
        self.calm = true;
        self.stopping = true;
        self.network.heal();
        self.streams.mend();
        self.meta.away = None;
        self.elects();
        let mut excluded = None;
        // A disk that failed a sync is never trusted again.
        if self.plan.stays || self.plan.ailment == Ailment::Fails {
            let unsound: Vec<_> = self
                .osds()
                .into_iter()
                .filter(|it| !self.is_whole(*it))
                .collect();
            let any = OsdId(self.rng.random_range(1..=self.plan.servers));
            excluded = match (self.plan.ill, &unsound[..]) {
                (Some(ill), _) => Some(ill),
                (None, []) => Some(any),
                (None, [one]) => Some(*one),
                _ => None,
            };
        }
        self.plan.excluded = excluded;
        self.coverage.stayed += u64::from(excluded.is_some());
        for osd in self.osds() {
            let server = self.server(osd);
            server.paused_until = TrueTime::default();
            server.stuck_until = TrueTime::default();
            server.store.limit(None);
            if !server.up && excluded != Some(osd) {
                self.start(osd);
            }
        }
        match excluded {
            None => {
                self.plan.is_acute = false;
                if let (Ailment::Full, Some(ill)) = (self.plan.ailment, self.plan.ill) {
                    // What failed for want of room is not tried again before a restart.
                    self.crash(ill, false);
                    self.start(ill);
                }
            }
            Some(osd) if self.plan.ill == Some(osd) => {
                self.plan.is_acute = true;
                let room = (self.plan.ailment == Ailment::Full).then_some(0);
                self.server(osd).store.limit(room);
            }
            Some(osd) => {
                if self.rng.random() {
                    self.crash(osd, false);
                }
                for other in self.osds() {
                    self.streams.cut(now, osd.0, other.0, TrueTime(u64::MAX));
                    self.streams.cut(now, other.0, osd.0, TrueTime(u64::MAX));
                }
                for mount in 0..MOUNTS {
                    let end = mount_end(mount);
                    self.streams.cut(now, osd.0, end, TrueTime(u64::MAX));
                    self.streams.cut(now, end, osd.0, TrueTime(u64::MAX));
                }
            }
        }
        for mount in 0..MOUNTS {
            self.plan_mount(mount);
        }
    }
}
