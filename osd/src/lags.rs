//! How far replicas are behind this server's objects that are being changed, as its shards last saw.

use std::collections::HashMap;

use proto::mrc;
use shell::metrics::Metric;
use types::{Instant, OsdId, PgKey};

use crate::config::LAGS_REPORTED_MAX;

/// What one replica server lacks of a group, of all objects together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Lag {
    /// When the oldest change was made.
    pub(crate) since: Instant,
    pub(crate) bytes: u64,
}

/// What one shard saw.
pub(crate) type ShardLags = HashMap<(PgKey, OsdId), Lag>;

/// What all shards saw, by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Lags(HashMap<usize, ShardLags>);

impl Lag {
    /// Both together.
    pub(crate) fn add(&mut self, other: Self) {
        self.since = self.since.min(other.since);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

impl Lags {
    /// What a shard sees now.
    pub(crate) fn note(&mut self, shard: usize, lags: ShardLags) {
        self.0.insert(shard, lags);
    }

    fn whole(&self) -> ShardLags {
        let mut whole = ShardLags::new();
        for (key, lag) in self.0.values().flatten() {
            let known = whole.entry(*key).or_insert(Lag { bytes: 0, ..*lag });
            known.add(*lag);
        }
        whole
    }

    /// For the metadata cluster, by group; the longest ones if there are too many.
    pub(crate) fn by_group(&self, now: Instant) -> HashMap<PgKey, Vec<mrc::ReplicaLag>> {
        let mut all: Vec<_> = self.whole().into_iter().collect();
        all.sort_unstable_by_key(|((group, osd), lag)| (lag.since, *group, *osd));
        all.truncate(LAGS_REPORTED_MAX);
        let mut groups: HashMap<PgKey, Vec<mrc::ReplicaLag>> = HashMap::new();
        for ((group, osd), lag) in all {
            groups.entry(group).or_default().push(mrc::ReplicaLag {
                osd: osd.0,
                bytes: lag.bytes,
                age_ms: now.since(lag.since).as_millis(),
            });
        }
        groups
    }

    /// The greatest of all.
    pub(crate) fn metrics(&self, now: Instant) -> Vec<Metric> {
        let mut servers: HashMap<OsdId, Lag> = HashMap::new();
        for ((_, osd), lag) in self.whole() {
            let known = servers.entry(osd).or_insert(Lag { bytes: 0, ..lag });
            known.add(lag);
        }
        let bytes = servers.values().map(|lag| lag.bytes).max();
        let oldest = servers.values().map(|lag| lag.since).min();
        let age = oldest.map_or(0, |since| now.since(since).as_millis());
        vec![
            Metric::gauge(
                "oxfs_osd_backup_lag_bytes",
                "Changes made here as primary that the backup server with the most of them has not applied",
                bytes.unwrap_or(0),
            ),
            Metric::gauge(
                "oxfs_osd_backup_lag_ms",
                "Age of the oldest change made here as primary that a backup has not applied",
                age,
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Duration, PgId, VolumeId};

    #[test]
    fn lags_of_all_shards_count_together_until_the_shard_sees_none() {
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        let group = |pg| PgKey {
            volume: VolumeId(1),
            pg: PgId(pg),
        };
        let lag = |ms, bytes| Lag {
            since: at(ms),
            bytes,
        };
        let values = |lags: &Lags| {
            let metrics = lags.metrics(at(100));
            (metrics[0].value, metrics[1].value)
        };
        let mut lags = Lags::default();
        lags.note(0, [((group(1), OsdId(2)), lag(90, 10))].into());
        lags.note(
            1,
            [
                ((group(1), OsdId(2)), lag(80, 5)),
                ((group(2), OsdId(3)), lag(40, 7)),
            ]
            .into(),
        );

        let groups = lags.by_group(at(100));
        let told = mrc::ReplicaLag {
            osd: 2,
            bytes: 15,
            age_ms: 20,
        };
        assert_eq!(groups[&group(1)], [told]);
        assert_eq!(values(&lags), (15, 60));

        lags.note(1, ShardLags::new());
        assert_eq!(values(&lags), (10, 10));
        lags.note(0, ShardLags::new());
        assert_eq!(values(&lags), (0, 0));
        assert!(lags.by_group(at(100)).is_empty());
    }
}
