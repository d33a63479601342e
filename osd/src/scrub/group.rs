//! A placement group: its objects one after the other, and what others have of it that is not here.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use osd_core::scrub::{Found, Passed};
use osd_core::{ObjectKey, Position};
use proto::osd::{ScrubDamage, ScrubOutcome};
use proto::peer;
use shell::clock::boottime;
use shell::link::Payload;
use types::{ObjectId, OsdId, PgKey, Quorum};

use super::copy_file::CopyFile;
use super::{Scrub, blocking, not_read, now_ms};
use crate::cluster::{Cluster, Wall};
use crate::config::SCRUB_TIMEOUT;
use crate::recovery::list;
use crate::shard::scrub::ScrubOrder;
use crate::shard_item::Item;

/// A group as the newest map has it.
#[derive(Debug)]
pub(super) struct Scene {
    cluster: Arc<Cluster>,
    view: u64,
    /// The other members whose copies count.
    pub(super) others: Vec<OsdId>,
    pub(super) majority: usize,
    /// What is absent here is known to be absent.
    knows_absent: bool,
}

impl Scene {
    pub(super) fn of(wall: &Wall, me: OsdId, group: PgKey) -> Option<Self> {
        let cluster = wall.newest();
        let pg = cluster.group(group)?;
        let membership = cluster.memberships.get(&group)?;
        let all = pg.replicas.all();
        let counts = |osd: &OsdId| *osd != me && !pg.incomplete.contains(osd);
        Some(Self {
            view: pg.view,
            others: all.iter().copied().filter(counts).collect(),
            majority: Quorum::Majority.of(all.len()),
            knows_absent: membership.recovered && !membership.incomplete,
            cluster: Arc::clone(&cluster),
        })
    }

    /// Asks another member what its file says; none if it can't tell.
    pub(super) async fn ask(
        &self,
        osd: OsdId,
        key: ObjectKey,
        inspect: peer::Inspect,
    ) -> Option<(peer::Inspected, Bytes)> {
        let link = self.cluster.links.get(&osd)?;
        let request = peer::Request {
            object: Some(key.object.into()),
            pg: key.pg.0,
            view: self.view,
            op: Some(peer::request::Op::Inspect(inspect)),
            ..peer::Request::default()
        };
        let answer = link.call::<_, peer::Response>(&request, Payload::none(), SCRUB_TIMEOUT);
        let (response, payload) = answer.await.ok()?;
        match response.reply {
            Some(peer::response::Reply::Inspected(inspected)) => {
                Some((inspected, payload.verified().ok()?))
            }
            _ => None,
        }
    }
}

/// A copy here that is not what another member has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Doubt {
    /// The newest position seen, and at whom; none: this copy can't be trusted.
    newest: Option<(Position, OsdId)>,
}

impl Scrub {
    /// Scrubs what is not done yet of a group.
    pub(super) async fn group(&self, group: PgKey) {
        let passed = self.ledger().passed(group);
        let Some(scene) = Scene::of(&self.around.wall, self.me, group).map(Arc::new) else {
            return;
        };
        if passed == Passed::All {
            return;
        }
        let mut theirs = Vec::new();
        for osd in &scene.others {
            let listed = match scene.cluster.links.get(osd) {
                Some(link) => list(link, group, scene.view).await,
                None => Err("no link".to_owned()),
            };
            match listed {
                Ok((objects, _)) => theirs.push((*osd, objects)),
                Err(reason) => tracing::debug!(%group, %osd, reason, "not compared by the scrub"),
            }
        }
        // Ours afterwards, so that what reached us in between is not missed.
        let ours = match self.around.lister.all(group, false).await {
            Ok(ours) => ours,
            Err(error) => {
                tracing::warn!(%group, %error, "the scrub can't list a placement group");
                return;
            }
        };
        let confirm_at = boottime();
        for object in ours
            .iter()
            .filter_map(|state| state.object.map(ObjectId::from))
        {
            if matches!(passed, Passed::UpTo(last) if object <= last) {
                continue;
            }
            let key = ObjectKey {
                pg: group.pg,
                object,
            };
            self.object(&scene, key).await;
            self.ledger().pass(group, Some(object));
            self.save_now_and_then().await;
            self.look_after_repairs().await;
        }
        let doubts = doubts(group, &ours, &theirs);
        if scene.knows_absent && !doubts.is_empty() {
            let waited = boottime().since(confirm_at).to_std();
            tokio::time::sleep(self.patience.saturating_sub(waited)).await;
            for (key, doubt) in doubts {
                self.confirm(&scene, key, doubt).await;
            }
        }
        self.ledger().pass(group, None);
        self.save_now_and_then().await;
    }

    /// Looks again at a copy that seemed to be wrong as a whole, and has it brought up if it is.
    async fn confirm(&self, scene: &Scene, key: ObjectKey, doubt: Doubt) {
        if self.around.board.is_wanted(key) {
            // Others have found that out before.
            return;
        }
        let Ok(ours) = self.around.lister.look(vec![key]).await else {
            return;
        };
        let ours = ours.first();
        let root = Arc::clone(&self.around.root);
        let file = match blocking(move || CopyFile::open(&root, key)).await {
            Ok(file) => file,
            Err(error) => return not_read(key, &error),
        };
        let damage = match (ours, doubt.newest) {
            (Some(ours), _) if ours.suspect => {
                if !file.is_some_and(|file| file.is_unreadable()) {
                    // It has crashed, which is nobody's fault.
                    self.around.board.want([(key, Position::default())]);
                    return;
                }
                ScrubDamage::ScrubUnreadable
            }
            (ours, Some((newest, osd))) => {
                let position =
                    |state: &peer::ObjectState| state.position.unwrap_or_default().into();
                let here = ours.map_or_else(Position::default, position);
                let changing = file.is_some_and(|file| file.at_rest().is_none());
                if here >= newest
                    || changing
                    || !self.is_still_there(scene, key, (newest, osd)).await
                {
                    return;
                }
                let order = ScrubOrder::Outdated(newest);
                self.around
                    .shards
                    .deliver(key.object, Item::Scrub { key, order });
                match ours {
                    Some(_) => ScrubDamage::ScrubOutdated,
                    None => ScrubDamage::ScrubMissing,
                }
            }
            _ => return,
        };
        tracing::warn!(
            %key, ?damage,
            "the copy here is not what other replicas have, and is brought up from them; unless this server was away, check \
             its disk"
        );
        let newest = doubt
            .newest
            .map_or_else(Position::default, |(newest, _)| newest);
        self.around.board.want([(key, newest)]);
        self.note_whole(key, damage, ScrubOutcome::ScrubRepairing);
    }

    /// Whether a copy at rest that was seen elsewhere has not been deleted since.
    async fn is_still_there(
        &self,
        scene: &Scene,
        key: ObjectKey,
        (newest, osd): (Position, OsdId),
    ) -> bool {
        let answer = scene.ask(osd, key, peer::Inspect::default()).await;
        answer.is_some_and(|(inspected, _)| {
            let position: Position = inspected.position.unwrap_or_default().into();
            inspected.exists && inspected.at_rest && position >= newest
        })
    }

    /// Takes note of copies that were brought up since.
    pub(super) async fn look_after_repairs(&self) {
        let repairing = self.ledger().with(ScrubOutcome::ScrubRepairing);
        for (key, damage) in repairing {
            if self.around.board.is_wanted(key) {
                continue;
            }
            match self.around.lister.look(vec![key]).await.as_deref() {
                Ok([ours]) if !ours.suspect => {
                    self.note_whole(key, damage, ScrubOutcome::ScrubRepaired);
                }
                Ok([]) => self.ledger().retain(|known| known != key),
                _ => self.around.board.want([(key, Position::default())]),
            }
        }
    }

    fn note_whole(&self, key: ObjectKey, damage: ScrubDamage, outcome: ScrubOutcome) {
        let found = Found {
            outcome,
            now_ms: now_ms(),
            blocks: 0,
            repaired: 0,
        };
        self.ledger().note(key, damage, found);
    }
}

/// Copies here that are absent, older than another, or not to be trusted.
fn doubts(
    group: PgKey,
    ours: &[peer::ObjectState],
    theirs: &[(OsdId, Vec<peer::ObjectState>)],
) -> Vec<(ObjectKey, Doubt)> {
    let position = |state: &peer::ObjectState| Position::from(state.position.unwrap_or_default());
    let mut newest: BTreeMap<ObjectId, (Position, OsdId)> = BTreeMap::new();
    for (osd, objects) in theirs {
        for state in objects.iter().filter(|state| !state.suspect) {
            let Some(object) = state.object.map(ObjectId::from) else {
                continue;
            };
            let known = newest.entry(object).or_insert((position(state), *osd));
            *known = (*known).max((position(state), *osd));
        }
    }
    let mut doubts = BTreeMap::new();
    for our in ours {
        let Some(object) = our.object.map(ObjectId::from) else {
            continue;
        };
        match newest.remove(&object) {
            Some(theirs) if !our.suspect && theirs.0 > position(our) => {
                let newest = Some(theirs);
                doubts.insert(object, Doubt { newest });
            }
            Some(_) | None if our.suspect => {
                doubts.insert(object, Doubt { newest: None });
            }
            Some(_) | None => {}
        }
    }
    for (object, theirs) in newest {
        if object.volume == group.volume && theirs.0 > Position::default() {
            let newest = Some(theirs);
            doubts.insert(object, Doubt { newest });
        }
    }
    doubts
        .into_iter()
        .map(|(object, doubt)| {
            (
                ObjectKey {
                    pg: group.pg,
                    object,
                },
                doubt,
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Inode, PgId, VolumeId};

    #[test]
    fn absent_older_and_untrusted_copies_are_doubted_and_others_are_not() {
        let group = PgKey {
            volume: VolumeId(1),
            pg: PgId(2),
        };
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
        let second = vec![state(1, 4, false), state(2, 5, false), state(3, 8, false)];
        let third = vec![
            state(2, 6, false),
            state(5, 1, false),
            state(6, 7, true),
            state(7, 3, true),
        ];

        let doubts = doubts(group, &ours, &[(OsdId(2), second), (OsdId(3), third)]);

        let doubts: Vec<_> = doubts
            .into_iter()
            .map(|(key, doubt)| {
                let newest = doubt.newest.map(|(position, osd)| (position.seq, osd.0));
                (key.object.inode.0, newest)
            })
            .collect();
        assert_eq!(doubts, [(2, Some((6, 3))), (4, None), (5, Some((1, 3)))]);
    }
}
