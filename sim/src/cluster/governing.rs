//! The metadata cluster and the object servers: heartbeats and maps, replica sets and policies that change, and
//! what a server's door lets in.

use osd_core::gate::{Need, admit, check_view};
use osd_core::{ObjectKey, Op};
use proto::mrc;
use rand::RngExt;
use types::{Duration, Fault, OsdId, SessionId};

use crate::cluster::edit::Edit;
use crate::cluster::happening::{Happening, Right};
use crate::cluster::meta::{CLUSTER, Meta, Origin, secret, unix};
use crate::cluster::mount::meta_end;
use crate::cluster::server::{Item, group_of};
use crate::cluster::world::World;
use crate::network::percent;
use crate::time::TrueTime;

/// Time between heartbeats of a server.
const BEAT_INTERVAL: Duration = Duration::from_millis(500);
/// Time between looks at changes of sets that may end.
const GOVERNS_INTERVAL: Duration = Duration::from_millis(400);

impl World {
    // ---- heartbeats

    pub(crate) fn beats(&mut self, osd: OsdId, life: u64) {
        self.schedule
            .after(BEAT_INTERVAL, Happening::Beats(osd, life));
        let Some(member) = self.meta.leader else {
            return;
        };
        let unseen = self.options.edit == Some(Edit::DeclaredUnseen);
        let server = self.server(osd);
        let mut pgs = server.recovery.reports(osd, &server.map);
        if unseen {
            for report in &mut pgs {
                report.state = mrc::PgState::PgFull.into();
            }
        }
        let beat = mrc::OsdHeartbeat {
            osd: osd.0,
            address: format!("o{osd}"),
            store_uuid: format!("s{osd}.{}", server.store_number),
            map_version: server.map.version,
            pgs,
            ..mrc::OsdHeartbeat::default()
        };
        for at in self.meta_arrivals(osd.0, meta_end(member), false) {
            let beat = Box::new(beat.clone());
            let arrives = Happening::BeatArrives {
                member,
                osd,
                life,
                beat,
            };
            self.schedule.at(at, arrives);
        }
    }

    pub(crate) fn beat_arrives(
        &mut self,
        member: usize,
        (osd, life): (OsdId, u64),
        beat: &mrc::OsdHeartbeat,
    ) {
        if self.meta.leader != Some(member) {
            return;
        }
        let now = self.schedule.now();
        let (commands, map) = self.meta.heartbeat(now, beat);
        for command in commands {
            let id = self.meta.propose(command, Origin::Nobody);
            self.plan_commit(id);
        }
        let Some(map) = map else {
            return;
        };
        for at in self.meta_arrivals(meta_end(member), osd.0, false) {
            let map = Box::new(map.clone());
            self.schedule
                .at(at, Happening::MapArrives { osd, life, map });
        }
    }

    // ---- sets and policies

    pub(crate) fn governs(&mut self) {
        self.schedule.after(GOVERNS_INTERVAL, Happening::Governs);
        if self.meta.leader.is_none() {
            return;
        }
        let now = self.schedule.now();
        for command in self.meta.ends_of_changes(now) {
            self.coverage.changed_sets += 1;
            let id = self.meta.propose(command, Origin::Nobody);
            self.plan_commit(id);
        }
        if self.plan.moves && !self.calm && percent(&mut self.rng, 20) {
            self.changes_set();
        }
        let many = self.plan.policies.len();
        if many > 1 && !self.calm && percent(&mut self.rng, 15) {
            let policy = self.plan.policies[self.rng.random_range(0..many)];
            self.coverage.policies += 1;
            let command = Meta::policy_set(now, policy);
            let id = self.meta.propose(command, Origin::Nobody);
            self.plan_commit(id);
        }
    }

    /// An administrator, or a death, has a set changed; or a change gets another aim.
    fn changes_set(&mut self) {
        let pgs = self.meta.pgs();
        if pgs.is_empty() {
            return;
        }
        let pg = &pgs[self.rng.random_range(0..pgs.len())];
        if !pg.previous.is_empty() && !percent(&mut self.rng, 20) {
            return;
        }
        let mut osds = pg.osds.clone();
        let others = (1..=self.plan.servers).filter(|osd| !osds.contains(osd));
        let others: Vec<u64> = others.collect();
        let out = self.rng.random_range(0..osds.len());
        let new = match others.len() {
            0 => None,
            count => Some(others[self.rng.random_range(0..count)]),
        };
        match (self.rng.random_range(0..6), new) {
            (0, _) if osds.len() > 1 => drop(osds.remove(out)),
            (1, Some(new)) if osds.len() <= self.plan.replicas as usize => osds.push(new),
            (2, _) if !pg.previous.is_empty() => osds.clone_from(&pg.previous),
            (_, Some(new)) => osds[out] = new,
            _ => return,
        }
        if osds != pg.osds {
            let command = Meta::change_of(self.schedule.now(), pg, osds);
            let id = self.meta.propose(command, Origin::Nobody);
            self.plan_commit(id);
        }
    }

    // ---- the door

    /// A request of a mount, or of the metadata cluster, reaches a server.
    pub(crate) fn knocks(
        &mut self,
        osd: OsdId,
        (mount, call): (usize, u64),
        key: ObjectKey,
        (right, op): (&Right, Op),
    ) {
        match self.lets_in(osd, key, (right, &op)) {
            Ok(session) => {
                let item = Item::Client {
                    key,
                    session,
                    op,
                    mount,
                    call,
                };
                self.deliver(osd, item);
            }
            Err(fault) => self.answer_mount(osd, (mount, call), Err(fault)),
        }
    }

    fn lets_in(
        &mut self,
        osd: OsdId,
        key: ObjectKey,
        (right, op): (&Right, &Op),
    ) -> Result<SessionId, Fault> {
        let now = self.schedule.now();
        let need = match op {
            Op::Write { .. } | Op::Truncate { .. } | Op::Sync { .. } => Need::Write,
            _ => Need::Read,
        };
        // A mutant's clock stands still.
        let clock = match self.options.edit {
            Some(Edit::RightsForEver) => TrueTime::default(),
            _ => now,
        };
        let session = admit(
            &right.capability,
            &secret(),
            CLUSTER,
            key.object,
            key.pg,
            need,
            unix(clock),
        )?;
        let group = group_of(key);
        let server = self.server(osd);
        let known = server.map.pgs.get(&group).map(|pg| pg.view);
        let is_member = server.map.group(osd, group).is_some();
        check_view(osd, group, (known, is_member), right.view)?;
        let ended = self.meta.ended_at(session);
        let lifetime = self.plan.right_lifetime;
        if need == Need::Write && ended.is_some_and(|ended| ended + lifetime < now) {
            self.report(format!(
                "server {osd} takes a change of session {session}, which ended long ago"
            ));
        }
        Ok(session)
    }
}
