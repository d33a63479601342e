//! Whether a directory can be mounted on, and whether it is.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MntFlags, umount2};

use crate::config::PROBE_TIMEOUT;

/// Checks that FUSE can mount on `point`, and gives its absolute path.
pub(crate) fn check(point: &Path) -> Result<PathBuf> {
    let shown = point.display();
    let absolute = std::path::absolute(point).with_context(|| format!("mount point {shown}"))?;
    refuse_mounted(&absolute, point)?;
    let metadata = match fs::metadata(point) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("mount point {shown} does not exist; run `mkdir -p {shown}`")
        }
        Err(error) => return Err(error).with_context(|| format!("mount point {shown}")),
    };
    ensure!(
        metadata.is_dir(),
        "mount point {shown} is not a directory; give an empty directory"
    );
    let point = fs::canonicalize(point).with_context(|| format!("mount point {shown}"))?;
    refuse_mounted(&point, &point)?;
    let mut entries = fs::read_dir(&point).with_context(|| format!("mount point {shown}"))?;
    ensure!(
        entries.next().is_none(),
        "mount point {shown} is not empty; mounting would hide what is in it, so give an empty directory"
    );
    check_fuse()?;
    Ok(point)
}

/// Asks the table of mounts first: asking a mount that hangs would hang, too.
fn refuse_mounted(absolute: &Path, shown: &Path) -> Result<()> {
    let shown = shown.display();
    if !is_mounted(absolute)? {
        return Ok(());
    }
    if is_dead(absolute) {
        bail!("{shown} is a mount whose process died; run `umount -l {shown}`");
    }
    bail!("{shown} is a mount already; run `umount {shown}` or choose another directory")
}

fn check_fuse() -> Result<()> {
    let device = "/dev/fuse";
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!("{device} can't be opened ({error}); run as root or as a member of its group")
        }
        Err(error) => bail!(
            "{device} can't be opened ({error}); run `modprobe fuse`, or give the container the \
             device (`--device /dev/fuse --cap-add SYS_ADMIN`)"
        ),
    }
}

/// Whether something is mounted exactly at this absolute path.
pub(crate) fn is_mounted(point: &Path) -> Result<bool> {
    let mounts = fs::read("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    Ok(points(&mounts).any(|mounted| mounted == point))
}

/// Mount points of a mountinfo table (proc(5)): the fifth field, with octal escapes.
fn points(mounts: &[u8]) -> impl Iterator<Item = PathBuf> {
    mounts
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b' ').nth(4))
        .map(|field| PathBuf::from(std::ffi::OsString::from_vec(unescaped(field))))
}

fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let code = (byte == b'\\')
            .then(|| after.first_chunk::<3>())
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(byte));
        rest = if code.is_some() {
            after.get(3..).unwrap_or_default()
        } else {
            after
        };
    }
    bytes
}

/// Takes a mount whose process died away from the tree; the kernel frees it when it is idle.
pub(crate) fn detach_dead(point: &Path) {
    if !is_mounted(point).unwrap_or(false) || !is_dead(point) {
        return;
    }
    if umount2(point, MntFlags::MNT_DETACH).is_err() {
        // Not root: the helper of libfuse may unmount what its user mounted.
        let helper = Command::new("fusermount3").arg("-uz").arg(point).output();
        if let Err(error) = helper {
            eprintln!("warning: can't unmount {}: {error}", point.display());
        }
    }
}

/// Whether the mount at `point` has no process any more. One that does not answer has.
fn is_dead(point: &Path) -> bool {
    let (answer, answered) = mpsc::channel();
    let path = point.to_owned();
    // On a thread of its own, which a mount that hangs may keep for as long as it likes.
    std::thread::spawn(move || {
        let dead =
            fs::metadata(path).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN));
        answer.send(dead).ok();
    });
    answered.recv_timeout(PROBE_TIMEOUT).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(point: &Path) -> String {
        check(point).unwrap_err().to_string()
    }

    #[test]
    fn missing_file_full_and_mounted_points_are_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();

        assert!(refusal(&dir.path().join("none")).contains("mkdir -p"));
        assert!(refusal(&file).contains("not a directory"));
        assert!(refusal(dir.path()).contains("not empty"));
        assert!(refusal(Path::new("/proc")).contains("is a mount already"));
    }

    #[test]
    fn mountinfo_is_read_with_blanks_in_names() {
        let text = b"36 35 98:0 / /mnt/a\\040b rw - ext4 x rw\n37 35 0:1 / /proc rw - proc x rw\n";

        let found: Vec<_> = points(text).collect();

        assert_eq!(found, [Path::new("/mnt/a b"), Path::new("/proc")]);
    }
}
