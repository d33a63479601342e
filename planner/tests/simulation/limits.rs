//! How many changes are under way, and where.

use std::collections::{BTreeMap, BTreeSet};

use planner::{Act, Group, Limits, Picture, State};
use types::OsdId;

use crate::checks::{majority_of, servers_of};

/// Checks the limits after `act`, for the servers it begins to copy to or from.
/// `overfull` are servers whose changes copied nothing any more when the plan was made.
pub(crate) fn check(
    picture: &Picture,
    overfull: &BTreeSet<OsdId>,
    limits: &Limits,
    act: &Act,
) -> Result<(), String> {
    let (Act::Begin { group, .. } | Act::Retarget { group, .. } | Act::End { group, .. }) = act;
    let is_up = |osd: &OsdId| {
        let server = picture.servers.get(osd);
        server.is_some_and(|server| server.state == State::Up)
    };
    let votes = |record: &Group, osd: &OsdId| is_up(osd) && !record.incomplete.contains(osd);
    let mut changes = 0;
    let mut copies: BTreeMap<OsdId, u32> = BTreeMap::new();
    let mut concerned = Vec::new();
    for (key, record) in &picture.groups {
        let set = servers_of(record);
        let voting = set.iter().filter(|osd| votes(record, osd)).count();
        if record.previous.is_empty() || voting < majority_of(set) {
            continue;
        }
        let members = record.members.iter();
        let targets: Vec<OsdId> = members.filter(|osd| !set.contains(osd)).copied().collect();
        if key != group && targets.iter().any(|osd| overfull.contains(osd)) {
            continue;
        }
        changes += 1;
        let source = set.iter().find(|osd| votes(record, osd));
        let busy: Vec<OsdId> = match source {
            Some(source) if !targets.is_empty() => [&targets[..], &[*source]].concat(),
            _ => Vec::new(),
        };
        for osd in &busy {
            *copies.entry(*osd).or_insert(0) += 1;
        }
        if key == group {
            concerned = match act {
                Act::Begin { .. } => busy,
                // It copied from the same server before.
                Act::Retarget { .. } => targets,
                Act::End { .. } => Vec::new(),
            };
        }
    }
    let begins = matches!(act, Act::Begin { .. });
    if begins && changes > limits.changes_max {
        return Err(format!("{changes} changes are under way"));
    }
    let over = |osd: &&OsdId| copies.get(osd) > Some(&limits.changes_per_server_max);
    match concerned.iter().find(over) {
        Some(osd) => Err(format!("too many changes on server {osd}")),
        None => Ok(()),
    }
}
