//! Files with dumps: written whole or not at all, and read only if they are what was written.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use mrc_core::restore_plan::Registry;
use proto::dump::{self, record::Kind};
use sha2::{Digest as _, Sha256};

use crate::dump_line::{End, FORMAT, Header, Line, hex};
use crate::outcome::Failure;

/// Bytes of a line. 1 MiB: an xattr of 64 KiB takes six bytes for each at most, and there is nothing longer.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// A dump that is being written, beside the file it is to become.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    part: PathBuf,
    output: BufWriter<File>,
    sum: Sha256,
    records: u64,
}

impl Writer {
    pub(crate) fn create(path: &Path, header: Header) -> Result<Self, Failure> {
        let name = path
            .file_name()
            .ok_or_else(|| Failure::usage(format!("{} names no file", path.display())))?;
        let mut part = name.to_owned();
        part.push(format!(".{}.part", std::process::id()));
        let part = path.with_file_name(part);
        // It has all names, and who owns what.
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)
            .map_err(|error| failed(&part, "be made", &error))?;
        let mut writer = Self {
            path: path.to_owned(),
            part,
            output: BufWriter::new(file),
            sum: Sha256::new(),
            records: 0,
        };
        writer.line(&Line::Header(header))?;
        Ok(writer)
    }

    pub(crate) fn add(&mut self, record: dump::Record) -> Result<(), Failure> {
        let Some(line) = Line::of_record(record) else {
            return Err(Failure::failed(
                "the metadata server sent a record of a kind that this xfs-admin does not know; run \
                 the same release",
            ));
        };
        self.records += 1;
        self.line(&line)
    }

    fn line(&mut self, line: &Line) -> Result<(), Failure> {
        let mut text = serde_json::to_vec(line)
            .map_err(|error| Failure::failed(format!("a record has no JSON: {error}")))?;
        text.push(b'\n');
        self.sum.update(&text);
        self.output
            .write_all(&text)
            .map_err(|error| failed(&self.part, "be written", &error))
    }

    /// Makes it stable, reads it again, and only then gives it its name.
    pub(crate) fn finish(mut self) -> Result<Contents, Failure> {
        let end = End {
            records: self.records,
            sha256: hex(&self.sum.clone().finalize()),
        };
        self.line(&Line::End(end))?;
        let synced = self.output.flush();
        let synced = synced.and_then(|()| self.output.get_ref().sync_all());
        synced.map_err(|error| failed(&self.part, "be written", &error))?;
        let contents = read(&self.part)?;
        let named = fs::rename(&self.part, &self.path).and_then(|()| {
            let parent = self.path.parent().filter(|it| !it.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        });
        named.map_err(|error| failed(&self.path, "be made", &error))?;
        Ok(contents)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Not there any more if it became what it was to be.
        let _gone = fs::remove_file(&self.part);
    }
}

/// What a whole dump has, apart from its namespace.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Contents {
    pub(crate) header: Header,
    pub(crate) registry: Registry,
    pub(crate) sequences: dump::Sequences,
    pub(crate) records: u64,
    /// Of all bytes but the last line.
    pub(crate) sha256: [u8; 32],
    pub(crate) inodes: u64,
}

/// Reads a dump to its end and returns what is in it.
pub(crate) fn read(path: &Path) -> Result<Contents, Failure> {
    read_with(path, |_| Ok(()))
}

/// Reads a dump, and gives each record to `take` that is neither one of [`Contents`]' registry nor its
/// sequences. Only when this returns it is sure that the file is whole.
pub(crate) fn read_with(
    path: &Path,
    mut take: impl FnMut(dump::Record) -> Result<(), Failure>,
) -> Result<Contents, Failure> {
    let mut reader = Reader::open(path)?;
    let header = reader.header()?;
    let mut registry = Registry::default();
    let (mut sequences, mut map) = (None, None);
    let (mut records, mut inodes) = (0, 0);
    loop {
        let sum = reader.sum.clone();
        let line = match reader.next()? {
            Some(line) => line,
            None => return Err(reader.wrong("the file ends here; it was cut off")),
        };
        if let Line::End(end) = line {
            let sha256: [u8; 32] = sum.finalize().into();
            reader.end(&end, records, &sha256)?;
            registry.map_version = map.map_or(0, |map: dump::Map| map.version);
            return Ok(Contents {
                header,
                registry,
                // A cluster without volumes has none yet.
                sequences: sequences.unwrap_or(dump::Sequences {
                    next_volume: 1,
                    next_session: 1,
                    next_garbage: 1,
                }),
                records,
                sha256,
                inodes,
            });
        }
        records += 1;
        let Some(dump::Record { kind: Some(kind) }) = line.into_record() else {
            return Err(reader.wrong("a second header"));
        };
        match kind {
            Kind::Volume(volume) => registry.volumes.push(volume),
            Kind::Group(group) => registry.groups.push(group),
            Kind::ObjectServer(server) => registry.object_servers.push(server),
            Kind::Map(it) if map.is_none() => map = Some(it),
            Kind::Sequences(it) if sequences.is_none() => sequences = Some(it),
            Kind::Map(_) | Kind::Sequences(_) => {
                return Err(reader.wrong("there is one of its kind already"));
            }
            Kind::Name(name) if name.r#type == 0 => {
                return Err(reader.wrong("an entry of no type that there is"));
            }
            kind => {
                inodes += u64::from(matches!(kind, Kind::Inode(_)));
                take(dump::Record { kind: Some(kind) })?;
            }
        }
    }
}

struct Reader<'a> {
    path: &'a Path,
    input: BufReader<File>,
    /// Of the line that was read last; the first is 1.
    number: u64,
    /// Of all that was read.
    sum: Sha256,
}

impl<'a> Reader<'a> {
    fn open(path: &'a Path) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|error| failed(path, "be opened", &error))?;
        Ok(Self {
            path,
            input: BufReader::new(file),
            number: 0,
            sum: Sha256::new(),
        })
    }

    /// The bytes of the next line.
    fn bytes(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let mut bytes = Vec::new();
        self.number += 1;
        let mut limited = (&mut self.input).take(LINE_BYTES_MAX);
        let read = limited.read_until(b'\n', &mut bytes);
        read.map_err(|error| failed(self.path, "be read", &error))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.sum.update(&bytes);
        match bytes.pop() {
            Some(b'\n') => Ok(Some(bytes)),
            _ if bytes.len() as u64 + 1 >= LINE_BYTES_MAX => {
                Err(self.wrong("longer than any line of a dump"))
            }
            _ => Err(self.wrong("the line is not complete; the file was cut off")),
        }
    }

    fn next(&mut self) -> Result<Option<Line>, Failure> {
        let Some(bytes) = self.bytes()? else {
            return Ok(None);
        };
        match serde_json::from_slice(&bytes) {
            Ok(line) => Ok(Some(line)),
            Err(error) => Err(self.wrong(format!("no record that this release reads: {error}"))),
        }
    }

    /// The first line. Before all else it says which format the others are of.
    fn header(&mut self) -> Result<Header, Failure> {
        let foreign =
            "this is no dump that `xfs-admin dump` wrote: it does not begin with a header";
        let bytes = self
            .bytes()?
            .ok_or_else(|| self.wrong("the file is empty"))?;
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(&bytes) else {
            return Err(self.wrong(foreign));
        };
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        let (Some("header"), Some(format)) = (value.get("kind").and_then(|it| it.as_str()), format)
        else {
            return Err(self.wrong(foreign));
        };
        if !(1..=FORMAT).contains(&format) {
            return Err(self.wrong(format!(
                "the dump has format {format} and this release reads format {FORMAT}; restore it with \
                 the release that wrote it, or a newer one"
            )));
        }
        match serde_json::from_slice(&bytes) {
            Ok(Line::Header(header)) => Ok(header),
            Ok(_) => Err(self.wrong(foreign)),
            Err(error) => Err(self.wrong(format!("no header that this release reads: {error}"))),
        }
    }

    fn end(&mut self, end: &End, records: u64, sha256: &[u8]) -> Result<(), Failure> {
        if end.records != records {
            return Err(self.wrong(format!(
                "the file has {records} records and should have {}; some were taken out or put in",
                end.records
            )));
        }
        if end.sha256 != hex(sha256) {
            return Err(self.wrong(format!(
                "the lines before have the checksum {} and should have {}; the file was changed",
                hex(sha256),
                end.sha256
            )));
        }
        match self.bytes()? {
            None => Ok(()),
            Some(_) => Err(self.wrong("something stands behind the last line")),
        }
    }

    fn wrong(&self, what: impl std::fmt::Display) -> Failure {
        Failure::failed(format!(
            "{} line {}: {what}",
            self.path.display(),
            self.number
        ))
    }
}

fn failed(path: &Path, what: &str, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{} can't {what}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            format: FORMAT,
            cluster: "0".repeat(32),
            log_index: 17,
            time_ns: 1,
            program: "test".to_owned(),
        }
    }

    fn records() -> Vec<dump::Record> {
        let name = |text: &'static [u8]| {
            Kind::Name(dump::Name {
                volume: 1,
                parent: 1,
                name: bytes::Bytes::from_static(text),
                inode: 2,
                r#type: mrc_core::S_IFREG,
            })
        };
        let kinds = [
            name(b"a"),
            name(b"\xff"),
            Kind::Inode(dump::Inode {
                volume: 1,
                inode: 2,
                ..dump::Inode::default()
            }),
            Kind::Map(dump::Map { version: 9 }),
            Kind::Sequences(dump::Sequences {
                next_volume: 2,
                next_session: 3,
                next_garbage: 4,
            }),
            Kind::Volume(dump::Volume {
                volume: 1,
                ..dump::Volume::default()
            }),
        ];
        kinds.map(|kind| dump::Record { kind: Some(kind) }).into()
    }

    fn written(dir: &Path) -> (PathBuf, Contents) {
        let path = dir.join("dump");
        let mut writer = Writer::create(&path, header()).unwrap();
        for record in records() {
            writer.add(record).unwrap();
        }
        let contents = writer.finish().unwrap();
        (path, contents)
    }

    fn refusal(path: &Path, bytes: &[u8]) -> String {
        fs::write(path, bytes).unwrap();
        match read(path) {
            Ok(contents) => panic!("read {contents:?}"),
            Err(failure) => failure.message().to_owned(),
        }
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let (path, contents) = written(dir.path());
        let mut taken = Vec::new();

        let read = read_with(&path, |record| {
            taken.push(record);
            Ok(())
        });

        assert_eq!(read.unwrap(), contents);
        assert_eq!(taken, records()[..3]);
        assert_eq!((contents.records, contents.inodes), (6, 1));
        assert_eq!(contents.registry.map_version, 9);
        assert_eq!(contents.registry.volumes.len(), 1);
        assert_eq!(contents.sequences.next_session, 3);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn dump_that_is_given_up_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let (path, contents) = written(dir.path());
        let mut second = Writer::create(&path, header()).unwrap();
        second.add(records().remove(0)).unwrap();
        drop(second);

        assert_eq!(read(&path).unwrap(), contents);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn file_that_was_cut_anywhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = written(dir.path());
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            let error = refusal(&path, &whole[..length]);
            assert!(error.contains(" line "), "{length}: {error}");
        }
        let lines = whole.iter().filter(|byte| **byte == b'\n').count();
        let error = refusal(&path, &whole[..whole.len() - 1]);
        assert!(error.contains(&format!("line {lines}: ")), "{error}");
    }

    #[test]
    fn file_with_any_byte_changed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = written(dir.path());
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            refusal(&path, &changed);
        }
    }

    #[test]
    fn lines_taken_out_doubled_or_added_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = written(dir.path());
        let whole = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();

        let mut without = lines.clone();
        without.remove(2);
        assert!(refusal(&path, without.concat().as_bytes()).contains("has 5 records"));
        let mut twice = lines.clone();
        twice.insert(2, lines[2]);
        assert!(refusal(&path, twice.concat().as_bytes()).contains("has 7 records"));
        let mut swapped = lines.clone();
        swapped.swap(1, 2);
        assert!(refusal(&path, swapped.concat().as_bytes()).contains("checksum"));
        let behind = [whole.as_str(), "\n"].concat();
        assert!(refusal(&path, behind.as_bytes()).contains("behind the last line"));
        let header_twice = [lines[0], &whole].concat();
        assert!(refusal(&path, header_twice.as_bytes()).contains("line 2: a second header"));
    }

    #[test]
    fn newer_and_foreign_files_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = written(dir.path());
        let whole = fs::read_to_string(&path).unwrap();

        let newer = whole.replacen("\"format\":1", "\"format\":2,\"more\":0", 1);
        let error = refusal(&path, newer.as_bytes());
        assert!(
            error.contains("dump line 1: ") && error.contains("format 2"),
            "{error}"
        );
        for foreign in [
            "#!/bin/sh\n",
            "{}\n",
            "{\"kind\":\"map\",\"version\":1}\n",
            "\u{0}",
        ] {
            let error = refusal(&path, foreign.as_bytes());
            assert!(error.contains("dump line 1: "), "{error}");
        }
        let long = [b'x'; LINE_BYTES_MAX as usize + 5];
        assert!(refusal(&path, &long).contains("longer"));
        assert!(read(&dir.path().join("none")).is_err());
    }
}
