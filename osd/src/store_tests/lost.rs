//! Files that were cut at rest.

use super::*;
use crate::file_layout::Group;

const LENGTH: usize = 9 << 20;

/// A closed object of four groups of checksums.
fn closed(data: &Bytes) -> Bed {
    let mut bed = Bed::new();
    bed.store.create(key(1), &Record::default()).unwrap();
    bed.store.write(key(1), 0, data).unwrap();
    bed.sync(key(1), &record(1, LENGTH as u64, true));
    bed.store.close(key(1));
    bed
}

fn cut(bed: &Bed, length: u64) {
    let path = bed.file(key(1));
    OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(length)
        .unwrap();
}

fn is_damaged(bed: &mut Bed, block: u64) -> bool {
    let read = bed.store.read(key(1), block * 4_096, 4_096);
    matches!(read, Err(StoreError::Corrupt { block: found }) if found == block)
}

#[test]
fn what_was_cut_off_is_damaged_also_for_later_servers_and_is_sound_once_it_is_written() {
    let data = bytes(LENGTH, 3);
    let mut bed = closed(&data);
    let (third, last) = (Group(2).blocks().start, LENGTH as u64 / 4_096 - 1);
    cut(&bed, Group(2).begins_at());

    for _ in 0..2 {
        bed.crash();
        assert!(!is_damaged(&mut bed, third - 1));
        for block in [third, third + 1, last] {
            assert!(is_damaged(&mut bed, block), "{block}");
        }
    }
    let mine = bed.store.sums(key(1), third / 16, 1).unwrap();
    assert_ne!(
        mine,
        [crc32c::crc32c(&[0; 1 << 16])],
        "no replica of zeros is equal"
    );
    let rest = data.slice(third as usize * 4_096..);
    bed.store.write(key(1), third * 4_096, &rest).unwrap();

    assert!(bed.read_all(key(1)) == data);
}

#[test]
fn file_that_is_cut_under_its_object_has_no_zeros_either() {
    let data = bytes(LENGTH, 4);
    let mut bed = closed(&data);
    bed.crash();
    assert_eq!(bed.store.length(key(1)), LENGTH as u64);

    cut(&bed, Group(1).begins_at());

    assert!(is_damaged(&mut bed, Group(1).blocks().start));
    assert!(is_damaged(&mut bed, LENGTH as u64 / 4_096 - 1));
}

#[test]
fn holes_at_the_end_of_an_object_are_no_damage() {
    let mut bed = Bed::new();
    bed.store.create(key(1), &Record::default()).unwrap();
    bed.store.write(key(1), 0, &bytes(10, 1)).unwrap();
    let length = 50 << 20;
    bed.store.truncate(key(1), length).unwrap();
    bed.sync(key(1), &record(1, length, true));
    bed.store.close(key(1));

    bed.crash();

    let read = bed.store.read(key(1), length - 10, 10).unwrap();
    assert_eq!(read, vec![0; 10]);
    let path = bed.file(key(1));
    assert_eq!(
        fs::metadata(&path).unwrap().len(),
        crate::file_layout::file_length(length)
    );

    // A file of an older version is as short as its data.
    let mut file = fs::read(&path).unwrap();
    file.truncate(HEADER_BYTES as usize + 10);
    for slot in [0, 1536] {
        file[slot + 1144..slot + 1152].fill(0);
    }
    fs::write(&path, file).unwrap();
    bed.crash();
    let read = bed.store.read(key(1), length - 10, 10).unwrap();
    assert_eq!(read, vec![0; 10]);
}

/// However large a hole is, what is no longer than the file system allows can be closed.
#[test]
fn objects_longer_than_files_are_closed_without_a_claim() {
    let mut bed = Bed::new();
    bed.store.create(key(1), &Record::default()).unwrap();
    let length = types::FILE_BYTES_MAX;
    bed.store.truncate(key(1), length).unwrap();
    bed.sync(key(1), &record(1, length, true));
    bed.store.close(key(1));

    bed.crash();

    let header = bed.store.open(key(1)).unwrap().unwrap();
    assert!(header.record.clean);
    let read = bed.store.read(key(1), length - 10, 10).unwrap();
    assert_eq!(read, vec![0; 10]);
}
