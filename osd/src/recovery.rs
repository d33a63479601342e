//! Finds and repairs what this server missed: compares its placement groups with the other members
//! and has every copy brought up that is behind, suspect or absent.
//!
//! A group is compared with a member whenever the link to it comes up, hence with all of them after
//! a start, and once a third member has been silent for a while: which copies were behind may have
//! been known to that one only. While a group was not compared, objects that are absent here after a crash may have
//! existed; the replicas are told so. They are told otherwise when every object that a majority
//! acknowledged must have been seen:
//!
//! - A server that crashed has lost at most what was not synced. It is done when it has compared with
//!   every other member; one that stays silent is waited for as long as a new primary would wait
//!   for its vote, once per group instead of once per object, if a majority is compared at least.
//! - A server whose store is new has lost everything. In a set of `n` with majority `q`, each
//!   acknowledged object is at `q - 1` of the others at least, so it is done when it has compared
//!   with `n - q + 1` of them, silent or not.
//!
//! What a server declares to the metadata cluster is more: that it has everything that was ever
//! acknowledged, however many others crash now. That takes members that lost nothing, so many that every
//! majority has one of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant as Clock;

use osd_core::comparing::{behind, has_seen_all, is_changing_alone, is_enough, missing};
use prost::Message as _;
use proto::peer;
use shell::clock::boottime;
use shell::link::{Link, Payload};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use types::{Duration, Instant, OsdId, PgKey};

use crate::board::{Board, group_of};
use crate::cluster::{Cluster, Wall};
use crate::config::{COMPARE_SHARE, COMPARES_MAX, LIST_PAGE_MAX, LIST_TIMEOUT, RECOVERY_LOOK};
use crate::listing::{Lister, last_of};
use crate::map::Pg;
use crate::pacer::Pacer;
use crate::peer::any_object;
use crate::scrub::Bringer;
use crate::shard_item::Item;
use crate::shards::Shards;

/// What is to be compared.
#[derive(Debug)]
pub(crate) struct Recovery {
    me: OsdId,
    /// How long a silent member is waited for.
    grace: Duration,
    state: Mutex<State>,
    pub(crate) board: Arc<Board>,
    pacer: Pacer,
}

#[derive(Debug, Default)]
struct State {
    groups: BTreeMap<PgKey, Group>,
    /// Links that are down, since when.
    silent: HashMap<OsdId, Instant>,
    /// Of these, those whose groups the others have to compare, or have compared since.
    missed: BTreeSet<OsdId>,
    up: BTreeSet<OsdId>,
    /// The group that was compared last: the next one has its turn.
    last: Option<PgKey>,
}

#[derive(Debug, Default)]
struct Group {
    /// In which everything below was found out.
    view: u64,
    /// Members it was compared with.
    compared: BTreeSet<OsdId>,
    /// Of these, those that had lost nothing: what they don't have, or have only older, they never
    /// acknowledged.
    vouching: BTreeSet<OsdId>,
    /// Members it has to be compared with (again).
    due: BTreeSet<OsdId>,
    /// This server's own copies were looked at: what it has in memory only is to be written.
    looked_at: bool,
    /// Comparing just now.
    busy: bool,
}

impl State {
    /// Has the groups of those that have been silent for `grace` compared among the others, once: a
    /// primary that died may have been the only one to know which copies are behind.
    fn miss_silent(
        &mut self,
        now: Instant,
        grace: Duration,
        others: impl Fn(PgKey) -> BTreeSet<OsdId>,
    ) {
        let long = |since: &Instant| now.since(*since) >= grace;
        let silent = self.silent.iter().filter(|(_, since)| long(since));
        let lost: BTreeSet<OsdId> = silent
            .map(|(osd, _)| *osd)
            .filter(|osd| self.missed.insert(*osd))
            .collect();
        if lost.is_empty() {
            return;
        }
        for (key, group) in &mut self.groups {
            let members = others(*key);
            if !members.is_disjoint(&lost) {
                group.due.extend(members);
            }
        }
    }
}

impl Recovery {
    pub(crate) fn new(me: OsdId, grace: Duration, board: Arc<Board>, pacer: Pacer) -> Arc<Self> {
        Arc::new(Self {
            me,
            grace,
            state: Mutex::default(),
            board,
            pacer,
        })
    }

    /// A new map: new groups have to be compared.
    pub(crate) fn follow(&self, cluster: &Cluster) {
        let now = boottime();
        let mut state = self.lock();
        let State {
            groups, silent, up, ..
        } = &mut *state;
        groups.retain(|key, _| cluster.memberships.contains_key(key));
        for key in cluster.memberships.keys() {
            let others = cluster
                .group(*key)
                .map(|pg| others(self.me, pg))
                .unwrap_or_default();
            for osd in &others {
                if !up.contains(osd) {
                    silent.entry(*osd).or_insert(now);
                }
            }
            let view = cluster.group(*key).map_or(0, |pg| pg.view);
            let group = groups.entry(*key).or_default();
            // In another view what was found out before may have been outdated the moment after.
            if group.view != view {
                *group = Group {
                    view,
                    due: others,
                    ..Group::default()
                };
            }
        }
        drop(state);
        self.board.retain_members(
            |group| cluster.memberships.contains_key(&group),
            |osd, group| {
                let pg = cluster.group(group);
                pg.is_some_and(|pg| pg.replicas.contains(osd))
            },
        );
        self.board.changed.notify_one();
    }

    /// The link to a member is up: what either side missed meanwhile has to be found.
    pub(crate) fn peer_up(&self, osd: OsdId) {
        let mut state = self.lock();
        state.up.insert(osd);
        state.silent.remove(&osd);
        state.missed.remove(&osd);
        for group in state.groups.values_mut() {
            group.due.insert(osd);
        }
        drop(state);
        self.board.changed.notify_one();
    }

    /// The link to a member is down.
    pub(crate) fn peer_lost(&self, osd: OsdId) {
        let mut state = self.lock();
        state.up.remove(&osd);
        state.silent.entry(osd).or_insert_with(boottime);
    }

    /// Whether a member is connected.
    pub(crate) fn is_up(&self, osd: OsdId) -> bool {
        self.lock().up.contains(&osd)
    }

    /// Compares what is due and has copies brought up, for ever. `on_recovered` is called when a
    /// group's absent objects can be trusted from now on, `on_full` when it has everything.
    pub(crate) async fn run(
        self: Arc<Self>,
        wall: Arc<Wall>,
        lister: Arc<Lister>,
        shards: Shards,
        on_recovered: impl Fn() + Send + Sync + 'static,
        on_full: impl Fn() + Send + Sync + 'static,
    ) {
        let on_recovered = Arc::new(on_recovered);
        let compares = Arc::new(Semaphore::new(COMPARES_MAX));
        let root = lister.root();
        let bringer = Bringer {
            me: self.me,
            root: lister.root(),
            wall: Arc::clone(&wall),
            shards: shards.clone(),
        };
        loop {
            for (key, newest) in self.board.next_recoveries(|group| self.pacer.holds(group)) {
                tokio::spawn(bringer.clone().bring_up(key, newest));
            }
            let up = self.lock().up.clone();
            let left = self.board.next_left(boottime(), |osd| up.contains(&osd));
            // Those that are held have their turn again later.
            for key in left
                .into_iter()
                .filter(|key| !self.pacer.holds(group_of(*key)))
            {
                shards.deliver(key.object, Item::BringUp(key));
            }
            for (osd, group) in self.board.to_compare(|osd| up.contains(&osd)) {
                self.compare_again(osd, group);
            }
            let cluster = wall.newest();
            self.lock().miss_silent(boottime(), self.grace, |group| {
                cluster
                    .group(group)
                    .map(|pg| others(self.me, pg))
                    .unwrap_or_default()
            });
            let (recovered, full) = self.conclude(&cluster);
            if recovered {
                on_recovered();
            }
            if full {
                on_full();
            }
            while let Ok(permit) = Arc::clone(&compares).try_acquire_owned() {
                let Some((group, view, members)) =
                    self.take_due(&cluster, |group| root.is_gated(group))
                else {
                    break;
                };
                let (this, cluster) = (Arc::clone(&self), Arc::clone(&cluster));
                let lister = Arc::clone(&lister);
                tokio::spawn(async move {
                    this.compare(&cluster, &lister, (group, view), members, permit)
                        .await;
                    this.board.changed.notify_one();
                });
            }
            // Waiting for a silent member ends by time, not by an event.
            let _ = tokio::time::timeout(RECOVERY_LOOK, self.board.changed.notified()).await;
        }
    }

    fn compare_again(&self, osd: OsdId, group: PgKey) {
        let mut state = self.lock();
        if let Some(group) = state.groups.get_mut(&group).filter(|group| !group.busy) {
            group.due.insert(osd);
        }
    }

    /// The next group with members to compare with that are connected, or that changes with nobody else, unless it is awaited as a whole.
    fn take_due(
        &self,
        cluster: &Cluster,
        is_gated: impl Fn(PgKey) -> bool,
    ) -> Option<(PgKey, u64, BTreeSet<OsdId>)> {
        let mut state = self.lock();
        let State {
            groups, up, last, ..
        } = &mut *state;
        let turn = |key: &PgKey| last.is_none_or(|last| *key > last);
        let (next, before): (Vec<_>, Vec<_>) = groups.iter_mut().partition(|(key, _)| turn(key));
        for (key, group) in next.into_iter().chain(before) {
            let free = !group.busy && !is_gated(*key);
            let pg = cluster.group(*key).filter(|_| free);
            let Some(pg) = pg.filter(|pg| pg.view == group.view) else {
                continue;
            };
            let members = others(self.me, pg);
            group.due.retain(|osd| members.contains(osd));
            let ready: BTreeSet<_> = group.due.intersection(up).copied().collect();
            let alone = !group.looked_at && is_changing_alone(self.me, &pg.replicas);
            if !ready.is_empty() || alone {
                group.busy = true;
                group.due.retain(|osd| !ready.contains(osd));
                *last = Some(*key);
                return Some((*key, group.view, ready));
            }
        }
        None
    }

    async fn compare(
        &self,
        cluster: &Cluster,
        lister: &Arc<Lister>,
        (group, view): (PgKey, u64),
        members: BTreeSet<OsdId>,
        permit: OwnedSemaphorePermit,
    ) {
        let began = Clock::now();
        let pg = cluster.group(group);
        let changing = pg.is_some_and(|pg| !pg.replicas.previous().is_empty());
        let (mut compared, mut vouching) = (BTreeSet::new(), BTreeSet::new());
        for osd in &members {
            let outcome = match cluster.links.get(osd) {
                Some(link) => {
                    self.compare_with((*osd, link), lister, (group, view), changing)
                        .await
                }
                None => Err("no link".to_owned()),
            };
            match outcome {
                Ok(vouches) => {
                    compared.insert(*osd);
                    vouching.extend(vouches.then_some(*osd));
                }
                Err(reason) => {
                    tracing::debug!(%group, %osd, reason, "placement group not compared");
                }
            }
        }
        let looked_at = match members.is_empty() {
            true => self.look(lister, group).await,
            false => !compared.is_empty(),
        };
        // Other groups need not wait for those that can't answer.
        drop(permit);
        if vouching.len() < members.len() || !looked_at {
            // Who can't answer, or lacks something itself, is not asked over and over.
            let pause = RECOVERY_LOOK.max(began.elapsed() * COMPARE_SHARE);
            tokio::time::sleep(pause).await;
        }
        let mut state = self.lock();
        let state = state.groups.get_mut(&group);
        if let Some(state) = state.filter(|state| state.view == view) {
            state.busy = false;
            // One that lacks something has to be asked again when it does not any more.
            state.due.extend(members.difference(&vouching));
            state.looked_at |= looked_at;
            state.compared.extend(compared);
            state.vouching.extend(vouching);
        }
    }

    /// Nobody else has a say in the change: what is in memory only is wanted on disk all the same.
    async fn look(&self, lister: &Arc<Lister>, group: PgKey) -> bool {
        match lister.all(group, true).await {
            Ok(ours) => {
                self.board.want(missing(group, &ours, &[]));
                true
            }
            Err(error) => {
                tracing::debug!(%group, %error, "own copies of a placement group not listed");
                false
            }
        }
    }

    /// Compares with one member; returns whether what it has not does not exist there.
    async fn compare_with(
        &self,
        (osd, link): (OsdId, &Link),
        lister: &Arc<Lister>,
        (group, view): (PgKey, u64),
        changing: bool,
    ) -> Result<bool, String> {
        // Theirs is a list of that view: what was acknowledged in an older one they knew before.
        let (theirs, vouches) = list(link, group, view).await?;
        // Ours afterwards: a change that reached us in between is not one we miss.
        // What this server declares while the set changes must be on its disk: copies elsewhere are deleted then.
        let ours = lister.all(group, changing).await;
        let ours = ours.map_err(|error| error.to_string())?;
        let missing = missing(group, &ours, &theirs);
        if !missing.is_empty() {
            tracing::info!(
                %group, from = link.address(), objects = missing.len(),
                "copies to bring up found"
            );
            self.board.want(missing);
        }
        self.board
            .note_compared(osd, group, &behind(group, &ours, &theirs));
        Ok(vouches && theirs.iter().all(|their| !their.suspect))
    }

    /// Notes the groups that were compared with enough members. Returns whether one is new among those
    /// that can be trusted, and among those that are full.
    fn conclude(&self, cluster: &Cluster) -> (bool, bool) {
        let now = boottime();
        let state = self.lock();
        let mut news = (false, false);
        for (key, group) in &state.groups {
            let Some(pg) = cluster.group(*key) else {
                continue;
            };
            let sets = (&pg.replicas, &pg.incomplete[..]);
            let membership = cluster.memberships.get(key);
            let Some(membership) = membership.filter(|_| pg.view == group.view) else {
                continue;
            };
            let silent = |osd: &OsdId| {
                !state.up.contains(osd)
                    && state
                        .silent
                        .get(osd)
                        .is_some_and(|since| now.since(*since) >= self.grace)
            };
            if is_enough(
                self.me,
                sets,
                &group.compared,
                membership.incomplete,
                silent,
            ) {
                news.0 |= self.board.note_recovered(*key);
            }
            let vouches = membership.recovered && !membership.incomplete;
            let looked_at = group.looked_at || pg.replicas.previous().is_empty();
            if looked_at && has_seen_all(self.me, sets, &group.vouching, vouches) {
                news.1 |= self.board.note_seen(*key, group.view);
            }
        }
        news
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn others(me: OsdId, pg: &Pg) -> BTreeSet<OsdId> {
    let all = pg.replicas.all().iter();
    all.copied().filter(|osd| *osd != me).collect()
}

/// All objects of a group at a peer that goes by the same view, and whether there are no others there.
pub(crate) async fn list(
    link: &Link,
    group: PgKey,
    view: u64,
) -> Result<(Vec<peer::ObjectState>, bool), String> {
    let mut all: Vec<peer::ObjectState> = Vec::new();
    let mut incomplete = false;
    loop {
        let request = peer::Request {
            object: Some(any_object(group.volume)),
            pg: group.pg.0,
            view,
            op: Some(peer::request::Op::ListObjects(peer::ListObjects {
                after: last_of(&all).map(Into::into),
                limit: LIST_PAGE_MAX as u32,
            })),
            ..peer::Request::default()
        };
        let (response, _) = link
            .call::<_, peer::Response>(&request, Payload::none(), LIST_TIMEOUT)
            .await
            .map_err(|error| error.to_string())?;
        let Some(peer::response::Reply::Objects(page)) = response.reply else {
            return Err(format!(
                "answer of {} bytes is no list",
                response.encoded_len()
            ));
        };
        let advances = last_of(&page.objects) > last_of(&all);
        all.extend(page.objects);
        incomplete |= page.incomplete;
        if page.end {
            return Ok((all, !incomplete));
        }
        if !advances {
            return Err("list does not advance".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{PgId, VolumeId};

    use crate::map::Map;

    const GROUP: PgKey = PgKey {
        volume: VolumeId(1),
        pg: PgId(2),
    };

    fn pg(osds: u64, incomplete: &[u64]) -> Pg {
        let osds: Vec<u64> = (1..=osds).collect();
        Pg::new(1, &osds, &[], incomplete)
    }

    #[test]
    fn those_left_compare_their_groups_once_a_member_has_been_silent_for_long() {
        let (grace, at) = (Duration::from_secs(3), |seconds| {
            Instant::ZERO + Duration::from_secs(seconds)
        });
        let elsewhere = PgKey {
            pg: PgId(3),
            ..GROUP
        };
        let members = |group| match group == GROUP {
            true => others(OsdId(1), &pg(3, &[])),
            false => BTreeSet::from([OsdId(2)]),
        };
        let mut state = State {
            groups: BTreeMap::from([(GROUP, Group::default()), (elsewhere, Group::default())]),
            silent: HashMap::from([(OsdId(3), at(10))]),
            up: BTreeSet::from([OsdId(2)]),
            ..State::default()
        };

        state.miss_silent(at(12), grace, members);
        assert!(state.groups[&GROUP].due.is_empty());
        state.miss_silent(at(13), grace, members);
        assert!(state.groups[&GROUP].due.contains(&OsdId(2)));
        assert!(state.groups[&elsewhere].due.is_empty());

        state.groups.insert(GROUP, Group::default());
        state.miss_silent(at(14), grace, members);
        assert!(state.groups[&GROUP].due.is_empty(), "once is enough");
    }

    /// A volume with one replica, whose change to another server was given up.
    #[test]
    fn group_that_changes_with_nobody_else_is_looked_at_once() {
        let pgs = HashMap::from([(GROUP, Pg::new(3, &[1], &[1], &[]))]);
        let map = Map {
            pgs,
            ..Map::default()
        };
        let none = BTreeSet::new();
        let cluster = Cluster::new(OsdId(1), map, BTreeMap::new(), &none, &none);
        let recovery = Recovery::new(
            OsdId(1),
            Duration::from_secs(3),
            Arc::default(),
            Pacer::default(),
        );
        recovery.follow(&cluster);

        let due = || recovery.take_due(&cluster, |_| false);
        assert_eq!(due(), Some((GROUP, 3, BTreeSet::new())));
        assert_eq!(due(), None, "it is under way");
        {
            let mut state = recovery.lock();
            let group = state.groups.get_mut(&GROUP).unwrap();
            (group.busy, group.looked_at) = (false, true);
        }

        assert_eq!(due(), None);
    }
}
