//! Where a file has data and where holes.

use std::sync::Arc;

use proto::osd;

use crate::errno::Errno;
use crate::io::Descriptor;
use crate::oxfs::OxFs;

/// What an object server answers if it finds nothing.
const NONE: u64 = u64::MAX;

impl OxFs {
    /// The next data or hole at or after `offset`; `whence` is SEEK_DATA or SEEK_HOLE of lseek(2).
    ///
    /// # Errors
    ///
    /// ENXIO if there is none; EINVAL for any other `whence`.
    pub async fn lseek(&self, handle: u64, offset: i64, whence: i32) -> Result<i64, Errno> {
        let hole = match whence {
            libc::SEEK_DATA => false,
            libc::SEEK_HOLE => true,
            _ => return Err(Errno(libc::EINVAL)),
        };
        let offset = u64::try_from(offset).map_err(|_| Errno(libc::ENXIO))?;
        let descriptor = self.open_descriptor(handle)?;
        let answer = self.softly(ask(descriptor.clone(), offset, hole)).await?;
        let size = self.getattr(descriptor.file.inode).await?.size_bytes;
        let found = place(offset, hole, answer.offset, answer.length_bytes.max(size));
        let found = found.ok_or(Errno(libc::ENXIO))?;
        i64::try_from(found).map_err(|_| Errno(libc::EOVERFLOW))
    }
}

/// The next data or hole of the file's object at or after `offset`.
pub(crate) async fn next(
    descriptor: Arc<Descriptor>,
    offset: u64,
    hole: bool,
) -> Result<Option<u64>, Errno> {
    let found = ask(descriptor, offset, hole).await?.offset;
    Ok((found != NONE).then_some(found))
}

async fn ask(descriptor: Arc<Descriptor>, offset: u64, hole: bool) -> Result<osd::Response, Errno> {
    let file = &descriptor.file;
    file.drain().await;
    let op = osd::request::Op::Seek(osd::Seek { offset, hole });
    file.ask_object(op).await.map(|(response, _)| response)
}

/// What the program is told, if the object has `found`: behind the end of the object a file is a hole
/// up to its own length, and at the latest there a hole begins.
fn place(offset: u64, hole: bool, found: u64, length: u64) -> Option<u64> {
    if offset >= length {
        return None;
    }
    match (found, hole) {
        (NONE, true) => Some(offset),
        (NONE, false) => None,
        (found, _) => Some(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_is_longer_than_its_object_ends_in_a_hole() {
        // The object ends at 100, the file at 200.
        assert_eq!(place(0, true, 100, 200), Some(100));
        assert_eq!(place(150, true, NONE, 200), Some(150));
        assert_eq!(place(150, false, NONE, 200), None);
        assert_eq!(place(200, true, NONE, 200), None);
        // Both end at 100.
        assert_eq!(place(50, true, 100, 100), Some(100));
        assert_eq!(place(100, true, NONE, 100), None);
        assert_eq!(place(10, false, 40, 100), Some(40));
    }
}
