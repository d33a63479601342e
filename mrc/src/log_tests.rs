//! The log store against Raft's own suite, and against what disks do.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use mrc_core::MemoryIndex;
use openraft::entry::RaftEntry;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{RaftLogReader, StorageError};
use tempfile::TempDir;

use crate::consensus::{Entry, LeaderId, LogId, Payload, Proposal, TypeConfig};
use crate::damage::Damage;
use crate::index_buffer::BufferedIndex;
use crate::log_dir::LogError;
use crate::log_store::LogStore;
use crate::state_machine::StateMachine;

/// Small, so that tests cross segments.
const SEGMENT_BYTES: u32 = 4096;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let log = LogStore::open(dir.path(), 4 * SEGMENT_BYTES, 1).unwrap();
        let machine = StateMachine::new(Arc::new(BufferedIndex::new(
            Box::new(MemoryIndex::new()),
            Damage::default(),
        )))
        .unwrap();
        Ok((dir, log, machine))
    }
}

#[test]
fn contract_raft_storage() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let payload = Bytes::from(vec![index as u8; bytes]);
    Entry::new(id(term, index), Payload::Normal(Proposal(payload)))
}

fn open(dir: &Path) -> LogStore {
    LogStore::open(dir, SEGMENT_BYTES, 1).unwrap()
}

/// Appends one after the other, so that each knows that those before it are stable.
async fn append(log: &mut LogStore, term: u64, indexes: std::ops::Range<u64>, bytes: usize) {
    for index in indexes {
        log.blocking_append([entry(term, index, bytes)])
            .await
            .unwrap();
    }
}

async fn ids(log: &mut LogStore) -> Vec<(u64, u64)> {
    let entries = log.try_get_log_entries(..).await.unwrap();
    entries
        .iter()
        .map(|entry| (entry.log_id.leader_id.term, entry.log_id.index))
        .collect()
}

fn expected(term: u64, indexes: std::ops::Range<u64>) -> Vec<(u64, u64)> {
    indexes.map(|index| (term, index)).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("log-")
        })
        .collect();
    paths.sort();
    paths
}

/// Offset of the record of `index` in its file, by its header.
fn find(path: &Path, index: u64) -> u64 {
    let bytes = std::fs::read(path).unwrap();
    let mut at = 64;
    loop {
        if bytes[at + 16..at + 24] == index.to_le_bytes() && bytes[at..at + 4] == *b"OXRL" {
            return at as u64;
        }
        at += 8;
    }
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

/// What a loss of power does to the mark behind the last batch.
fn lose_mark(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    let mark = (64..bytes.len() - 48)
        .step_by(8)
        .rfind(|at| bytes[*at..*at + 4] == *b"OXRL" && bytes[*at + 40] == 4);
    overwrite(path, mark.unwrap() as u64, &[0; 48]);
}

#[tokio::test]
async fn entries_and_vote_survive_reopening_across_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 1, 0..100, 200).await;
    let vote = openraft::Vote::new(7, 3);
    log.save_vote(&vote).await.unwrap();
    drop(log);

    let mut log = open(dir.path());

    assert_eq!(ids(&mut log).await, expected(1, 0..100));
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert!(segments(dir.path()).len() > 3);
    append(&mut log, 1, 100..110, 200).await;
    drop(log);
    assert_eq!(ids(&mut open(dir.path())).await, expected(1, 0..110));
}

#[tokio::test]
async fn torn_tail_is_dropped_and_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 1, 0..10, 100).await;
    drop(log);
    let path = segments(dir.path()).pop().unwrap();
    lose_mark(&path);
    overwrite(&path, find(&path, 9) + 60, b"torn");

    let mut log = open(dir.path());

    assert_eq!(ids(&mut log).await, expected(1, 0..9));
    append(&mut log, 2, 9..12, 100).await;
    drop(log);
    let mut log = open(dir.path());
    assert_eq!(
        ids(&mut log).await,
        [expected(1, 0..9), expected(2, 9..12)].concat()
    );
}

/// A batch that was torn in its first record while its later ones reached the disk.
#[tokio::test]
async fn records_behind_a_torn_one_of_the_same_batch_do_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 1, 0..3, 100).await;
    log.blocking_append((3..8).map(|index| entry(1, index, 100)))
        .await
        .unwrap();
    drop(log);
    let path = segments(dir.path()).pop().unwrap();
    lose_mark(&path);
    overwrite(&path, find(&path, 3) + 60, b"torn");

    let mut log = open(dir.path());

    assert_eq!(ids(&mut log).await, expected(1, 0..3));
    // A record of the same length, so that it ends where the old one of index 4 began.
    append(&mut log, 2, 3..4, 100).await;
    drop(log);
    let mut log = open(dir.path());
    assert_eq!(
        ids(&mut log).await,
        [expected(1, 0..3), expected(2, 3..4)].concat()
    );
}

#[tokio::test]
async fn damage_in_front_of_stable_records_is_refused_with_file_and_offset() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 1, 0..10, 100).await;
    drop(log);
    let path = segments(dir.path()).pop().unwrap();
    let at = find(&path, 4);
    overwrite(&path, at + 60, b"rot");

    let error = LogStore::open(dir.path(), SEGMENT_BYTES, 1).unwrap_err();

    let LogError::Damaged {
        path: found,
        offset,
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((found, *offset), (&path, at));
    assert!(error.to_string().contains("remove this server's directory"));
}

#[tokio::test]
async fn damage_in_the_last_batch_is_no_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 1, 0..3, 100).await;
    log.blocking_append((3..6).map(|index| entry(1, index, 100)))
        .await
        .unwrap();
    drop(log);
    let path = segments(dir.path()).pop().unwrap();
    let at = find(&path, 4);
    overwrite(&path, at + 60, b"rot");

    let error = LogStore::open(dir.path(), SEGMENT_BYTES, 1).unwrap_err();

    assert!(
        matches!(error, LogError::Damaged { offset, .. } if offset == at),
        "{error}"
    );
}

#[tokio::test]
async fn log_goes_on_behind_its_mark_in_the_same_segment() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for index in 0..5 {
        append(&mut log, 1, index..index + 1, 100).await;
        drop(log);
        log = open(dir.path());
    }
    assert_eq!(ids(&mut log).await, expected(1, 0..5));
    assert_eq!(segments(dir.path()).len(), 1);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        std::fs::copy(item.path(), to.join(item.file_name())).unwrap();
    }
}

/// Nothing that was acknowledged is dropped for a torn tail, whichever bit rots.
#[tokio::test]
async fn log_with_a_flipped_bit_is_whole_or_refused() {
    let home = tempfile::tempdir().unwrap();
    let good = home.path().join("good");
    let mut log = open(&good);
    append(&mut log, 1, 0..20, 100).await;
    log.blocking_append((20..24).map(|index| entry(1, index, 100)))
        .await
        .unwrap();
    let vote = openraft::Vote::new(7, 3);
    log.save_vote(&vote).await.unwrap();
    drop(log);
    let paths = segments(&good);
    assert_eq!(paths.len(), 1);
    let files = [
        (paths[0].clone(), 64 + 24 * 152 + 48),
        (good.join("promises"), 128),
    ];
    let mut refused = 0;
    for (file, used) in files {
        let length = std::fs::metadata(&file).unwrap().len().min(used);
        for at in (0..length).step_by(3) {
            let bad = home.path().join("bad");
            copy(&good, &bad);
            let path = bad.join(file.file_name().unwrap());
            let mut byte = std::fs::read(&path).unwrap()[at as usize];
            byte ^= 1 << (at % 8);
            overwrite(&path, at, &[byte]);

            match LogStore::open(&bad, SEGMENT_BYTES, 1) {
                Ok(mut log) => {
                    assert_eq!(ids(&mut log).await, expected(1, 0..24), "{path:?} at {at}");
                    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
                }
                Err(error) => {
                    assert!(matches!(error, LogError::Damaged { .. }), "{error}");
                    refused += 1;
                }
            }
            std::fs::remove_dir_all(&bad).unwrap();
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[tokio::test]
async fn entry_that_rots_while_the_server_runs_is_told_of_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(dir.path(), 16 << 20, 1).unwrap();
    let count = (crate::config::LOG_CACHE_BYTES_MAX >> 20) as u64 + 8;
    append(&mut log, 1, 0..count, 1 << 20).await;
    let path = segments(dir.path()).remove(0);
    let at = find(&path, 1);
    overwrite(&path, at + 5000, b"rot");

    assert!(log.try_get_log_entries(1..2).await.is_err());

    let said = log.damage().first().unwrap();
    assert!(said.contains(&*path.to_string_lossy()), "{said}");
    assert!(said.contains(&format!("offset {at}")), "{said}");
}

#[tokio::test]
async fn segment_of_a_newer_release_is_refused_by_its_format_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 1, 0..3, 100).await;
    drop(log);
    let path = segments(dir.path()).pop().unwrap();
    let mut header = std::fs::read(&path).unwrap()[..28].to_vec();
    header[7] = b'2';
    let sum = crc32c::crc32c(&header[..24]).to_le_bytes();
    header[24..].copy_from_slice(&sum);
    overwrite(&path, 0, &header);
    let before = std::fs::read(&path).unwrap();

    let error = LogStore::open(dir.path(), SEGMENT_BYTES, 1).unwrap_err();

    let said = error.to_string();
    assert!(
        matches!(error, LogError::Newer { found: b'2', .. }),
        "{said}"
    );
    assert!(said.contains("format 2, this release knows 1"), "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    // Rot is no newer release.
    overwrite(&path, 7, b"3");
    let error = LogStore::open(dir.path(), SEGMENT_BYTES, 1).unwrap_err();
    assert!(matches!(error, LogError::Damaged { .. }), "{error}");
}

/// A command whose only field is one of another release.
#[tokio::test]
async fn command_of_a_newer_release_stops_the_server_before_anything_is_applied() {
    let machine = StateMachine::new(Arc::new(BufferedIndex::new(
        Box::new(MemoryIndex::new()),
        Damage::default(),
    )));
    let machine = machine.unwrap();
    // Field 9999, a number: 5.
    let unknown = Bytes::from_static(&[0xf8, 0xf0, 0x04, 0x05]);
    let entry = Entry::new(id(1, 1), Payload::Normal(Proposal(unknown)));

    let error = machine.apply_batch(vec![(entry, None)]).unwrap_err();

    let said = error.to_string();
    assert!(said.contains("run the newer release"), "{said}");
    assert_eq!(machine.applied(), None);
}

#[tokio::test]
async fn damage_in_an_older_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 1, 0..60, 200).await;
    drop(log);
    let path = segments(dir.path()).remove(0);
    let last = (0..60)
        .take_while(|index| contains(&path, *index))
        .last()
        .unwrap();
    overwrite(&path, find(&path, last) + 60, b"rot");

    let error = LogStore::open(dir.path(), SEGMENT_BYTES, 1).unwrap_err();

    assert!(matches!(error, LogError::Damaged { .. }), "{error}");
}

fn contains(path: &Path, index: u64) -> bool {
    let bytes = std::fs::read(path).unwrap();
    (64..bytes.len() - 24)
        .step_by(8)
        .any(|at| bytes[at..at + 4] == *b"OXRL" && bytes[at + 16..at + 24] == index.to_le_bytes())
}

#[tokio::test]
async fn lost_vote_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 1, 0..3, 100).await;
    drop(log);
    std::fs::remove_file(dir.path().join("promises")).unwrap();

    let error = LogStore::open(dir.path(), SEGMENT_BYTES, 1).unwrap_err();

    assert!(matches!(error, LogError::PromisesLost { .. }), "{error}");
}

#[tokio::test]
async fn truncated_entries_stay_away_and_new_ones_take_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 1, 0..60, 200).await;
    log.truncate_after(Some(id(1, 24))).await.unwrap();
    drop(log);
    assert_eq!(ids(&mut open(dir.path())).await, expected(1, 0..25));

    let mut log = open(dir.path());
    append(&mut log, 2, 25..40, 200).await;
    log.truncate_after(Some(id(2, 25))).await.unwrap();
    append(&mut log, 3, 26..30, 200).await;
    drop(log);

    let all = [expected(1, 0..25), expected(2, 25..26), expected(3, 26..30)].concat();
    assert_eq!(ids(&mut open(dir.path())).await, all);
}

#[tokio::test]
async fn everything_truncated_leaves_an_empty_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 1, 0..60, 200).await;
    log.truncate_after(None).await.unwrap();
    append(&mut log, 2, 0..2, 200).await;
    drop(log);

    assert_eq!(ids(&mut open(dir.path())).await, expected(2, 0..2));
}

#[tokio::test]
async fn purge_removes_whole_segments_and_keeps_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 1, 0..100, 200).await;
    let before = segments(dir.path()).len();
    log.purge(id(1, 70)).await.unwrap();

    assert!(segments(dir.path()).len() < before);
    append(&mut log, 1, 100..120, 200).await;
    drop(log);
    let mut log = open(dir.path());
    assert_eq!(ids(&mut log).await, expected(1, 71..120));
    assert_eq!(
        log.get_log_state().await.unwrap().last_purged_log_id,
        Some(id(1, 70))
    );
}

/// What happens when a checkpoint replaces the log.
#[tokio::test]
async fn purge_beyond_the_end_leaves_a_gap_that_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 1, 0..10, 200).await;
    log.purge(id(3, 500)).await.unwrap();
    assert_eq!(
        log.get_log_state().await.unwrap().last_log_id,
        Some(id(3, 500))
    );
    append(&mut log, 3, 501..505, 200).await;
    drop(log);

    let mut log = open(dir.path());

    assert_eq!(ids(&mut log).await, expected(3, 501..505));
    assert!(!log.is_pristine());
}

#[tokio::test]
async fn entries_out_of_the_cache_are_read_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(dir.path(), 16 << 20, 1).unwrap();
    // More than the cache holds.
    let count = (crate::config::LOG_CACHE_BYTES_MAX >> 20) as u64 + 8;
    append(&mut log, 1, 0..count, 1 << 20).await;

    let entries = log.try_get_log_entries(0..2).await.unwrap();

    assert_eq!(entries, [entry(1, 0, 1 << 20), entry(1, 1, 1 << 20)]);
    assert_eq!(log.limited_get_log_entries(0, 5).await.unwrap().len(), 1);
}

#[tokio::test]
async fn entry_longer_than_a_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());

    let result = log
        .blocking_append([entry(1, 0, SEGMENT_BYTES as usize)])
        .await;

    assert!(result.is_err());
}
