//! Opening for writing, and what writers report.

use proto::index::{InodeRecord, OpenRecord};
use proto::mrc::{self, response};
use types::{Fault, Inode};

use super::Namespace;
use crate::attr::{self, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use crate::config;
use crate::errno;
use crate::keys;
use crate::quota;
use crate::records::{Step, ensure, refuse};

/// Refuses a file whose content went with its object. Nobody may take zeros for what was there.
pub(crate) fn has_content(record: &InodeRecord) -> Step<()> {
    if !record.content_lost {
        return Ok(());
    }
    let text = "the metadata was restored from a dump, and this file's content was deleted after the dump \
                was made; remove the file, or restore it from a backup of files";
    Err(Fault::surface(errno::EIO, text).into())
}

impl Namespace<'_, '_> {
    pub(super) fn open_write(&mut self, op: &mrc::OpenWrite) -> Step<mrc::Response> {
        let number = Inode(op.inode);
        let mut record = self.inode(number)?;
        match record.mode & S_IFMT {
            S_IFREG => {}
            S_IFDIR => return refuse(errno::EISDIR),
            S_IFLNK => return refuse(errno::ELOOP),
            _ => return refuse(errno::EINVAL),
        }
        has_content(&record)?;
        self.note_writer(number, &mut record)?;
        Ok(self.opened(number, &record, true, true))
    }

    /// Opens what a non-exclusive create found.
    pub(super) fn open_existing(&mut self, number: Inode, write: bool) -> Step<mrc::Response> {
        let mut record = self.inode(number)?;
        match record.mode & S_IFMT {
            S_IFREG => {}
            S_IFDIR => return refuse(errno::EISDIR),
            // The kernel believed there was nothing. It looks again, and follows or opens itself.
            _ => return refuse(errno::ESTALE),
        }
        has_content(&record)?;
        if write {
            self.note_writer(number, &mut record)?;
        }
        Ok(self.opened(number, &record, write, true))
    }

    /// Size and time after writing. A size that a truncation may have made untrue raises nothing.
    pub(super) fn written(&mut self, op: &mrc::Written) -> Step<mrc::Response> {
        let number = Inode(op.inode);
        let mut record = self.inode(number)?;
        ensure(attr::is_regular(record.mode), errno::EINVAL)?;
        ensure(
            op.size_at_least_bytes <= config::FILE_BYTES_MAX,
            errno::EFBIG,
        )?;

        let grows = op.size_at_least_bytes > record.size_bytes;
        let outdated = op.truncate_epoch != record.truncate_epoch;
        ensure(!(grows && outdated), errno::EAGAIN)?;
        if grows {
            let size_bytes = op.size_at_least_bytes;
            quota::set_size(self.work, self.volume, &mut record, size_bytes)?;
        }
        let changed = grows || op.mtime_ns.is_some();
        if changed {
            record.mtime_ns = op.mtime_ns.unwrap_or(self.work.now);
            record.ctime_ns = self.work.now;
            record.data_version += 1;
            record.has_object = true;
        }
        let mut judged = false;
        if op.close {
            self.work
                .delete(keys::open(self.volume, number, self.session));
            judged = quota::judge(self.work, self.volume, number, &mut record)?;
        }
        if changed || judged {
            self.put_inode(number, &record);
        }
        Ok(attr::entry(number, &record))
    }

    /// Notes the writer, if it is one, and answers.
    pub(super) fn opened(
        &mut self,
        number: Inode,
        record: &InodeRecord,
        write: bool,
        existed: bool,
    ) -> mrc::Response {
        if write {
            self.put_open(number);
        }
        mrc::Response {
            reply: Some(response::Reply::Opened(mrc::Opened {
                attr: Some(attr::of(number, record)),
                // The capability has an end of life, so the leader seals it for each answer anew.
                grant: Some(mrc::Grant {
                    pg: record.pg,
                    ..mrc::Grant::default()
                }),
                existed,
            })),
        }
    }

    /// From now on the file can have an object, and is not about to go.
    fn note_writer(&mut self, number: Inode, record: &mut InodeRecord) -> Step<()> {
        self.put_open(number);
        let judged = quota::judge(self.work, self.volume, number, record)?;
        if judged || !record.has_object {
            record.has_object = true;
            self.put_inode(number, record);
        }
        Ok(())
    }

    fn put_open(&mut self, number: Inode) {
        self.work.put(
            keys::open(self.volume, number, self.session),
            &OpenRecord {
                since_ns: self.work.now,
            },
        );
    }
}
