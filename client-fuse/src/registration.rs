//! Signs of life of the session, and what leaders of the metadata cluster are told of open files.
//!
//! A leader keeps files that are open for reading in its memory only. A new one asks for them, and
//! removes nothing before it knows. What it is told must be neither less than what is open, nor more
//! than it will hear being closed: files that it believes open are never removed.

use std::sync::{Arc, Weak};

use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{KeepAlive, KeptAlive, MountNumbers};
use shell::times::Histogram;

use crate::config::{REGISTER_MAX, REGISTRATIONS_MAX};
use crate::metadata::Metadata;
use crate::oxfs::Inner;
use crate::shared::Shared;

/// Keeps the session alive until the mount is gone.
pub(crate) async fn keep_alive(mount: Weak<Inner>, shared: Arc<Shared>) {
    let metadata = &shared.metadata;
    let mut term = 0;
    let mut times = Histogram::default();
    let mut greeted = false;
    while let Ok(session) = metadata.session() {
        // The first one at once: what it tells of the mount is known then.
        if std::mem::replace(&mut greeted, true) {
            tokio::select! {
                () = tokio::time::sleep(session.timeout / 3) => {}
                () = metadata.leader_changed.notified() => {}
            }
        }
        let numbers = MountNumbers {
            metrics_address: shared
                .metrics_address
                .get()
                .map_or_else(String::new, ToString::to_string),
            ..shared.served.numbers(&mut times)
        };
        let mut answer = beat(metadata, (term, None, Some(numbers)), 0).await;
        // Each time, another one leads by now.
        for _ in 0..REGISTRATIONS_MAX {
            let Some(asking) = answer.filter(|kept| kept.register) else {
                break;
            };
            let Some(mount) = mount.upgrade() else {
                return;
            };
            term = asking.term;
            // Drawn first: whatever is opened or closed from now on counts as said after the list.
            let order = metadata.draw_order();
            let told = readers(&mount);
            answer = beat(metadata, (term, Some(told.clone()), None), order).await;
            // Files that are being closed may take long.
            tokio::spawn(release_closed(mount, told));
        }
    }
}

async fn release_closed(mount: Arc<Inner>, told: Vec<u64>) {
    if let Err(errno) = mount.files.release_closed(&told).await {
        tracing::warn!(%errno, "a file that was closed here may be kept when it is removed");
    }
}

/// A sign of life; with all files that are open for reading, it is for the leader of that term alone.
async fn beat(
    metadata: &Metadata,
    (term, open_inodes, numbers): (u64, Option<Vec<u64>>, Option<MountNumbers>),
    order: u64,
) -> Option<KeptAlive> {
    let beat = KeepAlive {
        registered_term: term,
        complete: open_inodes.is_some(),
        open_inodes: open_inodes.unwrap_or_default(),
        numbers,
    };
    match metadata.ask_in_order(Op::KeepAlive(beat), order).await {
        Ok(Reply::KeptAlive(kept)) => {
            metadata.told(&kept.mrcs);
            Some(kept)
        }
        // Answered or not: the next beat asks again whether something is missing.
        _ => None,
    }
}

fn readers(mount: &Inner) -> Vec<u64> {
    let mut inodes = mount.files.readers();
    if inodes.len() > REGISTER_MAX {
        tracing::error!(
            open = inodes.len(),
            limit = REGISTER_MAX,
            "too many files are open to tell the new leader of all; \
             those that are unlinked may go"
        );
        inodes.truncate(REGISTER_MAX);
    }
    inodes
}
