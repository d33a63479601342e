//! What the leader does with an act: joint views.

use planner::{Act, Picture};

/// Changes the record as the act says, if the view is still the same.
pub(crate) fn apply(picture: &mut Picture, act: &Act) {
    let (Act::Begin { group, view, .. }
    | Act::Retarget { group, view, .. }
    | Act::End { group, view }) = act;
    let Some(record) = picture.groups.get_mut(group) else {
        return;
    };
    if record.view != *view {
        return;
    }
    record.view += 1;
    match act {
        Act::Begin { members, .. } => {
            record.previous = std::mem::replace(&mut record.members, members.clone());
            record.settling = members.iter().copied().collect();
        }
        Act::Retarget { members, .. } => {
            record.members.clone_from(members);
            record.settling = members.iter().copied().collect();
        }
        Act::End { .. } => {
            record.previous.clear();
            record.settling.clear();
        }
    }
    let (members, previous) = (&record.members, &record.previous);
    record
        .incomplete
        .retain(|osd| members.contains(osd) || previous.contains(osd));
}
