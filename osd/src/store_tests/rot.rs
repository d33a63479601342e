//! Damage to an object that is not closed: what was at rest when the server died is still verified.

use super::*;
use crate::note::{MachineBoot, NOTE_AT, NOTE_BYTES};
use crate::object_file::FileError;

const LENGTH: usize = 5 * SUM_BYTES as usize + 777;

/// An object whose bytes were synced, and which is not closed.
fn synced() -> Bed {
    let mut bed = Bed::new();
    bed.store.create(key(1), &Record::default()).unwrap();
    bed.store.write(key(1), 0, &bytes(LENGTH, 1)).unwrap();
    bed.sync(key(1), &record(1, LENGTH as u64, false));
    bed
}

fn damaged_blocks(bed: &mut Bed) -> Vec<u64> {
    let blocks = bed.store.length(key(1)).div_ceil(4_096);
    let mut read = |block: &u64| bed.store.read(key(1), block * 4_096, 4_096);
    (0..blocks)
        .filter(|block| matches!(read(block), Err(StoreError::Corrupt { .. })))
        .collect()
}

#[test]
pub(super) fn flipped_bit_at_rest_is_noticed_although_the_server_crashed() {
    let mut bed = synced();
    bed.store.write(key(1), 40_000, &bytes(10_000, 2)).unwrap();
    bed.flip(key(1), HEADER_BYTES + 100_000);
    bed.flip(key(1), HEADER_BYTES + LENGTH as u64 - 1);

    bed.crash();

    let last = LENGTH as u64 / 4_096;
    assert_eq!(damaged_blocks(&mut bed), [24, last]);
    let read = bed.store.read(key(1), 40_000, 10_000).unwrap();
    assert_eq!(read, bytes(10_000, 2));

    // Also by the next server, and after it was closed.
    for clean in [false, true] {
        bed.crash();
        bed.sync(key(1), &record(2, LENGTH as u64, clean));
        bed.crash();
        assert_eq!(damaged_blocks(&mut bed), [24, last], "{clean}");
    }
}

#[test]
pub(super) fn damaged_block_is_mended_by_the_bytes_its_sum_is_of_and_by_no_others() {
    let mut bed = synced();
    let sound = bed.read_all(key(1));
    let last = LENGTH as u64 / 4_096;
    for block in [24, last] {
        bed.flip(key(1), HEADER_BYTES + block * 4_096 + 5);
    }
    bed.crash();

    for block in [24, last] {
        let start = block as usize * 4_096;
        let data = sound.slice(start..LENGTH.min(start + 4_096));
        let mut wrong = data.to_vec();
        wrong[7] ^= 1;
        assert!(!bed.store.mend(key(1), block, &wrong.into()).unwrap());
        assert!(!bed.store.mend(key(1), block, &data.slice(1..)).unwrap());
        assert!(bed.store.mend(key(1), block, &data).unwrap());
    }

    assert_eq!(bed.read_all(key(1)), sound);
}

/// A file's last block is seldom whole; whoever has all of its bytes can replace it.
#[test]
pub(super) fn overwriting_all_that_is_left_of_a_damaged_block_heals_it() {
    let mut bed = synced();
    let last = LENGTH as u64 / 4_096 * 4_096;
    bed.flip(key(1), HEADER_BYTES + last + 5);

    let data = bytes(LENGTH - last as usize, 3);
    bed.store.write(key(1), last, &data).unwrap();

    assert_eq!(bed.store.read(key(1), last, 4_096).unwrap(), data);
}

/// The process dies at any moment: all it wrote is there, and every block of it can be read.
#[test]
pub(super) fn nothing_that_was_being_changed_counts_as_damaged_after_a_crash() {
    use rand::{Rng, RngExt, SeedableRng};
    for seed in 0..40 {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut bed = Bed::new();
        bed.store.create(key(1), &Record::default()).unwrap();
        let mut model: Vec<u8> = Vec::new();
        for round in 0..60 {
            let offset = rng.random_range(0..3 << 20);
            let length = rng.random_range(1..30_000);
            match rng.random_range(0..12) {
                0..=5 => {
                    let mut data = vec![0; length];
                    rng.fill_bytes(&mut data);
                    model.resize(model.len().max(offset + length), 0);
                    model[offset..offset + length].copy_from_slice(&data);
                    bed.store
                        .write(key(1), offset as u64, &data.into())
                        .unwrap();
                }
                6 => {
                    model.resize(model.len().max(offset + length), 0);
                    model[offset..offset + length].fill(0);
                    let (offset, length) = (offset as u64, length as u64);
                    bed.store.write_zeros(key(1), offset, length).unwrap();
                }
                7 => {
                    model.resize(offset, 0);
                    bed.store.truncate(key(1), offset as u64).unwrap();
                }
                8 => {
                    let length = model.len() as u64;
                    bed.sync(key(1), &record(round, length, rng.random_bool(0.3)));
                    // Changes follow, and a record that says so comes before them.
                    let promise = record(round, length, false);
                    let mut job = bed.store.sync(key(1), false, &promise).unwrap();
                    job.run().unwrap();
                }
                9 => {
                    // A job that does not end, and changes while it is under way.
                    let record = record(round, model.len() as u64, false);
                    let mut job = bed.store.sync(key(1), true, &record).unwrap();
                    bed.store.write(key(1), 5_000, &bytes(9_000, 1)).unwrap();
                    model.resize(model.len().max(14_000), 0);
                    model[5_000..14_000].copy_from_slice(&bytes(9_000, 1));
                    if rng.random_bool(0.7) {
                        job.write_data(true).unwrap();
                        if rng.random_bool(0.5) {
                            job.write_record(true).unwrap();
                        }
                    }
                }
                _ => {
                    bed.crash();
                    // A length is known by a record or by the last byte written.
                    let length = bed.store.length(key(1)) as usize;
                    model.resize(length, 0);
                    let found = bed.store.read(key(1), 0, length as u32);
                    assert!(found.unwrap() == model, "seed {seed} round {round}");
                    let sums = bed.store.sums(key(1), 0, 1_000).unwrap();
                    let expected: Vec<_> = model
                        .chunks(SUM_BYTES as usize)
                        .map(crc32c::crc32c)
                        .collect();
                    assert_eq!(sums, expected, "seed {seed} round {round}");
                }
            }
        }
    }
}

/// Also by a server that crashes twice: what it changed before the first time is at rest by the second.
#[test]
pub(super) fn block_that_was_made_stable_after_a_crash_is_at_rest() {
    let mut bed = synced();
    bed.store.write(key(1), 40_000, &bytes(10_000, 2)).unwrap();
    bed.crash();

    // Comparing replicas looks at all sums.
    bed.store.sums(key(1), 0, 1_000).unwrap();
    bed.sync(key(1), &record(2, LENGTH as u64, false));
    bed.crash();
    bed.flip(key(1), HEADER_BYTES + 45_000);

    assert_eq!(damaged_blocks(&mut bed), [10]);
}

/// Files from before there were notes say nothing of what was being changed: all of it may have been.
#[test]
pub(super) fn file_without_a_note_is_read_as_it_is_found() {
    let mut bed = synced();
    let file = OpenOptions::new()
        .write(true)
        .open(bed.file(key(1)))
        .unwrap();
    file.write_all_at(&[0; NOTE_BYTES], NOTE_AT).unwrap();
    bed.flip(key(1), HEADER_BYTES + 100_000);
    bed.crash();

    assert!(damaged_blocks(&mut bed).is_empty());

    // From the next record on it has one.
    bed.sync(key(1), &record(2, LENGTH as u64, true));
    bed.sync(key(1), &record(3, LENGTH as u64, false));
    bed.crash();
    bed.flip(key(1), HEADER_BYTES + 100_000);
    assert_eq!(damaged_blocks(&mut bed), [24]);
}

/// Power fails after a block reached the disk and before the note did: it looks like damage, and it is
/// left to the replicas whether anybody has it as it was.
#[test]
pub(super) fn block_that_lacks_its_note_is_taken_as_it_is_only_if_the_machine_went_down() {
    let mut bed = synced();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(bed.file(key(1)))
        .unwrap();
    let mut before = [0; NOTE_BYTES];
    file.read_exact_at(&mut before, NOTE_AT).unwrap();
    bed.store.write(key(1), 8_192, &bytes(4_096, 9)).unwrap();
    file.write_all_at(&before, NOTE_AT).unwrap();

    bed.crash();
    assert_eq!(damaged_blocks(&mut bed), [2]);
    assert!(bed.store.unfit(key(1), 0, 9).unwrap().is_empty());
    assert!(
        !bed.store.accept(key(1), 2).unwrap(),
        "the same run of the machine"
    );

    // Known until the object is closed, however often the server is restarted.
    for boot in [5, 5, 6] {
        let root = Root::open_in(bed.path(), MachineBoot(boot)).unwrap();
        bed.store = DirectoryStore::new(Arc::new(root));
        bed.store.write(key(1), 100_000, &bytes(1, 9)).unwrap();
        assert_eq!(damaged_blocks(&mut bed), [2]);
        assert_eq!(bed.store.unfit(key(1), 0, 9).unwrap(), [0]);
        assert!(bed.store.unfit(key(1), 1, 9).unwrap().is_empty());
    }
    assert!(bed.store.accept(key(1), 2).unwrap());
    assert!(bed.store.unfit(key(1), 0, 9).unwrap().is_empty());
    assert_eq!(
        bed.store.read(key(1), 8_192, 4_096).unwrap(),
        bytes(4_096, 9)
    );
    bed.sync(key(1), &record(2, LENGTH as u64, true));
    bed.flip(key(1), HEADER_BYTES + 100_000);
    let root = Root::open_in(bed.path(), MachineBoot(7)).unwrap();
    bed.store = DirectoryStore::new(Arc::new(root));
    assert_eq!(damaged_blocks(&mut bed), [24]);
    assert!(!bed.store.accept(key(1), 24).unwrap(), "closed before");
}

/// Reading the memory at small addresses is an error of the kernel's own, like that of a broken sector.
#[test]
pub(super) fn block_that_the_disk_can_not_read_is_damaged_like_any_other() {
    let bed = synced();
    let boot = MachineBoot(1);
    let (mut file, _) = ObjectFile::open(key(1).object, bed.file(key(1)), boot)
        .unwrap()
        .unwrap();
    file.settle(LENGTH as u64, false);
    file.read(0, LENGTH).unwrap();
    let broken = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/proc/self/mem")
        .unwrap();
    let sound = OpenOptions::new()
        .read(true)
        .write(true)
        .open(bed.file(key(1)))
        .unwrap();

    file.replace_descriptor(broken);
    let read = file.read(8_192, 10_000);
    assert!(
        matches!(read, Err(FileError::Damaged { block: 2 })),
        "{read:?}"
    );
    let partial = file.write(4_097, &bytes(10, 1));
    assert!(
        matches!(partial, Err(FileError::Damaged { block: 1 })),
        "{partial:?}"
    );

    file.replace_descriptor(sound);
    assert_eq!(
        file.read(8_192, 4_096).unwrap(),
        bytes(LENGTH, 1)[8_192..12_288]
    );
}
