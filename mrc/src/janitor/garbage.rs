//! Objects that object servers should delete.

use std::collections::BTreeMap;

use futures::StreamExt;
use mrc_core::IndexError;
use mrc_core::janitor::{self, Garbage};
use proto::index::command::Op;
use proto::osd::ObjectInPg;
use shell::link::CallError;
use types::OsdId;

use super::Janitor;
use crate::config::{
    DELETE_OBJECTS_MAX, GARBAGE_FAILURES_MAX, GARBAGE_SERVERS_AT_ONCE_MAX, JANITOR_ROUNDS_MAX,
};

/// Behind which record to go on, by object server; absent: at the beginning. What a server can't
/// delete must not keep it from deleting the rest.
pub(super) type Cursors = BTreeMap<OsdId, u64>;

/// How far a server came in one round.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stop {
    /// At the end of its garbage: the next round begins anew.
    End,
    /// Behind this record.
    At(u64),
}

/// Why records are still there.
enum Failed {
    /// The server could not delete all of them; others may go.
    Refused,
    /// It did not answer, or this server does not lead any more.
    Away,
}

impl Janitor {
    pub(super) async fn collect_garbage(&self, cursors: &mut Cursors) -> Result<(), IndexError> {
        let map = self.service.map.get(&**self.service.node.index())?;
        let up = self.service.osds.up(self.service.config.osd_timeout());
        cursors.retain(|osd, _| up.contains(osd));
        let servers: Vec<_> = up
            .into_iter()
            .filter_map(|osd| {
                let address = map.whole.osds.iter().find(|replica| replica.osd == osd.0)?;
                Some((osd, address.address.clone(), cursors.get(&osd).copied()))
            })
            .collect();
        let collecting = servers.into_iter().map(|(osd, address, after)| async move {
            (osd, self.collect_from(osd, &address, after).await)
        });
        let mut collecting =
            futures::stream::iter(collecting).buffer_unordered(GARBAGE_SERVERS_AT_ONCE_MAX);
        while let Some((osd, stop)) = collecting.next().await {
            match stop? {
                Stop::End => cursors.remove(&osd),
                Stop::At(seq) => cursors.insert(osd, seq),
            };
        }
        Ok(())
    }

    async fn collect_from(
        &self,
        osd: OsdId,
        address: &str,
        mut after: Option<u64>,
    ) -> Result<Stop, IndexError> {
        let index = &**self.service.node.index();
        let mut failures = 0;
        for _ in 0..JANITOR_ROUNDS_MAX {
            let page = janitor::garbage(index, osd, after)?;
            if page.is_empty() {
                return Ok(Stop::End);
            }
            for batch in batches(page) {
                let last = batch.last().map(|garbage| garbage.seq);
                match self.delete_batch(osd, address, batch).await {
                    Ok(refused) => failures += refused,
                    // The beginning is as good as any place when it is back.
                    Err(Away) => return Ok(Stop::End),
                }
                after = last.or(after);
                if failures >= GARBAGE_FAILURES_MAX {
                    return Ok(after.map_or(Stop::End, Stop::At));
                }
            }
        }
        Ok(after.map_or(Stop::End, Stop::At))
    }

    /// Has one server delete a batch, and if it refuses each record by itself; returns how many
    /// records are still there.
    async fn delete_batch(
        &self,
        osd: OsdId,
        address: &str,
        batch: Vec<Garbage>,
    ) -> Result<usize, Away> {
        let mut refused = 0;
        match self.delete(osd, address, &batch).await {
            Ok(()) => return Ok(0),
            Err(Failed::Away) => return Err(Away),
            Err(Failed::Refused) if batch.len() == 1 => return Ok(1),
            Err(Failed::Refused) => {}
        }
        for garbage in batch {
            match self.delete(osd, address, &[garbage]).await {
                Ok(()) => {}
                Err(Failed::Away) => return Err(Away),
                Err(Failed::Refused) => refused += 1,
            }
        }
        Ok(refused)
    }

    async fn delete(&self, osd: OsdId, address: &str, garbage: &[Garbage]) -> Result<(), Failed> {
        let objects = garbage.iter().flat_map(|garbage| &garbage.record.objects);
        let objects = objects.map(|object| ObjectInPg {
            object: Some(proto::osd::ObjectRef {
                volume: object.volume,
                inode: object.inode,
                column: 0,
            }),
            pg: object.pg,
            moved: object.moved,
        });
        if let Err(error) = self.links.delete(address, objects.collect()).await {
            tracing::debug!(%osd, %error, "objects not deleted yet");
            return Err(match error {
                CallError::Fault(_) => Failed::Refused,
                _ => Failed::Away,
            });
        }
        let op = Op::Collected(proto::index::Collected {
            osd: osd.0,
            seqs: garbage.iter().map(|garbage| garbage.seq).collect(),
        });
        match self.service.node.propose_internal(op).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Failed::Away),
        }
    }
}

/// It is no use to go on with this server in this round.
struct Away;

/// Cuts a page into batches of up to [`DELETE_OBJECTS_MAX`] objects, or of one record.
fn batches(page: Vec<Garbage>) -> Vec<Vec<Garbage>> {
    let mut batches: Vec<Vec<Garbage>> = Vec::new();
    let mut objects = 0;
    for garbage in page {
        let count = garbage.record.objects.len();
        match batches.last_mut() {
            Some(batch) if objects + count <= DELETE_OBJECTS_MAX => {
                objects += count;
                batch.push(garbage);
            }
            _ => {
                objects = count;
                batches.push(vec![garbage]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::index::{GarbageObject, GarbageRecord};

    #[test]
    fn batches_keep_order_and_limit() {
        let garbage = |seq: u64, objects: usize| Garbage {
            seq,
            record: GarbageRecord {
                objects: vec![GarbageObject::default(); objects],
            },
        };
        let page = vec![
            garbage(1, DELETE_OBJECTS_MAX - 1),
            garbage(2, 1),
            garbage(3, 1),
            garbage(4, DELETE_OBJECTS_MAX + 5),
        ];

        let seqs: Vec<Vec<_>> = batches(page)
            .iter()
            .map(|batch| batch.iter().map(|garbage| garbage.seq).collect())
            .collect();

        assert_eq!(seqs, [vec![1, 2], vec![3], vec![4]]);
    }
}
