//! Requests that wait until the dataset of their placement group is there.
//!
//! Making one takes commands that may take long: another thread runs them, and the shard goes on with what concerns
//! other groups. What waits is done in the order it came in.

use std::sync::Arc;

use osd_core::ObjectKey;
use types::{Fault, PgKey};

use super::Shard;
use crate::board::group_of;
use crate::config::PARKED_MAX;
use crate::shard_item::Item;
use crate::store_root::gated;

impl Shard {
    /// Keeps an item that can't be handled before its group's dataset is there; gives back any other.
    pub(super) fn park(&mut self, item: Item) -> Option<Item> {
        let Some(key) = opened_by(&item) else {
            return Some(item);
        };
        let group = group_of(key);
        if self.around.root.is_gated(group) {
            // That may take hours, and the others can do without this server meanwhile.
            self.refuse(item, &awaited(group));
            return None;
        }
        if let Some(parked) = self.parked.get_mut(&group) {
            if self.parked_count >= PARKED_MAX {
                self.refuse(item, &crowded(group));
                return None;
            }
            parked.push(item);
            self.parked_count += 1;
            return None;
        }
        // Of a group that is others' nothing is made.
        if self.around.root.is_ready(group) || self.membership(key).is_none() {
            return Some(item);
        }
        self.parked.insert(group, vec![item]);
        self.parked_count += 1;
        self.want(group);
        None
    }

    /// Has a group's dataset made, and is told.
    pub(super) fn want(&mut self, group: PgKey) {
        let Some(datasets) = self.around.root.datasets() else {
            return;
        };
        self.parked.entry(group).or_default();
        let inbox = Arc::clone(&self.inbox);
        let on_ready = move |outcome| inbox.deliver(Item::GroupReady { group, outcome });
        datasets.want(group, Box::new(on_ready));
    }

    /// Handles what waited for a group.
    pub(super) fn unpark(&mut self, group: PgKey, outcome: &Result<(), String>) {
        let items = self.parked.remove(&group).unwrap_or_default();
        self.parked_count = self.parked_count.saturating_sub(items.len());
        for item in items {
            match outcome {
                Ok(()) => self.handle(item),
                Err(why) => self.refuse(item, &unmade(group, why)),
            }
        }
    }

    /// Answers an item that can't be handled.
    fn refuse(&mut self, item: Item, fault: &Fault) {
        match item {
            Item::Client { responder, .. } | Item::Peer { responder, .. } => {
                responder.fault(fault.clone());
            }
            Item::Recover(key, _) => self.around.board.put_back(key),
            _ => {}
        }
    }
}

/// The object that an item has opened.
const fn opened_by(item: &Item) -> Option<ObjectKey> {
    match item {
        Item::Client { key, .. }
        | Item::Peer { key, .. }
        | Item::Recover(key, _)
        | Item::BringUp(key) => Some(*key),
        _ => None,
    }
}

fn crowded(group: PgKey) -> Fault {
    Fault::retry(format!(
        "too many requests wait for the dataset of placement group {group}"
    ))
}

fn awaited(group: PgKey) -> Fault {
    Fault::new(
        types::Remedy::Redirect,
        libc::EAGAIN,
        format!("{}; ask another replica", gated(group)),
    )
}

fn unmade(group: PgKey, why: &str) -> Fault {
    Fault::new(
        types::Remedy::Redirect,
        libc::EIO,
        format!(
            "this object server can't make the dataset of placement group {group} ({why}); ask another replica"
        ),
    )
}
