//! Changing the replica set of a placement group.
//!
//! A change goes through a view in which the set before and the new one decide together, everything by
//! a majority of either (joint consensus: Ongaro, *Consensus: Bridging Theory and Practice*, 2014,
//! section 4.3). So it takes effect at once: what was acknowledged before is known to whoever serves now.
//! The set before is given up in the next view, when so many that they could decide have said, in this
//! one, that they have everything: then a majority of the new set has all that was ever acknowledged,
//! and a majority of the set before knows that it does not decide alone any more.

use std::collections::BTreeSet;

use proto::index::{ChangePg, EndPgChange, PgRecord};
use proto::mrc;
use types::{Fault, OsdId, PgId, Quorum, VolumeId};

use crate::command::{Effects, done};
use crate::config;
use crate::errno;
use crate::keys;
use crate::records::{self, Step, Stop, Work};

/// All servers that have a say in a placement group: of the set, in order, then of the one before.
pub(crate) fn members(pg: &PgRecord) -> Vec<u64> {
    let gone = pg.previous.iter().filter(|osd| !pg.osds.contains(osd));
    pg.osds.iter().chain(gone).copied().collect()
}

/// Begins a change, or gives the one that is under way another aim. The set before stays the one that
/// was alone last.
pub(crate) fn change(
    work: &mut Work<'_>,
    change: &ChangePg,
    effects: &mut Effects,
) -> Step<mrc::Response> {
    let (volume, id) = (VolumeId(change.volume), PgId(change.pg));
    let mut pg = planned_for(work, (volume, id), change.view)?;
    let wanted: BTreeSet<u64> = change.osds.iter().copied().collect();
    let most = config::REPLICAS_MAX as usize;
    if wanted.len() != change.osds.len() || !(1..=most).contains(&wanted.len()) {
        return Err(refused(format!(
            "{:?} is no replica set: give 1 to {most} different servers",
            change.osds
        )));
    }
    for osd in &wanted {
        if records::osd(work, OsdId(*osd))?.is_none() {
            return Err(refused(format!("object server {osd} does not exist")));
        }
    }
    if pg.osds == change.osds {
        return Err(refused(format!(
            "placement group {volume}.{id} has the replica set {:?} already",
            pg.osds
        )));
    }
    if pg.previous.is_empty() {
        pg.previous.clone_from(&pg.osds);
    }
    let known = members(&pg);
    let new = wanted.iter().filter(|osd| !known.contains(osd));
    pg.incomplete.extend(new);
    pg.osds.clone_from(&change.osds);
    pg.view += 1;
    pg.settling = members(&pg);
    let either = members(&pg);
    pg.incomplete.retain(|osd| either.contains(osd));
    work.put(keys::pg(volume, id), &pg);
    work.raise_map_version()?;
    effects.map_changed = true;
    Ok(done())
}

/// Ends a change, if that is safe.
pub(crate) fn end(
    work: &mut Work<'_>,
    end: &EndPgChange,
    effects: &mut Effects,
) -> Step<mrc::Response> {
    let (volume, id) = (VolumeId(end.volume), PgId(end.pg));
    let mut pg = planned_for(work, (volume, id), end.view)?;
    if !may_end(&pg) {
        return Err(refused(format!(
            "the change of placement group {volume}.{id} can't end yet; still settling: {:?}",
            pg.settling
        )));
    }
    pg.view += 1;
    pg.previous.clear();
    pg.settling.clear();
    let osds = pg.osds.clone();
    pg.incomplete.retain(|osd| osds.contains(osd));
    work.put(keys::pg(volume, id), &pg);
    work.raise_map_version()?;
    effects.map_changed = true;
    Ok(done())
}

/// Whether a change is under way and enough have declared: all that are new to the set, and a majority of
/// either set.
#[must_use]
pub fn may_end(pg: &PgRecord) -> bool {
    let declared = |osd: &&u64| !pg.settling.contains(osd);
    let majority =
        |set: &[u64]| set.iter().filter(declared).count() >= Quorum::Majority.of(set.len());
    let mut new = pg.osds.iter().filter(|osd| !pg.previous.contains(osd));
    !pg.previous.is_empty()
        && new.all(|osd| declared(&osd))
        && majority(&pg.osds)
        && majority(&pg.previous)
}

/// The group, if it is what the caller believed it to be.
fn planned_for(work: &Work<'_>, (volume, id): (VolumeId, PgId), view: u64) -> Step<PgRecord> {
    let Some(pg) = records::pg(work, volume, id)? else {
        let text = format!("placement group {volume}.{id} does not exist");
        return Err(Fault::surface(errno::ENOENT, text).into());
    };
    if pg.view != view {
        return Err(Fault::surface(
            errno::EAGAIN,
            format!(
                "placement group {volume}.{id} has view {} by now, not {view}; look again",
                pg.view
            ),
        )
        .into());
    }
    Ok(pg)
}

fn refused(text: String) -> Stop {
    Fault::surface(errno::EINVAL, text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changing(osds: &[u64], previous: &[u64], settling: &[u64]) -> PgRecord {
        PgRecord {
            view: 2,
            osds: osds.to_vec(),
            incomplete: Vec::new(),
            previous: previous.to_vec(),
            settling: settling.to_vec(),
        }
    }

    #[test]
    fn change_ends_when_the_new_members_and_a_majority_of_either_set_have_declared() {
        // 3 is dead and 4 takes its place.
        let may_end = |settling| super::may_end(&changing(&[1, 2, 4], &[1, 2, 3], settling));

        assert!(may_end(&[3]) && may_end(&[]));
        assert!(!may_end(&[3, 4]), "the new one lacks something");
        assert!(!may_end(&[2, 3]), "one of the set before does not decide");
        assert!(may_end(&[2]), "3 knows of the change, too");
        assert!(
            !super::may_end(&changing(&[1, 2], &[], &[])),
            "nothing is changing"
        );
        // Of three only one stays: it must have what any two had.
        assert!(super::may_end(&changing(&[1], &[1, 2, 3], &[3])));
        assert!(!super::may_end(&changing(&[1], &[1, 2, 3], &[1])));
    }
}
