//! Objects whose sums do not all stay in memory, while jobs are under way. The files are sparse.

use super::*;
use crate::config::TABLES_MAX;
use crate::note::MachineBoot;

/// Bytes whose sums share a table.
const GROUP_BYTES: u64 = 4 << 20;

/// Reads a block in so many groups far away that no table stays in memory.
fn drop_tables(store: &mut DirectoryStore) {
    let first = (1 << 40) / GROUP_BYTES;
    for group in first..=first + TABLES_MAX as u64 {
        store.read(key(1), group * GROUP_BYTES, 1).unwrap();
    }
}

fn large() -> Bed {
    let mut bed = Bed::new();
    bed.store.create(key(1), &Record::default()).unwrap();
    bed.store.truncate(key(1), 2 << 40).unwrap();
    bed
}

fn assert_reads(bed: &mut Bed, at: u64, expected: &[u8]) {
    let read = bed.store.read(key(1), at, expected.len() as u32);
    assert!(read.unwrap() == expected, "at {at}");
}

fn close_and_reopen(bed: &mut Bed) {
    let length = bed.store.length(key(1));
    bed.sync(key(1), &record(9, length, true));
    bed.crash();
    let header = bed.store.open(key(1)).unwrap().unwrap();
    assert!(header.record.clean);
}

#[test]
pub(super) fn sums_that_a_job_has_not_written_yet_are_not_read_from_the_file() {
    let mut bed = large();
    bed.store.write(key(1), 0, &bytes(8_192, 1)).unwrap();
    bed.sync(key(1), &record(1, 2 << 40, false));
    bed.store.write(key(1), 0, &bytes(8_192, 2)).unwrap();

    let mut job = bed
        .store
        .sync(key(1), true, &record(2, 2 << 40, false))
        .unwrap();
    drop_tables(&mut bed.store);
    assert_reads(&mut bed, 0, &bytes(8_192, 2));
    // Its sum follows from that of the bytes before.
    bed.store.write(key(1), 100, &bytes(50, 3)).unwrap();
    job.run().unwrap();

    drop_tables(&mut bed.store);
    assert_reads(&mut bed, 100, &bytes(50, 3));
    close_and_reopen(&mut bed);
    assert_reads(&mut bed, 100, &bytes(50, 3));
    assert_reads(&mut bed, 4_096, &bytes(8_192, 2)[4_096..]);
}

#[test]
pub(super) fn late_job_does_not_put_older_sums_in_the_place_of_newer_ones() {
    let mut bed = large();
    bed.store.write(key(1), 9 << 20, &bytes(4_096, 1)).unwrap();

    let mut job = bed
        .store
        .sync(key(1), true, &record(1, 2 << 40, false))
        .unwrap();
    bed.store.write(key(1), 9 << 20, &bytes(4_096, 2)).unwrap();
    drop_tables(&mut bed.store);
    job.run().unwrap();

    assert_reads(&mut bed, 9 << 20, &bytes(4_096, 2));
    close_and_reopen(&mut bed);
    assert_reads(&mut bed, 9 << 20, &bytes(4_096, 2));
}

#[test]
pub(super) fn late_job_writes_nothing_behind_the_new_end() {
    for cut in [5 << 20, 9 << 20, (9 << 20) + 5_000, (9 << 20) + 8_192] {
        let mut bed = large();
        let data = bytes(40_000, 1);
        bed.store.write(key(1), 9 << 20, &data).unwrap();
        bed.store.write(key(1), 15 << 20, &data).unwrap();

        let mut job = bed
            .store
            .sync(key(1), true, &record(1, 2 << 40, false))
            .unwrap();
        bed.store.truncate(key(1), cut).unwrap();
        let file_bytes = fs::metadata(bed.file(key(1))).unwrap().len();
        job.run().unwrap();

        let after = fs::metadata(bed.file(key(1))).unwrap().len();
        assert_eq!(after, file_bytes, "cut at {cut}");
        bed.store.truncate(key(1), 2 << 40).unwrap();
        let kept = cut.saturating_sub(9 << 20) as usize;
        let mut expected = data[..kept].to_vec();
        expected.resize(40_000, 0);
        for _ in 0..2 {
            drop_tables(&mut bed.store);
            assert_reads(&mut bed, 9 << 20, &expected);
            assert_reads(&mut bed, 15 << 20, &[0; 40_000]);
            close_and_reopen(&mut bed);
        }
    }
}

#[test]
pub(super) fn sums_that_could_not_be_written_stay_in_memory() {
    let bed = large();
    let path = bed.file(key(1));
    let (mut file, _) = ObjectFile::open(key(1).object, path.clone(), MachineBoot(1))
        .unwrap()
        .unwrap();
    file.settle(2 << 40, false);
    file.write(9 << 20, &bytes(4_096, 1)).unwrap();
    let group = |group: u64| (1 << 40) + group * GROUP_BYTES;
    for number in 1..TABLES_MAX as u64 {
        file.read(group(number), 1).unwrap();
    }

    file.replace_descriptor(fs::File::open(&path).unwrap());
    assert!(file.read(group(0), 1).is_err());
    file.close_descriptor();

    assert_eq!(file.read(9 << 20, 4_096).unwrap(), bytes(4_096, 1));
    for number in 0..=TABLES_MAX as u64 {
        file.read(group(number), 1).unwrap();
    }
    assert_eq!(file.read(9 << 20, 4_096).unwrap(), bytes(4_096, 1));
}
