//! Performs operations through system calls on one mount.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::mem;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::history::now_ns;
use crate::log_record;
use crate::operation::{Operation, Outcome};
use crate::register::{self, Place};
use crate::workload::Manner;

/// A client: a mount, and what it keeps open on it.
#[derive(Debug)]
pub(crate) struct Client {
    root: PathBuf,
    /// Makes the names of its temporary files its own.
    number: u32,
    /// Descriptors that stay open, by path and whether they sync by themselves, and when each was used last.
    held: HashMap<(PathBuf, bool), (File, u64)>,
    /// When the descriptor that the last operation held was opened or used before it.
    held_ns: Option<u64>,
    /// Content of logs read last.
    last_log: Vec<u8>,
}

/// An error and the call that gave it.
struct Refused(&'static str, io::Error);

type Answer = Result<Outcome, Refused>;

trait During<T> {
    fn during(self, call: &'static str) -> Result<T, Refused>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, call: &'static str) -> Result<T, Refused> {
        self.map_err(|error| Refused(call, error))
    }
}

impl Client {
    /// A client on a mount.
    pub(crate) fn new(root: PathBuf, number: u32) -> Self {
        Self {
            root,
            number,
            held: HashMap::new(),
            held_ns: None,
            last_log: Vec::new(),
        }
    }

    /// Performs an operation.
    pub(crate) fn perform(&mut self, operation: &Operation, manner: Manner) -> Outcome {
        self.held_ns = None;
        match self.answer(operation, manner) {
            Ok(outcome) => outcome,
            Err(Refused(during, error)) => {
                // The next try shall not meet a descriptor with an error of the past.
                self.held.clear();
                Outcome::Failed {
                    errno: error.raw_os_error().unwrap_or(0),
                    during: during.to_owned(),
                }
            }
        }
    }

    /// When the descriptor of the last operation was opened or used before, if it is one that stays open.
    pub(crate) const fn held_ns(&self) -> Option<u64> {
        self.held_ns
    }

    /// The log read last.
    pub(crate) fn last_log(&mut self) -> Vec<u8> {
        mem::take(&mut self.last_log)
    }

    /// Makes everything that operations expect to be there.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub(crate) fn set_up(&mut self, logs: &[&str]) -> io::Result<()> {
        for dir in ["documents", "names"] {
            fs::create_dir(self.root.join(dir))?;
        }
        for (file, length_bytes) in register::files() {
            let mut file = File::create(self.root.join(file))?;
            file.write_all(&register::encode(0, length_bytes))?;
            file.sync_all()?;
        }
        for key in register::keys() {
            if let Place::Document { file } = register::place(&key) {
                self.replace(&self.root.join(file), 0)
                    .map_err(|Refused(_, error)| error)?;
            }
        }
        for log in logs {
            File::create_new(self.root.join(log))?;
        }
        Ok(())
    }

    fn answer(&mut self, operation: &Operation, manner: Manner) -> Answer {
        match operation {
            Operation::Write { key, value } => match register::place(key) {
                Place::Document { file } => self.replace(&self.root.join(file), *value),
                Place::Range {
                    file,
                    offset_bytes,
                    length_bytes,
                } => {
                    let bytes = register::encode(*value, length_bytes);
                    self.write(&file, offset_bytes, &bytes, manner)
                }
            },
            Operation::Read { key } => self.read(key, manner),
            Operation::Append {
                log,
                writer,
                number,
                synced,
            } => {
                let record = log_record::encode(*writer, *number);
                self.append(log, &record, *synced, manner)
            }
            Operation::Sync { log } => {
                let file = OpenOptions::new().append(true).open(self.root.join(log));
                file.during("open")?.sync_all().during("fsync")?;
                Ok(Outcome::Done)
            }
            Operation::ReadLog { log } => self.read_log(log),
            Operation::Create { dir, name } => self.create(dir, *name),
            Operation::Unlink { dir, name } => {
                told(fs::remove_file(self.name(dir, *name)), "unlink")
            }
            Operation::Rename { dir, from, to } => {
                let renamed = renameat2(
                    AT_FDCWD,
                    &self.name(dir, *from),
                    AT_FDCWD,
                    &self.name(dir, *to),
                    RenameFlags::RENAME_NOREPLACE,
                );
                told(renamed.map_err(io::Error::from), "rename")
            }
            Operation::Look { dir, name } => match fs::symlink_metadata(self.name(dir, *name)) {
                Ok(metadata) => Ok(Outcome::Inode(metadata.ino())),
                Err(error) => told(Err(error), "stat"),
            },
        }
    }

    /// Writes aside, syncs and renames into place, as careful editors do.
    fn replace(&self, path: &Path, value: u64) -> Answer {
        let aside = path.with_extension(format!("new-{}", self.number));
        let mut file = File::create(&aside).during("create")?;
        let bytes = register::encode(value, register::document_bytes(value));
        file.write_all(&bytes).during("write")?;
        file.sync_all().during("fsync")?;
        drop(file);
        fs::rename(&aside, path).during("rename")?;
        Ok(Outcome::Done)
    }

    /// With `O_SYNC`: of a plain write and a sync, other programs on the same mount see the write
    /// before the sync, and those on other mounts after it.
    fn write(&mut self, file: &str, offset: u64, bytes: &[u8], manner: Manner) -> Answer {
        let path = self.root.join(file);
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(libc::O_SYNC);
        let fresh;
        let file = if manner.held {
            self.hold(&path, true, &options)?
        } else {
            fresh = options.open(&path).during("open")?;
            &fresh
        };
        file.write_all_at(bytes, offset).during("write")?;
        Ok(Outcome::Done)
    }

    fn read(&self, key: &str, manner: Manner) -> Answer {
        let flags = if manner.direct { libc::O_DIRECT } else { 0 };
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags);
        let (bytes, length) = match register::place(key) {
            Place::Range {
                file,
                offset_bytes,
                length_bytes,
            } => {
                let file = options.open(self.root.join(file)).during("open")?;
                let mut bytes = vec![0; usize::try_from(length_bytes).unwrap_or(0)];
                let count = file.read_at(&mut bytes, offset_bytes).during("read")?;
                bytes.truncate(count);
                (bytes, Some(length_bytes))
            }
            Place::Document { file } => {
                let mut file = options.open(self.root.join(file)).during("open")?;
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).during("read")?;
                (bytes, None)
            }
        };
        let found = bytes.len() as u64;
        Ok(match register::decode(&bytes) {
            Ok(value) if found == length.unwrap_or_else(|| register::document_bytes(value)) => {
                Outcome::Value(value)
            }
            Ok(value) => Outcome::Torn(format!("{value:#x} in {found} bytes")),
            Err(what) => Outcome::Torn(what),
        })
    }

    fn append(&mut self, log: &str, record: &[u8], synced: bool, manner: Manner) -> Answer {
        let o_sync = synced && manner.o_sync;
        let flags = if o_sync { libc::O_SYNC } else { 0 };
        let path = self.root.join(log);
        let mut options = OpenOptions::new();
        options.append(true).custom_flags(flags);
        let fresh;
        let mut file = if manner.held {
            self.hold(&path, o_sync, &options)?
        } else {
            fresh = options.open(&path).during("open")?;
            &fresh
        };
        // One call: a record cut in two would not be one append.
        let count = file.write(record).during("write")?;
        if count != record.len() {
            return Err(Refused(
                "short write",
                io::Error::from_raw_os_error(libc::EIO),
            ));
        }
        if synced && !o_sync {
            file.sync_data().during("fsync")?;
        }
        Ok(Outcome::Done)
    }

    fn read_log(&mut self, log: &str) -> Answer {
        let mut bytes = Vec::new();
        let mut file = File::open(self.root.join(log)).during("open")?;
        file.read_to_end(&mut bytes).during("read")?;
        let outcome = Outcome::Log {
            bytes: bytes.len() as u64,
            sum: log_record::sum(&bytes),
        };
        self.last_log = bytes;
        Ok(outcome)
    }

    fn create(&self, dir: &str, name: u8) -> Answer {
        match fs::create_dir(self.root.join(dir)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Refused("mkdir", error));
            }
            _ => {}
        }
        match File::create_new(self.name(dir, name)) {
            Ok(file) => Ok(Outcome::Inode(file.metadata().during("fstat")?.ino())),
            Err(error) => told(Err(error), "create"),
        }
    }

    fn name(&self, dir: &str, name: u8) -> PathBuf {
        self.root.join(dir).join(format!("name-{name}"))
    }

    fn hold(&mut self, path: &Path, syncs: bool, options: &OpenOptions) -> Result<&File, Refused> {
        let (file, used_ns) = match self.held.entry((path.to_owned(), syncs)) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(place) => {
                let opened_ns = now_ns();
                place.insert((options.open(path).during("open")?, opened_ns))
            }
        };
        self.held_ns = Some(mem::replace(used_ns, now_ns()));
        Ok(file)
    }
}

/// The answers that a name's operations may give.
fn told(result: io::Result<()>, call: &'static str) -> Answer {
    match result {
        Ok(()) => Ok(Outcome::Done),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Outcome::Absent),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Outcome::Exists),
        Err(error) => Err(Refused(call, error)),
    }
}
