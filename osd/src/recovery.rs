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

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use osd_core::{ObjectKey, Position};
use prost::Message as _;
use proto::peer;
use shell::clock::boottime;
use shell::link::{Link, Payload};
use tokio::sync::Semaphore;
use types::{Duration, Instant, ObjectId, OsdId, PgKey};

use crate::board::Board;
use crate::cluster::{Cluster, Wall};
use crate::config::{COMPARES_MAX, LIST_PAGE_MAX, LIST_TIMEOUT, RECOVERY_LOOK};
use crate::listing::{Lister, last_of};
use crate::map::Pg;
use crate::peer::any_object;
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
}

#[derive(Debug, Default)]
struct State {
    groups: BTreeMap<PgKey, Group>,
    /// Links that are down, since when.
    silent: HashMap<OsdId, Instant>,
    /// Of these, those whose groups the others have to compare, or have compared since.
    missed: BTreeSet<OsdId>,
    up: BTreeSet<OsdId>,
}

#[derive(Debug, Default)]
struct Group {
    /// Members it was compared with since the start.
    compared: BTreeSet<OsdId>,
    /// Members it has to be compared with (again).
    due: BTreeSet<OsdId>,
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
    pub(crate) fn new(me: OsdId, grace: Duration, board: Arc<Board>) -> Arc<Self> {
        Arc::new(Self {
            me,
            grace,
            state: Mutex::default(),
            board,
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
            groups.entry(*key).or_insert_with(|| Group {
                due: others,
                ..Group::default()
            });
        }
        drop(state);
        self.board
            .retain_groups(|group| cluster.memberships.contains_key(&group));
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

    /// Compares what is due and has copies brought up, for ever. `on_recovered` is called when a
    /// group's absent objects can be trusted from now on.
    pub(crate) async fn run(
        self: Arc<Self>,
        wall: Arc<Wall>,
        lister: Arc<Lister>,
        shards: Shards,
        on_recovered: impl Fn() + Send + Sync + 'static,
    ) {
        let on_recovered = Arc::new(on_recovered);
        let compares = Arc::new(Semaphore::new(COMPARES_MAX));
        loop {
            for key in self.board.next_recoveries() {
                shards.deliver(key.object, Item::Recover(key));
            }
            let up = self.lock().up.clone();
            for key in self.board.next_left(boottime(), |osd| up.contains(&osd)) {
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
            if self.conclude(&cluster) {
                on_recovered();
            }
            while let Ok(permit) = Arc::clone(&compares).try_acquire_owned() {
                let Some((group, members)) = self.take_due(&cluster) else {
                    break;
                };
                let (this, cluster) = (Arc::clone(&self), Arc::clone(&cluster));
                let lister = Arc::clone(&lister);
                tokio::spawn(async move {
                    this.compare(&cluster, &lister, group, members).await;
                    drop(permit);
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

    /// The next group with members to compare with that are connected.
    fn take_due(&self, cluster: &Cluster) -> Option<(PgKey, BTreeSet<OsdId>)> {
        let mut state = self.lock();
        let State { groups, up, .. } = &mut *state;
        for (key, group) in groups.iter_mut() {
            let Some(pg) = cluster.group(*key).filter(|_| !group.busy) else {
                continue;
            };
            let members = others(self.me, pg);
            group.due.retain(|osd| members.contains(osd));
            let ready: BTreeSet<_> = group.due.intersection(up).copied().collect();
            if !ready.is_empty() {
                group.busy = true;
                group.due.retain(|osd| !ready.contains(osd));
                return Some((*key, ready));
            }
        }
        None
    }

    async fn compare(
        &self,
        cluster: &Cluster,
        lister: &Arc<Lister>,
        group: PgKey,
        members: BTreeSet<OsdId>,
    ) {
        let mut failed = BTreeSet::new();
        for osd in &members {
            let outcome = match cluster.links.get(osd) {
                Some(link) => self.compare_with((*osd, link), lister, group).await,
                None => Err("no link".to_owned()),
            };
            if let Err(reason) = outcome {
                tracing::debug!(%group, %osd, reason, "placement group not compared");
                failed.insert(*osd);
            }
        }
        let mut state = self.lock();
        if let Some(state) = state.groups.get_mut(&group) {
            state.busy = false;
            state.compared.extend(members.difference(&failed));
            state.due.extend(failed);
        }
    }

    async fn compare_with(
        &self,
        (osd, link): (OsdId, &Link),
        lister: &Arc<Lister>,
        group: PgKey,
    ) -> Result<(), String> {
        let theirs = list(link, group).await?;
        // Ours afterwards: a change that reached us in between is not one we miss.
        let ours = lister.all(group).await.map_err(|error| error.to_string())?;
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
        Ok(())
    }

    /// Notes the groups that were compared with enough members. True if there is a new one.
    fn conclude(&self, cluster: &Cluster) -> bool {
        let now = boottime();
        let state = self.lock();
        let mut news = false;
        for (key, group) in &state.groups {
            let Some(pg) = cluster.group(*key) else {
                continue;
            };
            let wiped = cluster
                .memberships
                .get(key)
                .is_some_and(|membership| membership.incomplete);
            let silent = |osd: &OsdId| {
                !state.up.contains(osd)
                    && state
                        .silent
                        .get(osd)
                        .is_some_and(|since| now.since(*since) >= self.grace)
            };
            if is_enough(self.me, pg, &group.compared, wiped, silent) {
                news |= self.board.note_recovered(*key);
            }
        }
        news
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn others(me: OsdId, pg: &Pg) -> BTreeSet<OsdId> {
    pg.osds.iter().copied().filter(|osd| *osd != me).collect()
}

/// Whether comparing with these members has shown every object that a majority acknowledged.
fn is_enough(
    me: OsdId,
    pg: &Pg,
    compared: &BTreeSet<OsdId>,
    wiped: bool,
    silent: impl Fn(&OsdId) -> bool,
) -> bool {
    let count = pg.osds.len();
    let majority = count / 2 + 1;
    // What a member with a new store has or has not says nothing.
    let vouching = others(me, pg)
        .into_iter()
        .filter(|osd| !pg.incomplete.contains(osd));
    let (seen, unseen): (Vec<_>, Vec<_>) = vouching.partition(|osd| compared.contains(osd));
    if wiped {
        return seen.len() > count - majority;
    }
    unseen.is_empty() || (seen.len() + 1 >= majority && unseen.iter().all(silent))
}

/// Objects of which our copy can be trusted and is newer than the other's.
fn behind(
    group: PgKey,
    ours: &[peer::ObjectState],
    theirs: &[peer::ObjectState],
) -> Vec<ObjectKey> {
    let trusted: Vec<_> = ours.iter().filter(|our| !our.suspect).copied().collect();
    let known: Vec<_> = theirs
        .iter()
        .map(|their| peer::ObjectState {
            suspect: false,
            ..*their
        })
        .collect();
    missing(group, &known, &trusted)
}

/// Objects of which the other's copy is newer than ours, or ours can't be trusted.
fn missing(
    group: PgKey,
    ours: &[peer::ObjectState],
    theirs: &[peer::ObjectState],
) -> Vec<ObjectKey> {
    let position = |state: &peer::ObjectState| Position::from(state.position.unwrap_or_default());
    let have: HashMap<ObjectId, &peer::ObjectState> = ours
        .iter()
        .filter_map(|state| Some((state.object?.into(), state)))
        .collect();
    let behind = theirs.iter().filter_map(|their| {
        let object: ObjectId = their.object?.into();
        match have.get(&object) {
            Some(our) if position(our) >= position(their) => None,
            Some(_) | None => Some(object),
        }
    });
    let suspect = ours
        .iter()
        .filter(|our| our.suspect)
        .filter_map(|our| our.object.map(Into::into));
    let objects: BTreeSet<ObjectId> = behind.chain(suspect).collect();
    objects
        .into_iter()
        .filter(|object| object.volume == group.volume)
        .map(|object| ObjectKey {
            pg: group.pg,
            object,
        })
        .collect()
}

/// All objects of a group at a peer.
async fn list(link: &Link, group: PgKey) -> Result<Vec<peer::ObjectState>, String> {
    let mut all: Vec<peer::ObjectState> = Vec::new();
    loop {
        let request = peer::Request {
            object: Some(any_object(group.volume)),
            pg: group.pg.0,
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
        if page.end {
            return Ok(all);
        }
        if !advances {
            return Err("list does not advance".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Inode, PgId, VolumeId};

    const GROUP: PgKey = PgKey {
        volume: VolumeId(1),
        pg: PgId(2),
    };

    fn pg(osds: u64, incomplete: &[u64]) -> Pg {
        Pg {
            view: 1,
            osds: (1..=osds).map(OsdId).collect(),
            incomplete: incomplete.iter().copied().map(OsdId).collect(),
        }
    }

    fn enough(pg: &Pg, compared: &[u64], wiped: bool, silent: &[u64]) -> bool {
        let compared = compared.iter().copied().map(OsdId).collect();
        is_enough(OsdId(1), pg, &compared, wiped, |osd| {
            silent.contains(&osd.0)
        })
    }

    #[test]
    fn crashed_server_waits_for_all_but_the_silent_and_needs_a_majority() {
        let three = pg(3, &[]);

        assert!(enough(&three, &[2, 3], false, &[]));
        assert!(!enough(&three, &[2], false, &[]));
        assert!(enough(&three, &[2], false, &[3]));
        assert!(!enough(&three, &[], false, &[2, 3]));
        assert!(enough(&pg(1, &[]), &[], false, &[]));
        let five = pg(5, &[]);
        assert!(!enough(&five, &[2], false, &[3, 4, 5]));
        assert!(enough(&five, &[2, 4], false, &[3, 5]));
    }

    #[test]
    fn wiped_server_needs_so_many_that_no_majority_is_missed() {
        let three = pg(3, &[1]);

        assert!(!enough(&three, &[2], true, &[3]));
        assert!(enough(&three, &[2, 3], true, &[]));
        assert!(enough(&pg(5, &[1]), &[2, 3, 4], true, &[5]));
        assert!(!enough(&pg(5, &[1]), &[2, 3], true, &[4, 5]));
        assert!(enough(&pg(2, &[1]), &[2], true, &[]));
    }

    #[test]
    fn member_with_a_new_store_is_neither_counted_nor_waited_for() {
        assert!(!enough(&pg(3, &[1, 3]), &[2, 3], true, &[]));
        assert!(enough(&pg(3, &[3]), &[2], false, &[]));
        assert!(!enough(&pg(3, &[3]), &[3], false, &[2]));
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

    #[test]
    fn older_absent_and_suspect_copies_are_missing_and_newer_ones_are_not() {
        let state = |inode, seq, suspect| peer::ObjectState {
            object: Some(
                ObjectId {
                    volume: VolumeId(1),
                    inode: Inode(inode),
                    column: 0,
                }
                .into(),
            ),
            position: Some(peer::Position {
                epoch: 5,
                holder: 1,
                seq,
            }),
            suspect,
            length_bytes: 0,
        };
        let ours = [
            state(1, 4, false),
            state(2, 4, false),
            state(3, 9, false),
            state(4, 9, true),
            state(6, 1, false),
        ];
        let theirs = [
            state(1, 4, false),
            state(2, 5, false),
            state(3, 8, false),
            state(4, 1, false),
            state(5, 1, true),
        ];

        let missing: Vec<_> = missing(GROUP, &ours, &theirs)
            .into_iter()
            .map(|key| key.object.inode.0)
            .collect();

        assert_eq!(missing, [2, 4, 5]);
        let behind: Vec<_> = behind(GROUP, &ours, &theirs)
            .into_iter()
            .map(|key| key.object.inode.0)
            .collect();
        assert_eq!(behind, [3, 6]);
    }
}
