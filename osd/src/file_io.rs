//! Reads, writes and holes at an offset of a file, with what was done when they end early.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::config::ZEROS_BYTES;

/// Whether an error says that the disk is full.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    // EFBIG: a file system whose files are smaller than ours may be.
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG)
    )
}

/// Writes until all is written or an error; says how much was.
pub(crate) fn write_up_to(file: &File, bytes: &[u8], offset: u64) -> (usize, io::Result<()>) {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..)
        && !rest.is_empty()
    {
        match file.write_at(rest, offset + done as u64) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

/// Reads until the buffer is full or the file ends; the rest of the buffer stays as it is.
pub(crate) fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..)
        && !rest.is_empty()
    {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Makes a range of a file a hole. A file system without holes of that kind gets zeros: one that compresses
/// stores none of them, and any other reads the same.
pub(crate) fn punch(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let signed = |number: u64| i64::try_from(number).map_err(io::Error::other);
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, flags, signed(offset)?, signed(length)?) {
        Err(Errno::EOPNOTSUPP) => write_zeros(file, offset, length),
        outcome => outcome.map_err(io::Error::from),
    }
}

/// Writes zeros over what a file has of a range.
fn write_zeros(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let end = offset.saturating_add(length).min(file.metadata()?.len());
    let zeros = vec![0; ZEROS_BYTES];
    let mut at = offset;
    while at < end {
        let count = usize::try_from(end - at).unwrap_or(ZEROS_BYTES);
        let piece = zeros.get(..count).unwrap_or(&zeros);
        write_up_to(file, piece, at).1?;
        at += piece.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_take_the_place_of_a_hole_and_the_file_does_not_grow() {
        let file = tempfile::tempfile().unwrap();
        let length = 3 * ZEROS_BYTES + 100;
        file.write_all_at(&vec![7; length], 0).unwrap();

        write_zeros(&file, 4096, 2 * ZEROS_BYTES as u64 + 5).unwrap();
        write_zeros(&file, length as u64 - 10, 1000).unwrap();

        let mut read = vec![1; length + 1];
        assert_eq!(read_up_to(&file, &mut read, 0).unwrap(), length);
        let zeroed = 4096..4096 + 2 * ZEROS_BYTES + 5;
        for (at, byte) in read[..length].iter().enumerate() {
            let expected = match zeroed.contains(&at) || at >= length - 10 {
                true => 0,
                false => 7,
            };
            assert_eq!(*byte, expected, "{at}");
        }
    }
}
