//! The index on disks that rot, and that lose power.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use mrc_core::{Batch, Index, IndexError};
use redb::backends::FileBackend;
use redb::{Database, Durability, StorageBackend, TableDefinition};

use crate::cushion::Cushion;
use crate::damage::Damage;
use crate::index_file::IndexFile;
use crate::index_redb::RedbIndex;
use crate::log_writer::lock;
use crate::page_sums::PageSums;

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// Small, so that redb reads and writes the file.
const CACHE_BYTES: usize = 64 << 10;
/// A page in the file.
const STORED_BYTES: u64 = 4100;
/// Header, mark and checksum.
const HEADER_BYTES: u64 = 332;

/// A fixed sequence (Knuth's MMIX).
struct Draw(u64);

impl Draw {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    /// Some changes, applied to the content.
    fn changes(&mut self, content: &mut Content) -> Batch {
        let mut batch = Batch::new();
        for _ in 0..self.below(40) {
            let key = format!("name-{:04}", self.below(600)).into_bytes();
            if self.below(4) == 0 {
                content.remove(&key);
                batch.delete(key);
            } else {
                let length = self.below(200) as usize;
                let value = vec![self.below(256) as u8; length];
                content.insert(key.clone(), value.clone());
                batch.put(key, value);
            }
        }
        batch
    }
}

fn file(path: &Path, damage: &Damage) -> IndexFile {
    IndexFile {
        path: path.to_owned(),
        cushion: Cushion::at(path.parent().unwrap()),
        cache_bytes: CACHE_BYTES,
        damage: damage.clone(),
    }
}

fn fill(index: &dyn Index) -> Content {
    let mut content = Content::new();
    let mut draw = Draw(1);
    for _ in 0..60 {
        index.apply(draw.changes(&mut content)).unwrap();
    }
    index.flush().unwrap();
    content
}

/// Everything in an index, by scan and by key.
fn read_all(index: &dyn Index) -> Result<Content, IndexError> {
    let mut content = Content::new();
    for entry in index.snapshot()? {
        let (key, value) = entry?;
        content.insert(key.to_vec(), value.to_vec());
    }
    for number in 0..600 {
        let key = format!("name-{number:04}").into_bytes();
        let found = index.get(&key)?;
        match found {
            Some(value) => {
                content.insert(key, value.to_vec());
            }
            None => {
                content.remove(&key);
            }
        }
    }
    Ok(content)
}

fn flip(bytes: &mut [u8], at: u64) {
    bytes[at as usize] ^= 1 << (at % 8);
}

/// A place in each page, and more of them in the header.
fn places(length: u64) -> Vec<u64> {
    let mut draw = Draw(2);
    let pages = 1..length / STORED_BYTES;
    (0..HEADER_BYTES)
        .step_by(3)
        .chain(pages.map(|page| page * STORED_BYTES + draw.below(STORED_BYTES)))
        .collect()
}

#[test]
fn index_with_a_flipped_bit_gives_right_answers_or_errors() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("index-1");
    let index = file(&path, &Damage::default()).open().unwrap();
    let content = fill(&index);
    let running = std::fs::read(&path).unwrap();
    drop(index);
    let closed = std::fs::read(&path).unwrap();

    for image in [running, closed] {
        let (mut refused, mut right) = (0, 0);
        for at in places(image.len() as u64) {
            let mut bad = image.clone();
            flip(&mut bad, at);
            std::fs::write(&path, bad).unwrap();
            let damage = Damage::default();
            match file(&path, &damage).open().and_then(|it| read_all(&it)) {
                Ok(found) => {
                    assert_eq!(found, content, "a bit at {at} was flipped");
                    right += 1;
                }
                Err(error) => {
                    let said = damage.first().unwrap_or_else(|| panic!("{at}: {error}"));
                    let page = at / STORED_BYTES * STORED_BYTES;
                    let name = format!("{}: the page at offset {page} ", path.display());
                    assert!(said.starts_with(&name), "{said}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 120 && right > 0, "{refused} {right}");
    }
}

/// The test above would notice if nobody looked at the checksums.
#[test]
fn index_with_a_flipped_bit_gives_wrong_answers_if_checksums_are_not_looked_at() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("index-1");
    let index = file(&path, &Damage::default()).open().unwrap();
    let content = fill(&index);
    drop(index);
    let image = std::fs::read(&path).unwrap();
    let mut wrong = 0;
    for at in places(image.len() as u64) {
        let mut bad = image.clone();
        flip(&mut bad, at);
        std::fs::write(&path, bad).unwrap();
        let read = || {
            let inner = FileBackend::new(opened(&path)).unwrap();
            let mut sums = PageSums::new(inner, &path, Arc::new(|_| {}));
            sums.is_blind = true;
            RedbIndex::open_on(sums, CACHE_BYTES).and_then(|index| read_all(&index))
        };
        let found = catch_unwind(AssertUnwindSafe(read));
        wrong += u32::from(matches!(found, Ok(Ok(found)) if found != content));
    }
    assert!(wrong > 5, "{wrong}");
}

fn opened(path: &Path) -> std::fs::File {
    let options = std::fs::File::options().read(true).write(true).clone();
    options.open(path).unwrap()
}

#[test]
fn index_of_a_release_without_checksums_is_taken_over_and_one_that_rotted_is_not() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("index-1");
    let old = RedbIndex::open(&path, CACHE_BYTES).unwrap();
    let content = fill(&old);
    // As after kill -9.
    let image = std::fs::read(&path).unwrap();
    drop(old);

    std::fs::write(&path, &image).unwrap();
    std::fs::write(path.with_extension("new"), "unfinished").unwrap();
    let damage = Damage::default();
    let index = file(&path, &damage).open().unwrap();
    assert_eq!(read_all(&index).unwrap(), content);
    drop(index);
    assert!(!path.with_extension("new").exists());
    let mut bytes = std::fs::read(&path).unwrap();
    assert_eq!(&bytes[320..328], b"OXFSIDX1");
    // Where a key lies.
    let at = bytes.windows(7).position(|it| it == b"name-03").unwrap();
    flip(&mut bytes, at as u64);
    std::fs::write(&path, bytes).unwrap();
    let opened = file(&path, &damage).open();
    assert!(opened.and_then(|index| read_all(&index)).is_err());

    let mut bytes = image.clone();
    let mut places = image.windows(7).enumerate();
    // Pages of states before that are no harm.
    let refused = places.by_ref().filter(|(_, it)| it == b"name-03").take(40);
    let refused = refused.filter(|(at, _)| {
        flip(&mut bytes, *at as u64);
        std::fs::write(&path, &bytes).unwrap();
        flip(&mut bytes, *at as u64);
        match file(&path, &Damage::default()).open() {
            Ok(index) => {
                assert_eq!(read_all(&index).unwrap(), content);
                false
            }
            Err(_) => true,
        }
    });
    assert!(refused.count() > 0);
}

/// A disk that loses power: of what was not synced any sectors may be there, as they were after any of
/// the writes to them.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Sectors>>);

#[derive(Debug, Default)]
struct Sectors {
    synced: Vec<u8>,
    now: Vec<u8>,
    /// Contents of sectors since the last sync, oldest first.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Lengths since the last sync.
    lengths: Vec<usize>,
    /// Until power fails.
    changes_left: Option<u64>,
}

const SECTOR_BYTES: usize = 512;

impl Sectors {
    fn change(&mut self) -> io::Result<()> {
        match &mut self.changes_left {
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn after_loss_of_power(&self, draw: &mut Draw) -> Vec<u8> {
        let mut lengths = vec![self.synced.len()];
        lengths.extend(&self.lengths);
        let length = lengths[draw.below(lengths.len() as u64) as usize];
        let mut image = self.synced.clone();
        image.resize(length, 0);
        for (sector, contents) in &self.unsynced {
            let at = sector * SECTOR_BYTES;
            let which = draw.below(contents.len() as u64 + 1) as usize;
            if let Some(content) = contents.get(which) {
                let end = length.min(at + content.len());
                if at < end {
                    image[at..end].copy_from_slice(&content[..end - at]);
                }
            }
        }
        image
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).now.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = lock(&self.0);
        let at = offset as usize;
        let found = disk.now.get(at..at + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let disk = &mut *lock(&self.0);
        disk.change()?;
        disk.now.resize(len as usize, 0);
        disk.lengths.push(len as usize);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        let disk = &mut *lock(&self.0);
        disk.change()?;
        disk.synced.clone_from(&disk.now);
        disk.unsynced.clear();
        disk.lengths.clear();
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let disk = &mut *lock(&self.0);
        disk.change()?;
        let (at, end) = (offset as usize, offset as usize + data.len());
        disk.now[at..end].copy_from_slice(data);
        for sector in at / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let from = sector * SECTOR_BYTES;
            let content = disk.now[from..disk.now.len().min(from + SECTOR_BYTES)].to_vec();
            disk.unsynced.entry(sector).or_default().push(content);
        }
        Ok(())
    }
}

fn on(disk: &Disk) -> PageSums<Disk> {
    PageSums::new(disk.clone(), &PathBuf::from("disk"), Arc::new(|_| {}))
}

/// How changes are committed.
trait Engine {
    fn apply(&self, batch: Batch) -> Result<(), IndexError>;
    fn flush(&self) -> Result<(), IndexError>;
}

impl Engine for RedbIndex {
    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        Index::apply(self, batch)
    }
    fn flush(&self) -> Result<(), IndexError> {
        Index::flush(self)
    }
}

/// Commits in one phase, as redb does unless it is told otherwise.
struct OnePhase(Database);

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("index");

impl OnePhase {
    fn commit(&self, durability: Durability, batch: &Batch) -> Result<(), IndexError> {
        let mut write = self.0.begin_write().map_err(IndexError::engine)?;
        write.set_durability(durability).unwrap();
        {
            let mut table = write.open_table(TABLE).map_err(IndexError::engine)?;
            for (key, change) in batch.changes() {
                match change {
                    Some(value) => table.insert(&key[..], &value[..]),
                    None => table.remove(&key[..]),
                }
                .map_err(IndexError::engine)?;
            }
        }
        write.commit().map_err(IndexError::engine)
    }
}

impl Engine for OnePhase {
    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        self.commit(Durability::None, &batch)
    }
    fn flush(&self) -> Result<(), IndexError> {
        self.commit(Durability::Immediate, &Batch::new())
    }
}

fn two_phases(disk: &Disk) -> Box<dyn Engine> {
    Box::new(RedbIndex::open_on(on(disk), CACHE_BYTES).unwrap())
}

fn one_phase(disk: &Disk) -> Box<dyn Engine> {
    let builder = &mut Database::builder();
    let builder = builder.set_cache_size(CACHE_BYTES);
    let engine = OnePhase(builder.create_with_backend(on(disk)).unwrap());
    engine.flush().unwrap();
    Box::new(engine)
}

/// Whether an index is opened after a loss of power and has exactly what was flushed.
fn survives(seed: u64, open: fn(&Disk) -> Box<dyn Engine>) -> Result<(), String> {
    let mut draw = Draw(seed);
    let disk = Disk::default();
    let engine = open(&disk);
    let mut now = Content::new();
    let mut flushed = vec![now.clone()];
    for _ in 0..draw.below(10) {
        engine.apply(draw.changes(&mut now)).unwrap();
        engine.flush().unwrap();
        flushed = vec![now.clone()];
    }
    lock(&disk.0).changes_left = Some(draw.below(150));
    loop {
        if draw.below(3) == 0 {
            // May be complete when power fails at its very end.
            flushed.push(now.clone());
            if engine.flush().is_err() {
                break;
            }
            flushed.drain(..flushed.len() - 1);
        } else if engine.apply(draw.changes(&mut now)).is_err() {
            break;
        }
    }
    drop(engine);
    let image = lock(&disk.0).after_loss_of_power(&mut draw);
    let disk = Disk::default();
    *lock(&disk.0) = Sectors {
        synced: image.clone(),
        now: image,
        ..Sectors::default()
    };
    let open = || RedbIndex::open_on(on(&disk), CACHE_BYTES).and_then(|it| read_all(&it));
    let found = catch_unwind(AssertUnwindSafe(open)).map_err(|_| "panicked".to_owned())?;
    let found = found.map_err(|error| format!("{error:?}"))?;
    if flushed.contains(&found) {
        Ok(())
    } else {
        Err(format!("{} records are not what was flushed", found.len()))
    }
}

#[test]
fn index_survives_a_loss_of_power_with_its_checksums() {
    for seed in 0..400 {
        let survived = survives(seed, two_phases);
        assert_eq!(survived, Ok(()), "seed {seed}");
    }
}

/// Why the index commits in two phases; and the disk above loses what disks lose.
#[test]
fn index_would_not_survive_with_commits_in_one_phase() {
    let died = (0..400).filter(|seed| survives(*seed, one_phase).is_err());
    assert!(died.count() > 5);
}

#[test]
fn contract_index_with_checksums() {
    let home = tempfile::tempdir().unwrap();
    let damage = Damage::default();
    let mut number = 0;
    mrc_core::contract::run(&mut || {
        number += 1;
        let path = home.path().join(format!("index-{number}"));
        Box::new(file(&path, &damage).open().unwrap())
    })
    .unwrap();
    let path = home.path().join("again");
    mrc_core::contract::reopen(&mut || Box::new(file(&path, &damage).open().unwrap())).unwrap();
    assert_eq!(damage.first(), None);
}
