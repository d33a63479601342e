//! What every adapter of the [`ObjectStore`] port must do; its tests call [`run`], and [`reopen`] if
//! the adapter keeps its objects on disk.

use bytes::Bytes;
use types::{BLOCK_BYTES, Inode, ObjectId, OsdId, PgId, PgKey, SUM_BYTES, SessionId, VolumeId};

use crate::position::{Position, Promise};
use crate::record::{Mark, Record};
use crate::store::{ObjectKey, ObjectStore, StoreError};

/// Makes the adapter under test: empty for [`run`], the same store again for [`reopen`].
pub type Make<'a> = dyn FnMut() -> Box<dyn ObjectStore> + 'a;

const PG: PgKey = PgKey {
    volume: VolumeId(3),
    pg: PgId(5),
};

fn key(inode: u64) -> ObjectKey {
    ObjectKey {
        pg: PG.pg,
        object: ObjectId {
            volume: PG.volume,
            inode: Inode(inode),
            column: 0,
        },
    }
}

fn record(seq: u64, length_bytes: u64, clean: bool) -> Record {
    let holder = OsdId(2);
    Record {
        promised: Promise { epoch: 9, holder },
        position: Position {
            epoch: 9,
            seq,
            holder,
        },
        length_bytes,
        clean,
        marks: vec![Mark {
            session: SessionId(4),
            change_id: seq,
            first_id: 1,
            append_offset: 2,
        }],
    }
}

fn pattern(length: usize, seed: u64) -> Bytes {
    let bytes = (0..length as u64).map(|at| (at * 31 + seed * 17 + at / 251) as u8);
    bytes.collect::<Vec<_>>().into()
}

/// Runs the part of the contract that needs no restart, each check on a fresh, empty store.
///
/// # Errors
///
/// What the adapter returned.
///
/// # Panics
///
/// If the adapter breaks the contract.
pub fn run(make: &mut Make<'_>) -> Result<(), StoreError> {
    absent_object_is_absent(&mut *make())?;
    bytes_are_read_as_written(&mut *make())?;
    gaps_and_zeros_read_as_zeros(&mut *make())?;
    truncated_bytes_do_not_come_back(&mut *make())?;
    sums_are_those_of_the_bytes(&mut *make())?;
    writing_nothing_moves_the_end_only_outwards(&mut *make())?;
    seeking_finds_data_and_skips_holes(&mut *make())?;
    agrees_with_a_plain_array(&mut *make())?;
    record_is_found_after_a_job(&mut *make())?;
    objects_are_listed_in_order(&mut *make())
}

/// Checks that what was synced survives closing the store and opening it again.
///
/// # Errors
///
/// What the adapter returned.
///
/// # Panics
///
/// If the adapter breaks the contract.
pub fn reopen(make: &mut Make<'_>) -> Result<(), StoreError> {
    let data = pattern(3 * SUM_BYTES as usize + 77, 1);
    let length = data.len() as u64;
    {
        let store = &mut *make();
        for inode in 1..=2 {
            store.create(key(inode), &Record::default())?;
            store.write(key(inode), 0, &data)?;
        }
        store.sync(key(1), true, &record(7, length, true))?.run()?;
        store.sync(key(2), true, &record(8, length, false))?.run()?;
        store.create(key(3), &Record::default())?;
        store.sync(key(3), false, &record(0, 0, false))?.run()?;
    }
    let store = &mut *make();
    for (inode, seq, clean) in [(1, 7, true), (2, 8, false)] {
        let header = store.open(key(inode))?.unwrap_or_default();
        assert_eq!(header.record, record(seq, length, clean));
        assert_eq!(header.length_bytes, length);
        assert_eq!(read_all(store, key(inode))?, data);
    }
    let header = store.open(key(3))?.unwrap_or_default();
    assert_eq!(header.record, record(0, 0, false), "a record without data");
    Ok(())
}

fn read_all(store: &mut dyn ObjectStore, key: ObjectKey) -> Result<Bytes, StoreError> {
    let length = store.length(key);
    store.read(key, 0, length as u32)
}

fn absent_object_is_absent(store: &mut dyn ObjectStore) -> Result<(), StoreError> {
    assert_eq!(store.open(key(1))?, None);
    assert_eq!(store.length(key(1)), 0);
    let read = store.read(key(1), 0, 1);
    assert!(matches!(read, Err(StoreError::Missing)), "{read:?}");
    let write = store.write(key(1), 0, &pattern(1, 1));
    assert!(matches!(write, Err(StoreError::Missing)), "{write:?}");
    store.delete(key(1))?;
    store.create(key(1), &Record::default())?;
    assert_eq!(
        store.open(key(1))?.map(|header| header.length_bytes),
        Some(0)
    );
    store.delete(key(1))?;
    assert_eq!(store.open(key(1))?, None);
    Ok(())
}

fn bytes_are_read_as_written(store: &mut dyn ObjectStore) -> Result<(), StoreError> {
    let data = pattern(200_000, 2);
    store.create(key(1), &Record::default())?;
    store.write(key(1), 0, &data)?;
    store.write(key(1), 4_000, &pattern(300, 3))?;

    let mut expected = data.to_vec();
    expected[4_000..4_300].copy_from_slice(&pattern(300, 3));
    assert_eq!(read_all(store, key(1))?, expected);
    assert_eq!(store.read(key(1), 3_990, 400)?, expected[3_990..4_390]);
    let end = store.read(key(1), 199_990, 100)?;
    assert_eq!(end, expected[199_990..], "fewer bytes at the end");
    assert!(store.read(key(1), 200_000, 100)?.is_empty());
    assert!(store.read(key(1), u64::MAX - 5, 100)?.is_empty());
    Ok(())
}

fn writing_nothing_moves_the_end_only_outwards(
    store: &mut dyn ObjectStore,
) -> Result<(), StoreError> {
    store.create(key(1), &Record::default())?;
    store.write(key(1), 0, &pattern(5_000, 2))?;

    store.write(key(1), 1_000, &Bytes::new())?;
    assert_eq!(read_all(store, key(1))?, pattern(5_000, 2));
    store.write(key(1), 100_000, &Bytes::new())?;

    let mut expected = pattern(5_000, 2).to_vec();
    expected.resize(100_000, 0);
    assert_eq!(read_all(store, key(1))?, expected);
    Ok(())
}

fn gaps_and_zeros_read_as_zeros(store: &mut dyn ObjectStore) -> Result<(), StoreError> {
    store.create(key(1), &Record::default())?;
    store.write(key(1), 1_000_000, &pattern(10, 1))?;
    assert_eq!(store.length(key(1)), 1_000_010);
    assert_eq!(store.read(key(1), 999_000, 1_000)?, vec![0; 1_000]);

    store.write(key(1), 0, &pattern(9_000, 1))?;
    store.write_zeros(key(1), 100, 8_000)?;
    let mut expected = pattern(9_000, 1).to_vec();
    expected[100..8_100].fill(0);
    assert_eq!(store.read(key(1), 0, 9_000)?, expected);
    store.write_zeros(key(1), 1_000_005, 100)?;
    assert_eq!(store.length(key(1)), 1_000_105);
    assert_eq!(store.read(key(1), 1_000_005, 200)?, vec![0; 100]);
    Ok(())
}

fn truncated_bytes_do_not_come_back(store: &mut dyn ObjectStore) -> Result<(), StoreError> {
    store.create(key(1), &Record::default())?;
    store.write(key(1), 0, &pattern(300_000, 1))?;
    for cut in [200_001, 70_000, 4_096, 10] {
        store.truncate(key(1), cut)?;
        assert_eq!(store.length(key(1)), cut);
        store.truncate(key(1), 300_000)?;
        let bytes = read_all(store, key(1))?;
        let cut = cut as usize;
        assert_eq!(bytes[..cut], pattern(cut, 1)[..], "up to {cut}");
        assert!(bytes[cut..].iter().all(|byte| *byte == 0), "after {cut}");
    }
    store.truncate(key(1), 0)?;
    assert!(read_all(store, key(1))?.is_empty());
    Ok(())
}

fn sums_are_those_of_the_bytes(store: &mut dyn ObjectStore) -> Result<(), StoreError> {
    let data = pattern(2 * SUM_BYTES as usize + 5, 1);
    store.create(key(1), &Record::default())?;
    store.write(key(1), 0, &data)?;

    let expected: Vec<_> = data
        .chunks(SUM_BYTES as usize)
        .map(crc32c::crc32c)
        .collect();
    assert_eq!(store.sums(key(1), 0, 9)?, expected);
    assert_eq!(store.sums(key(1), 1, 1)?, expected[1..2]);
    assert!(store.sums(key(1), 3, 1)?.is_empty());
    assert!(store.sums(key(1), u64::MAX, 1)?.is_empty());
    Ok(())
}

fn seeking_finds_data_and_skips_holes(store: &mut dyn ObjectStore) -> Result<(), StoreError> {
    let missing = store.seek(key(1), 0, false);
    assert!(matches!(missing, Err(StoreError::Missing)), "{missing:?}");
    store.create(key(1), &Record::default())?;
    for hole in [false, true] {
        assert_eq!(store.seek(key(1), 0, hole)?, None, "an empty object");
    }
    // Two pieces of data between three holes that are much longer than any block.
    let (first, second, end) = (8 << 20, 24 << 20, 32 << 20);
    let length = 1 << 20;
    let data: Bytes = vec![7; length as usize].into();
    store.write(key(1), first, &data)?;
    store.write(key(1), second, &data)?;
    store.truncate(key(1), end)?;
    store.sync(key(1), true, &record(1, end, false))?.run()?;

    for at in [0, 5, first - 1, first] {
        let data = store.seek(key(1), at, false)?.unwrap_or(end);
        assert!((at..=first).contains(&data), "data at {data} from {at}");
        // A block of the file system may reach into the hole.
        assert!(data + BLOCK_BYTES > first.min(at + BLOCK_BYTES), "{data}");
    }
    assert_eq!(store.seek(key(1), first + 77, false)?, Some(first + 77));
    assert_eq!(store.seek(key(1), second + length, false)?, None);
    assert_eq!(store.seek(key(1), 3, true)?, Some(3));
    assert_eq!(store.seek(key(1), first, true)?, Some(first + length));
    assert_eq!(store.seek(key(1), first + length, false)?, Some(second));
    assert_eq!(store.seek(key(1), end - 1, true)?, Some(end - 1));
    for at in [end, end + 1, u64::MAX] {
        for hole in [false, true] {
            assert_eq!(store.seek(key(1), at, hole)?, None, "behind the end");
        }
    }
    store.truncate(key(1), second + length)?;
    let hole = store.seek(key(1), second, true)?;
    assert_eq!(hole, Some(second + length), "the end is a hole");
    Ok(())
}

fn agrees_with_a_plain_array(store: &mut dyn ObjectStore) -> Result<(), StoreError> {
    let mut array: Vec<u8> = Vec::new();
    // A linear congruential generator: the same steps for every adapter.
    let mut state = 1_u64;
    let mut draw = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    store.create(key(1), &Record::default())?;
    for round in 0..300 {
        let (offset, length) = (draw(3 * SUM_BYTES), draw(3 * BLOCK_BYTES));
        let (start, end) = (offset as usize, (offset + length) as usize);
        match draw(8) {
            0 => {
                store.truncate(key(1), offset)?;
                array.resize(start, 0);
            }
            1 if length > 0 => {
                store.write_zeros(key(1), offset, length)?;
                array.resize(array.len().max(end), 0);
                array[start..end].fill(0);
            }
            2 => store
                .sync(key(1), true, &record(round, array.len() as u64, false))?
                .run()?,
            3 => {
                store.close(key(1));
                store.open(key(1))?;
            }
            _ if length > 0 => {
                store.write(key(1), offset, &pattern(length as usize, round))?;
                array.resize(array.len().max(end), 0);
                array[start..end].copy_from_slice(&pattern(length as usize, round));
            }
            _ => {}
        }
        assert_eq!(store.length(key(1)), array.len() as u64, "round {round}");
        let read = store.read(key(1), offset, length as u32)?;
        let present = array.len().min(end).max(start.min(array.len()));
        assert_eq!(read, array[start.min(present)..present], "round {round}");
        let data = store.seek(key(1), offset, false)?;
        let data = data.map_or(array.len(), |data| data as usize);
        let skipped = array.get(start..data).unwrap_or_default();
        assert!(skipped.iter().all(|byte| *byte == 0), "round {round}");
        if let Some(hole) = store.seek(key(1), offset, true)? {
            let hole = hole as usize;
            let block = hole.next_multiple_of(BLOCK_BYTES as usize);
            let zeros = array.get(hole..block.min(array.len())).unwrap_or_default();
            assert!(zeros.iter().all(|byte| *byte == 0), "round {round}");
        }
    }
    assert_eq!(read_all(store, key(1))?, array);
    Ok(())
}

fn record_is_found_after_a_job(store: &mut dyn ObjectStore) -> Result<(), StoreError> {
    store.create(key(1), &record(0, 0, false))?;
    store.write(key(1), 0, &pattern(100, 1))?;
    let mut job = store.sync(key(1), true, &record(1, 100, false))?;
    // What comes after the job was made is not its business, but must not disturb it.
    store.write(key(1), 50, &pattern(100, 2))?;
    job.write_data(true)?;
    job.write_record(true)?;
    store.close(key(1));

    let header = store.open(key(1))?.unwrap_or_default();
    assert_eq!(header.record, record(1, 100, false));
    assert_eq!(header.length_bytes, 150);
    for seq in 2..5 {
        store
            .sync(key(1), seq % 2 == 0, &record(seq, 150, true))?
            .run()?;
        assert_eq!(
            store.open(key(1))?.map(|header| header.record),
            Some(record(seq, 150, true))
        );
    }
    Ok(())
}

fn objects_are_listed_in_order(store: &mut dyn ObjectStore) -> Result<(), StoreError> {
    for inode in [700, 3, 256, 255, 1 << 40] {
        store.create(key(inode), &Record::default())?;
        store
            .sync(key(inode), true, &record(inode, 0, true))?
            .run()?;
    }
    let other = ObjectKey {
        pg: PgId(6),
        ..key(4)
    };
    store.create(other, &Record::default())?;

    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(PG, after, 2)?;
        assert!(page.len() <= 2);
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        listed.extend(page.into_iter().map(|(object, header)| {
            assert_eq!(header.record.position.seq, object.inode.0);
            object.inode.0
        }));
    }
    assert_eq!(listed, [3, 255, 256, 700, 1 << 40]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    #[test]
    fn contract_memory_store() {
        run(&mut || Box::new(MemoryStore::new())).unwrap();
        let store = MemoryStore::new();
        reopen(&mut || {
            store.restart();
            Box::new(store.clone())
        })
        .unwrap();
    }

    #[test]
    fn contract_memory_store_keeps_what_was_synced_when_power_fails() {
        for seed in 0..20_u64 {
            let store = MemoryStore::new();
            let mut state = seed;
            reopen(&mut || {
                store.lose_power(&mut |below| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(99);
                    (state >> 33) % below
                });
                Box::new(store.clone())
            })
            .unwrap();
        }
    }
}
