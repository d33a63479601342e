//! The same operations on the mount and on the local file system must give the same results, errno
//! and trees.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Result, ensure};
use tests::{Cluster, Tree};

/// What an operation showed: the same text on both file systems, or the errno.
type Outcome = io::Result<String>;

/// Runs `operation` on both roots and compares what it shows.
fn both(roots: &[&Path; 2], name: &str, operation: impl Fn(&Path) -> Outcome) -> Result<()> {
    let [here, there] =
        roots.map(|root| operation(root).map_err(|error| error.raw_os_error().unwrap_or(0)));
    ensure!(
        here == there,
        "{name}: the mount says {here:?}, the local file system {there:?}"
    );
    Ok(())
}

fn ok(result: io::Result<()>) -> Outcome {
    result.map(|()| String::new())
}

/// Type, permissions, links and size; not times, which differ, and not inode numbers.
fn shown(path: &Path) -> Outcome {
    let meta = fs::symlink_metadata(path)?;
    let size = if meta.is_dir() { 0 } else { meta.len() };
    Ok(format!(
        "{:o} links {} uid {} gid {} size {size} rdev {}",
        meta.mode(),
        meta.nlink(),
        meta.uid(),
        meta.gid(),
        meta.rdev()
    ))
}

fn c(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn answer(number: i64) -> Outcome {
    if number < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(number.to_string())
    }
}

#[expect(unsafe_code, reason = "renameat2 has no safe interface in std")]
fn rename2(from: &Path, to: &Path, flags: u32) -> Outcome {
    let (from, to) = (c(from)?, c(to)?);
    // SAFETY: both are NUL-terminated strings that outlive the call.
    answer(i64::from(unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            flags,
        )
    }))
}

#[expect(unsafe_code, reason = "mknod has no safe interface in std")]
fn mknod(path: &Path, mode: u32, device: u64) -> Outcome {
    let path = c(path)?;
    // SAFETY: a NUL-terminated string that outlives the call.
    answer(i64::from(unsafe {
        libc::mknod(path.as_ptr(), mode, device)
    }))
}

#[expect(unsafe_code, reason = "xattrs have no safe interface in std")]
fn setxattr(path: &Path, name: &str, value: &[u8], flags: i32) -> Outcome {
    let (path, name) = (c(path)?, CString::new(name)?);
    // SAFETY: strings end in NUL, the value's pointer and length belong together.
    answer(i64::from(unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags,
        )
    }))
}

#[expect(unsafe_code, reason = "xattrs have no safe interface in std")]
fn getxattr(path: &Path, name: &str, room: usize) -> Outcome {
    let (path, name) = (c(path)?, CString::new(name)?);
    let mut value = vec![0_u8; room];
    // SAFETY: strings end in NUL, the buffer's pointer and length belong together.
    let got = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    answer(got as i64)?;
    value.truncate(usize::try_from(got).unwrap_or(0));
    Ok(format!("{got} {}", String::from_utf8_lossy(&value)))
}

#[expect(unsafe_code, reason = "xattrs have no safe interface in std")]
fn removexattr(path: &Path, name: &str) -> Outcome {
    let (path, name) = (c(path)?, CString::new(name)?);
    // SAFETY: NUL-terminated strings that outlive the call.
    answer(i64::from(unsafe {
        libc::lremovexattr(path.as_ptr(), name.as_ptr())
    }))
}

#[test]
fn every_operation_answers_as_the_local_file_system_does() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let mount = cluster.mount();
    let local = tempfile::tempdir()?;
    let roots = [mount.as_path(), local.path()];

    names(&roots)?;
    renames(&roots)?;
    attributes(&roots)?;
    contents(&roots)?;
    xattrs(&roots)?;
    random_operations(&roots)?;
    Tree::read(local.path())?.must_equal(&without_times(Tree::read(&mount)?, local.path())?)?;
    cluster.down()
}

fn names(roots: &[&Path; 2]) -> Result<()> {
    let long = "n".repeat(255);
    let too_long = "n".repeat(256);
    both(roots, "mkdir", |r| ok(fs::create_dir(r.join("d"))))?;
    both(roots, "mkdir again", |r| ok(fs::create_dir(r.join("d"))))?;
    both(roots, "mkdir without parent", |r| {
        ok(fs::create_dir(r.join("none/d")))
    })?;
    both(roots, "show dir", |r| shown(&r.join("d")))?;
    both(roots, "mkdir inside", |r| ok(fs::create_dir(r.join("d/e"))))?;
    both(roots, "links of dir", |r| shown(&r.join("d")))?;
    both(roots, "rmdir full", |r| ok(fs::remove_dir(r.join("d"))))?;
    both(roots, "unlink dir", |r| ok(fs::remove_file(r.join("d/e"))))?;
    both(roots, "rmdir", |r| ok(fs::remove_dir(r.join("d/e"))))?;
    both(roots, "rmdir none", |r| ok(fs::remove_dir(r.join("d/e"))))?;
    both(roots, "create", |r| {
        File::create_new(r.join("d/f")).map(|_| String::new())
    })?;
    both(roots, "create again", |r| {
        File::create_new(r.join("d/f")).map(|_| String::new())
    })?;
    both(roots, "create in file", |r| {
        File::create(r.join("d/f/g")).map(|_| String::new())
    })?;
    both(roots, "rmdir file", |r| ok(fs::remove_dir(r.join("d/f"))))?;
    both(roots, "open dir for writing", |r| {
        OpenOptions::new()
            .write(true)
            .open(r.join("d"))
            .map(|_| String::new())
    })?;
    both(roots, "longest name", |r| {
        File::create(r.join(&long)).map(|_| String::new())
    })?;
    both(roots, "too long create", |r| {
        File::create(r.join(&too_long)).map(|_| String::new())
    })?;
    both(roots, "too long stat", |r| shown(&r.join(&too_long)))?;
    both(roots, "too long mkdir", |r| {
        ok(fs::create_dir(r.join(&too_long)))
    })?;
    both(roots, "link", |r| {
        ok(fs::hard_link(r.join("d/f"), r.join("d/g")))
    })?;
    both(roots, "link over", |r| {
        ok(fs::hard_link(r.join("d/f"), r.join("d/g")))
    })?;
    both(roots, "link dir", |r| {
        ok(fs::hard_link(r.join("d"), r.join("d2")))
    })?;
    both(roots, "links of file", |r| shown(&r.join("d/f")))?;
    both(roots, "unlink one", |r| ok(fs::remove_file(r.join("d/f"))))?;
    both(roots, "links after", |r| shown(&r.join("d/g")))?;
    both(roots, "symlink", |r| ok(symlink("g", r.join("d/s"))))?;
    both(roots, "symlink over", |r| ok(symlink("g", r.join("d/s"))))?;
    both(roots, "readlink", |r| {
        fs::read_link(r.join("d/s")).map(|path| path.display().to_string())
    })?;
    both(roots, "readlink of file", |r| {
        fs::read_link(r.join("d/g")).map(|path| path.display().to_string())
    })?;
    both(roots, "symlink shown", |r| shown(&r.join("d/s")))?;
    both(roots, "longest symlink", |r| {
        ok(symlink("t".repeat(4095), r.join("d/long")))
    })?;
    both(roots, "loop", |r| {
        symlink("loop", r.join("loop"))
            .and_then(|()| fs::read(r.join("loop")))
            .map(|_| String::new())
    })?;
    both(roots, "fifo", |r| {
        mknod(&r.join("fifo"), libc::S_IFIFO | 0o640, 0)
    })?;
    both(roots, "fifo shown", |r| shown(&r.join("fifo")))?;
    both(roots, "socket", |r| {
        mknod(&r.join("socket"), libc::S_IFSOCK | 0o600, 0)
    })?;
    both(roots, "device", |r| {
        mknod(&r.join("null"), libc::S_IFCHR | 0o666, libc::makedev(1, 3))
    })?;
    both(roots, "device shown", |r| shown(&r.join("null")))?;
    both(roots, "mknod file", |r| {
        mknod(&r.join("plain"), libc::S_IFREG | 0o604, 0)
    })?;
    both(roots, "plain shown", |r| shown(&r.join("plain")))
}

fn renames(roots: &[&Path; 2]) -> Result<()> {
    for (name, is_dir) in [
        ("a", false),
        ("b", false),
        ("p", true),
        ("q", true),
        ("q/r", true),
    ] {
        both(roots, name, |r| {
            if is_dir {
                ok(fs::create_dir(r.join(name)))
            } else {
                ok(fs::write(r.join(name), name))
            }
        })?;
    }
    let rename = |from: &'static str, to: &'static str| {
        both(roots, &format!("rename {from} {to}"), |r| {
            ok(fs::rename(r.join(from), r.join(to)))
        })
    };
    let flagged = |from: &'static str, to: &'static str, flags: u32| {
        both(roots, &format!("rename {from} {to} flags {flags}"), |r| {
            rename2(&r.join(from), &r.join(to), flags)
        })
    };
    rename("none", "a")?;
    rename("a", "p")?;
    rename("p", "a")?;
    rename("p", "q")?;
    rename("q", "q/r/s")?;
    rename("q", "q")?;
    rename("a", "q/r/a")?;
    rename("q/r/a", "b")?;
    both(roots, "replaced", |r| fs::read_to_string(r.join("b")))?;
    both(roots, "link to itself", |r| {
        ok(fs::hard_link(r.join("b"), r.join("b2")))
    })?;
    rename("b", "b2")?;
    both(roots, "both names stay", |r| {
        Ok(format!(
            "{:?} {:?}",
            shown(&r.join("b")),
            shown(&r.join("b2"))
        ))
    })?;
    rename("q/r", "p")?;
    both(roots, "links of q", |r| shown(&r.join("q")))?;
    both(roots, "dotdot", |r| {
        Ok((fs::metadata(r.join("p/.."))?.ino() == fs::metadata(r)?.ino()).to_string())
    })?;
    flagged("b", "b2", libc::RENAME_NOREPLACE)?;
    flagged("b", "b3", libc::RENAME_NOREPLACE)?;
    flagged("b3", "none", libc::RENAME_EXCHANGE)?;
    flagged("b3", "q", libc::RENAME_EXCHANGE)?;
    both(roots, "exchanged", |r| {
        Ok(format!(
            "{:?} {:?}",
            shown(&r.join("b3")),
            shown(&r.join("q"))
        ))
    })?;
    flagged("p", "b3", libc::RENAME_EXCHANGE | libc::RENAME_NOREPLACE)
}

fn attributes(roots: &[&Path; 2]) -> Result<()> {
    both(roots, "write attr", |r| {
        ok(fs::write(r.join("attr"), "12345"))
    })?;
    for mode in [0o000, 0o444, 0o4755, 0o2755, 0o1644, 0o7777, 0o644] {
        both(roots, &format!("chmod {mode:o}"), |r| {
            fs::set_permissions(r.join("attr"), fs::Permissions::from_mode(mode))
                .and_then(|()| shown(&r.join("attr")))
        })?;
    }
    let own = |mode: u32, uid: Option<u32>, gid: Option<u32>| {
        both(
            roots,
            &format!("chown of {mode:o} to {uid:?} {gid:?}"),
            |r| {
                fs::set_permissions(r.join("attr"), fs::Permissions::from_mode(mode))?;
                std::os::unix::fs::chown(r.join("attr"), uid, gid)?;
                shown(&r.join("attr"))
            },
        )
    };
    own(0o755, Some(1000), None)?;
    own(0o755, None, Some(1000))?;
    own(0o755, Some(0), Some(0))?;
    both(roots, "setgid directory hands its group down", |r| {
        fs::create_dir(r.join("shared"))?;
        std::os::unix::fs::chown(r.join("shared"), None, Some(1234))?;
        fs::set_permissions(r.join("shared"), fs::Permissions::from_mode(0o2775))?;
        fs::create_dir(r.join("shared/dir"))?;
        fs::write(r.join("shared/file"), "")?;
        Ok(format!(
            "{} {}",
            shown(&r.join("shared/dir"))?,
            shown(&r.join("shared/file"))?
        ))
    })?;
    for time in [0_i64, 1, 999_999_999, 1_700_000_000] {
        both(roots, &format!("utimens {time}"), |r| {
            let file = OpenOptions::new().write(true).open(r.join("attr"))?;
            let at =
                std::time::UNIX_EPOCH + std::time::Duration::new(time.unsigned_abs(), 123_456_789);
            file.set_times(fs::FileTimes::new().set_modified(at).set_accessed(at))?;
            let meta = fs::metadata(r.join("attr"))?;
            Ok(format!(
                "{}.{} {}.{}",
                meta.mtime(),
                meta.mtime_nsec(),
                meta.atime(),
                meta.atime_nsec()
            ))
        })?;
    }
    for length in [3, 0, 5_000_000, 4_097, 1] {
        both(roots, &format!("truncate to {length}"), |r| {
            OpenOptions::new()
                .write(true)
                .open(r.join("attr"))?
                .set_len(length)?;
            let bytes = fs::read(r.join("attr"))?;
            Ok(format!(
                "{} {}",
                shown(&r.join("attr"))?,
                bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>()
            ))
        })?;
    }
    Ok(())
}

fn contents(roots: &[&Path; 2]) -> Result<()> {
    both(roots, "scattered writes read back", |r| {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(r.join("data"))?;
        for (number, offset) in [0_u64, 10, 4_090, 70_000, 3, 1_048_570, 2_500_000, 4_096]
            .into_iter()
            .enumerate()
        {
            file.write_all_at(&vec![number as u8 + 1; 20 + number * 1_000], offset)?;
        }
        let mut bytes = Vec::new();
        File::open(r.join("data"))?.read_to_end(&mut bytes)?;
        let sum = bytes.iter().enumerate().fold(0_u64, |sum, (at, byte)| {
            sum.wrapping_mul(31)
                .wrapping_add(at as u64 ^ u64::from(*byte))
        });
        Ok(format!("{} {sum}", bytes.len()))
    })?;
    both(
        roots,
        "write and read through one descriptor, shrinking between",
        |r| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(r.join("data"))?;
            file.write_all_at(b"0123456789", 100)?;
            file.set_len(105)?;
            file.set_len(200)?;
            let mut bytes = [9; 120];
            file.read_exact_at(&mut bytes, 80)?;
            Ok(format!("{bytes:?} {}", file.metadata()?.len()))
        },
    )?;
    both(roots, "unlinked open file", |r| {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(r.join("gone"))?;
        file.write_all(b"still here")?;
        fs::remove_file(r.join("gone"))?;
        let mut bytes = [0; 10];
        file.read_exact_at(&mut bytes, 0)?;
        file.write_all_at(b"X", 3)?;
        file.read_exact_at(&mut bytes, 0)?;
        Ok(format!(
            "{} {}",
            String::from_utf8_lossy(&bytes),
            file.metadata()?.nlink()
        ))
    })?;
    both(roots, "append mode", |r| {
        fs::write(r.join("appended"), "one")?;
        let mut file = OpenOptions::new().append(true).open(r.join("appended"))?;
        OpenOptions::new()
            .write(true)
            .open(r.join("appended"))?
            .write_all_at(b"more than one", 0)?;
        file.write_all(b" two")?;
        fs::read_to_string(r.join("appended"))
    })?;
    both(roots, "read of a directory", |r| {
        fs::read(r.join("d")).map(|_| String::new())
    })?;
    both(roots, "shared mapping", |r| mapped(&r.join("mapped")))?;
    both(roots, "open with O_TRUNC", |r| {
        fs::write(r.join("data"), "short")?;
        fs::read_to_string(r.join("data"))
    })
}

/// Writes through a shared mapping, reads through the descriptor and through a private mapping.
#[expect(unsafe_code, reason = "mmap has no safe interface in std")]
fn mapped(path: &Path) -> Outcome {
    use std::os::fd::AsRawFd as _;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    file.set_len(10_000)?;
    file.write_all_at(b"written", 5_000)?;
    let map = |protection, flags| {
        // SAFETY: the file is 10,000 bytes long and open for what the protection asks.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                10_000,
                protection,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(at.cast::<u8>())
        }
    };
    let shared = map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)?;
    // SAFETY: both places lie inside the mapping, which nobody else uses; msync and munmap get the
    // very range that mmap gave.
    let seen = unsafe {
        let seen = shared.add(5_000).read();
        shared.add(9_999).write(b'Z');
        if libc::msync(shared.cast(), 10_000, libc::MS_SYNC) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::munmap(shared.cast(), 10_000);
        seen
    };
    let mut last = [0];
    file.read_exact_at(&mut last, 9_999)?;
    let private = map(libc::PROT_READ, libc::MAP_PRIVATE)?;
    // SAFETY: as above.
    let private = unsafe {
        let bytes = (private.add(5_001).read(), private.add(9_999).read());
        libc::munmap(private.cast(), 10_000);
        bytes
    };
    Ok(format!("{seen} {last:?} {private:?}"))
}

fn xattrs(roots: &[&Path; 2]) -> Result<()> {
    both(roots, "xattr file", |r| ok(fs::write(r.join("x"), "")))?;
    both(roots, "get none", |r| getxattr(&r.join("x"), "user.a", 100))?;
    both(roots, "set", |r| {
        setxattr(&r.join("x"), "user.a", b"value", 0)
    })?;
    both(roots, "get", |r| getxattr(&r.join("x"), "user.a", 100))?;
    both(roots, "get size", |r| getxattr(&r.join("x"), "user.a", 0))?;
    both(roots, "get short", |r| getxattr(&r.join("x"), "user.a", 2))?;
    both(roots, "create over", |r| {
        setxattr(&r.join("x"), "user.a", b"v", libc::XATTR_CREATE)
    })?;
    both(roots, "replace none", |r| {
        setxattr(&r.join("x"), "user.b", b"v", libc::XATTR_REPLACE)
    })?;
    both(roots, "replace", |r| {
        setxattr(&r.join("x"), "user.a", b"other", libc::XATTR_REPLACE)
    })?;
    both(roots, "get replaced", |r| {
        getxattr(&r.join("x"), "user.a", 100)
    })?;
    both(roots, "on dir", |r| {
        setxattr(&r.join("d"), "user.a", b"dir", 0)
    })?;
    both(roots, "remove", |r| removexattr(&r.join("x"), "user.a"))?;
    both(roots, "remove none", |r| {
        removexattr(&r.join("x"), "user.a")
    })
}

/// A few thousand operations on a few names, drawn from a fixed seed.
fn random_operations(roots: &[&Path; 2]) -> Result<()> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for root in roots {
        fs::create_dir(root.join("random"))?;
    }
    let dirs = [
        "random",
        "random/d0",
        "random/d1",
        "random/d0/e0",
        "random/d1/e1",
    ];
    for step in 0..3_000 {
        let mut name = || {
            let dir = dirs[draw(dirs.len() as u64) as usize];
            match draw(8) {
                number @ 0..5 => format!("{dir}/f{number}"),
                number => format!(
                    "{dir}/{}{}",
                    if dir == "random" { "d" } else { "e" },
                    number - 5
                ),
            }
        };
        let (one, two) = (name(), name());
        let (choice, offset, length) = (draw(14), draw(100_000), draw(40_000));
        let label = format!("step {step}: {choice} {one} {two} {offset} {length}");
        both(roots, &label, |r| {
            let (a, b) = (r.join(&one), r.join(&two));
            match choice {
                0 => ok(fs::create_dir(&a)),
                1 => File::create_new(&a).map(|_| String::new()),
                2 => ok(fs::remove_file(&a)),
                3 => ok(fs::remove_dir(&a)),
                4 | 5 => ok(fs::rename(&a, &b)),
                6 => ok(fs::hard_link(&a, &b)),
                7 => ok(symlink(&two, &a)),
                8 => OpenOptions::new()
                    .write(true)
                    .custom_nofollow()
                    .open(&a)?
                    .write_all_at(&vec![step as u8; length as usize], offset)
                    .map(|()| String::new()),
                9 => OpenOptions::new()
                    .write(true)
                    .custom_nofollow()
                    .open(&a)?
                    .set_len(offset)
                    .map(|()| String::new()),
                10 => {
                    let mut bytes = Vec::new();
                    OpenOptions::new()
                        .read(true)
                        .custom_nofollow()
                        .open(&a)?
                        .read_to_end(&mut bytes)?;
                    let sum = bytes.iter().enumerate().fold(0_u64, |sum, (at, byte)| {
                        sum.wrapping_mul(31)
                            .wrapping_add(at as u64 ^ u64::from(*byte))
                    });
                    Ok(format!("{} {sum}", bytes.len()))
                }
                11 => rename2(&a, &b, libc::RENAME_EXCHANGE),
                12 => rename2(&a, &b, libc::RENAME_NOREPLACE),
                _ => shown(&a),
            }
        })?;
    }
    Ok(())
}

trait NoFollow {
    fn custom_nofollow(&mut self) -> &mut Self;
}

impl NoFollow for OpenOptions {
    fn custom_nofollow(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        self.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
    }
}

/// Times were set by different clocks: those of the local tree are put in place of the mount's.
fn without_times(mut mount: Tree, local: &Path) -> Result<Tree> {
    mount.take_times(&Tree::read(local)?);
    Ok(mount)
}
