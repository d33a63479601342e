//! Before a copy is brought up: whether it belongs to a majority that is older than somebody else.
//!
//! What a majority acknowledged is at a majority, so whoever is behind is in the minority. If it is not, disks have
//! lost something, and the older copies would make theirs the truth: this one must not vote.

use std::sync::Arc;

use osd_core::{ObjectKey, Position};
use proto::peer;
use tokio::task::JoinSet;
use types::OsdId;

use super::blocking;
use super::copy_file::CopyFile;
use super::group::Scene;
use crate::board::group_of;
use crate::cluster::Wall;
use crate::config::OUTVOTED_TIMEOUT;
use crate::shard::scrub::ScrubOrder;
use crate::shard_item::Item;
use crate::shards::Shards;
use crate::store_root::Root;

/// What it takes to have a copy brought up.
#[derive(Clone, Debug)]
pub(crate) struct Bringer {
    pub(crate) me: OsdId,
    pub(crate) root: Arc<Root>,
    pub(crate) wall: Arc<Wall>,
    pub(crate) shards: Shards,
}

impl Bringer {
    /// Has a copy brought up; before that, distrusts it if it would outvote a newer one.
    pub(crate) async fn bring_up(self, key: ObjectKey, seen: Position) {
        if let Some(newest) = self.newer_than_majority(key).await {
            tracing::warn!(
                %key, ?newest,
                "most copies are older than another replica's or missing, so disks have lost something; the newest counts"
            );
            let order = ScrubOrder::Outdated(newest);
            self.shards.deliver(key.object, Item::Scrub { key, order });
        }
        self.shards.deliver(key.object, Item::Recover(key, seen));
    }

    async fn newer_than_majority(&self, key: ObjectKey) -> Option<Position> {
        let scene = Arc::new(Scene::of(&self.wall, self.me, group_of(key))?);
        let root = Arc::clone(&self.root);
        let file = blocking(move || CopyFile::open(&root, key)).await.ok()?;
        let mine = match file {
            Some(file) => file.at_rest()?,
            None => Position::default(),
        };
        let mut asked = JoinSet::new();
        for osd in scene.others.iter().copied() {
            let scene = Arc::clone(&scene);
            asked.spawn(async move {
                let ask = scene.ask(osd, key, peer::Inspect::default());
                tokio::time::timeout(OUTVOTED_TIMEOUT, ask).await.ok()?
            });
        }
        let answers = asked.join_all().await.into_iter().flatten();
        newer_than(mine, answers.map(|(theirs, _)| theirs), scene.majority)
    }
}

/// The newest position at rest, if a majority is known to be older.
fn newer_than(
    mine: Position,
    answers: impl Iterator<Item = peer::Inspected>,
    majority: usize,
) -> Option<Position> {
    let at = |theirs: &peer::Inspected| match (theirs.exists, theirs.at_rest) {
        (false, _) => Some(Position::default()),
        (true, true) => theirs.position.map(Position::from),
        // It is being changed.
        (true, false) => None,
    };
    let mut positions: Vec<_> = answers.filter_map(|theirs| at(&theirs)).collect();
    positions.push(mine);
    let newest = positions.iter().copied().max()?;
    let older = positions.iter().filter(|position| **position < newest);
    (mine < newest && older.count() >= majority).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_is_outvoting_only_with_a_majority_that_is_known_to_be_older() {
        let position = |seq| Position {
            epoch: 7,
            seq,
            holder: OsdId(1),
        };
        let at_rest = |seq| peer::Inspected {
            exists: true,
            at_rest: true,
            position: Some(position(seq).into()),
            ..peer::Inspected::default()
        };
        let absent = peer::Inspected::default;
        let changing = || peer::Inspected {
            exists: true,
            ..peer::Inspected::default()
        };
        let newer = |mine, theirs: Vec<peer::Inspected>| {
            newer_than(position(mine), theirs.into_iter(), 2).map(|newest| newest.seq)
        };

        assert_eq!(newer(3, vec![at_rest(3), at_rest(5)]), Some(5));
        assert_eq!(newer(3, vec![absent(), at_rest(5)]), Some(5));
        assert_eq!(newer(3, vec![at_rest(4), at_rest(5)]), Some(5));
        assert_eq!(
            newer(3, vec![at_rest(5), at_rest(5)]),
            None,
            "as it should be"
        );
        assert_eq!(newer(3, vec![at_rest(5)]), None, "one is not heard");
        assert_eq!(newer(3, vec![changing(), at_rest(5)]), None);
        assert_eq!(newer(5, vec![absent(), at_rest(3)]), None);
    }
}
