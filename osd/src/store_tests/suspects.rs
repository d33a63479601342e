//! Objects that were not closed: their sums are made anew, bit by bit and by whoever is first.

use super::*;
use crate::config::TABLES_MAX;
use crate::note::MachineBoot;

const GROUP_BYTES: u64 = 4 << 20;

/// An object of so many groups with data in each, as it is found after a crash.
fn suspect(groups: u64) -> Bed {
    let mut bed = Bed::new();
    bed.store.create(key(1), &Record::default()).unwrap();
    for group in 0..groups {
        let at = group * GROUP_BYTES + (2 << 20);
        bed.store.write(key(1), at, &bytes(4_096, 1)).unwrap();
    }
    // The record is from before all that.
    bed.sync(key(1), &record(1, 0, false));
    bed.store.write(key(1), 0, &bytes(4_096, 2)).unwrap();
    bed.crash();
    bed
}

#[test]
pub(super) fn sums_are_made_anew_in_parts_by_the_job_that_vouches_for_them() {
    let mut bed = suspect(20);
    let length = bed.store.length(key(1));

    let mut job = bed
        .store
        .sync(key(1), true, &record(2, length, true))
        .unwrap();
    let mut parts = 0;
    while !job.is_prepared() {
        job.prepare().unwrap();
        parts += 1;
    }
    job.run().unwrap();

    assert!((20..=22).contains(&parts), "{parts} parts");
    bed.crash();
    let header = bed.store.open(key(1)).unwrap().unwrap();
    assert!(header.record.clean);
    assert_eq!(bed.store.read(key(1), 0, 4_096).unwrap(), bytes(4_096, 2));
    // They are sums that notice damage.
    let last = length - 4_096;
    assert!(bed.store.read(key(1), last, 4_096).is_ok());
    let file_bytes = fs::metadata(bed.file(key(1))).unwrap().len();
    bed.flip(key(1), file_bytes - 7);
    assert!(bed.store.read(key(1), last, 4_096).is_err());
}

#[test]
pub(super) fn holes_need_no_look() {
    let mut bed = Bed::new();
    bed.store.create(key(1), &Record::default()).unwrap();
    bed.store.write(key(1), 0, &bytes(4_096, 1)).unwrap();
    bed.store.write(key(1), 1 << 40, &bytes(4_096, 1)).unwrap();
    let length = bed.store.length(key(1));
    bed.sync(key(1), &record(1, 0, false));
    bed.crash();

    let mut job = bed
        .store
        .sync(key(1), true, &record(2, length, true))
        .unwrap();
    let mut parts = 0;
    while !job.is_prepared() {
        job.prepare().unwrap();
        parts += 1;
    }

    assert!(parts <= 4, "{parts} parts");
    job.run().unwrap();
    bed.crash();
    let read = bed.store.read(key(1), 1 << 40, 4_096).unwrap();
    assert_eq!(read, bytes(4_096, 1));
}

/// What a primary does after a crash of all: it looks at every block that is not known to be a hole.
#[test]
pub(super) fn comparing_a_sparse_object_of_a_tebibyte_looks_at_its_data_only() {
    let mut bed = Bed::new();
    let length = 1 << 40;
    let places = [0, 300 << 30, (700 << 30) + 12_345];
    bed.store.create(key(1), &Record::default()).unwrap();
    for at in places {
        bed.store.write(key(1), at, &bytes(4_096, 1)).unwrap();
    }
    bed.sync(key(1), &record(1, 0, false));
    bed.crash();
    bed.store.truncate(key(1), length).unwrap();
    let begun = std::time::Instant::now();

    let mut blocks = 0;
    let mut at = 0;
    while let Some(data) = bed.store.seek(key(1), at, false).unwrap() {
        let first = data / SUM_BYTES;
        let sums = bed.store.sums(key(1), first, 32).unwrap();
        blocks += sums.len();
        at = (first + 32) * SUM_BYTES;
    }

    assert_eq!(blocks, places.len() * 32);
    for at in places {
        assert_eq!(bed.store.read(key(1), at, 4_096).unwrap(), bytes(4_096, 1));
        let hole = bed.store.seek(key(1), at, true).unwrap().unwrap();
        assert!((at + 4_096..at + 3 * 4_096).contains(&hole), "{hole}");
    }
    // Half a minute by the most hasty way of reading holes.
    assert!(begun.elapsed() < std::time::Duration::from_secs(2));
}

/// A suspect object's tables need not stay, however many are looked at.
#[test]
pub(super) fn memory_for_sums_is_bounded() {
    let bed = suspect(1);
    let path = bed.file(key(1));
    let (mut file, _) = ObjectFile::open(key(1).object, path, MachineBoot(1))
        .unwrap()
        .unwrap();
    file.settle(1 << 40, true);
    file.write(1 << 40, &bytes(10, 3)).unwrap();

    for group in 0..=TABLES_MAX as u64 {
        file.read(group * GROUP_BYTES, 1).unwrap();
        assert!(file.tables_count() <= TABLES_MAX + 1);
    }

    assert_eq!(file.read(0, 4_096).unwrap(), bytes(4_096, 2));
    assert_eq!(file.read(1 << 40, 10).unwrap(), bytes(10, 3));
}

#[test]
pub(super) fn changes_while_sums_are_made_anew_are_not_lost() {
    use rand::{Rng, RngExt, SeedableRng};
    for seed in 0..30 {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut bed = suspect(4);
        let mut model = bed.read_all(key(1)).to_vec();
        bed.crash();
        let length = model.len() as u64;
        let mut job = bed
            .store
            .sync(key(1), true, &record(2, length, true))
            .unwrap();

        while !job.is_prepared() {
            let offset = rng.random_range(0..model.len() + 100_000);
            match rng.random_range(0..4) {
                0 => job.prepare().unwrap(),
                1 => {
                    let mut data = vec![0; rng.random_range(1..20_000)];
                    rng.fill_bytes(&mut data);
                    let end = offset + data.len();
                    model.resize(model.len().max(end), 0);
                    model[offset..end].copy_from_slice(&data);
                    let data = data.into();
                    bed.store.write(key(1), offset as u64, &data).unwrap();
                }
                2 => {
                    // Seldom far, so that something is left.
                    let cut = offset.max(model.len().saturating_sub(600_000));
                    model.resize(cut, 0);
                    bed.store.truncate(key(1), cut as u64).unwrap();
                }
                _ => {
                    let read = bed.store.read(key(1), offset as u64, 10_000).unwrap();
                    let end = model.len().min(offset + 10_000);
                    let expected = model.get(offset..end).unwrap_or_default();
                    assert!(read == expected, "seed {seed} at {offset}");
                }
            }
        }
        job.run().unwrap();
        assert!(bed.read_all(key(1)) == model, "seed {seed}");

        // What changed meanwhile is in the next record that vouches.
        bed.sync(key(1), &record(3, model.len() as u64, true));
        bed.crash();
        assert!(bed.read_all(key(1)) == model, "seed {seed}");
    }
}

#[test]
pub(super) fn comparing_trusts_the_sums_of_blocks_at_rest_and_reads_those_that_were_being_changed()
{
    let mut bed = Bed::new();
    bed.store.create(key(1), &Record::default()).unwrap();
    let data = bytes(3 * SUM_BYTES as usize + 5_000, 1);
    bed.store.write(key(1), 0, &data).unwrap();
    let expected: Vec<_> = data
        .chunks(SUM_BYTES as usize)
        .map(crc32c::crc32c)
        .collect();
    let length = data.len() as u64;

    // At rest: damage is for reads to notice, and the block compares as it was.
    for clean in [true, false] {
        bed.sync(key(1), &record(1, length, clean));
        bed.crash();
        bed.flip(key(1), HEADER_BYTES + SUM_BYTES + 9);
        assert_eq!(bed.store.sums(key(1), 0, 9).unwrap(), expected);
        let read = bed.store.read(key(1), SUM_BYTES, 10);
        assert!(matches!(read, Err(StoreError::Corrupt { block: 16 })));
        bed.flip(key(1), HEADER_BYTES + SUM_BYTES + 9);
    }

    // Being changed: nothing but the bytes counts.
    bed.store
        .write(
            key(1),
            SUM_BYTES,
            &data.slice(SUM_BYTES as usize..=SUM_BYTES as usize),
        )
        .unwrap();
    bed.flip(key(1), HEADER_BYTES + SUM_BYTES + 9);
    bed.crash();
    let sums = bed.store.sums(key(1), 0, 9).unwrap();
    let differing: Vec<_> = (0..4).filter(|at| sums[*at] != expected[*at]).collect();
    assert_eq!(differing, [1]);
}
