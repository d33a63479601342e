//! The disks of all metadata servers are lost; a dump and the object servers bring everything back.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{Cluster, Tree, make_sparse_and_odd_files};

const LONG: usize = 3 << 20;

/// What is in the cluster when the dump is made.
fn make_files(mount: &Path) -> Result<()> {
    let tree = mount.join("tree");
    make_sparse_and_odd_files(&tree)?;
    let raw = tree.join(OsStr::from_bytes(b"not \xff utf-8 \xc3"));
    fs::write(&raw, "raw name")?;
    std::os::unix::fs::symlink(OsStr::from_bytes(b"to \xfe"), tree.join("raw link"))?;
    set_xattr(&raw, "user.text", b"a value")?;
    set_xattr(&raw, "user.binary", &[0, 255, 10])?;
    for name in ["grown", "cut", "rewritten", "deleted", "empty"] {
        write_synced(&mount.join(name), content(name, 1).as_bytes())?;
    }
    File::create(mount.join("empty"))?.sync_all()?;
    Ok(())
}

fn content(name: &str, round: u32) -> String {
    format!("{name} {round} ").repeat(10_000)
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(())
}

/// What happens after the dump; returns the inode of a file that it does not know.
fn change_files(mount: &Path) -> Result<u64> {
    let grown = File::options().append(true).open(mount.join("grown"))?;
    (&grown).write_all(&vec![7; LONG])?;
    grown.sync_all()?;
    let cut = File::options().write(true).open(mount.join("cut"))?;
    cut.set_len(1000)?;
    cut.sync_all()?;
    let rewritten = File::options().write(true).open(mount.join("rewritten"))?;
    rewritten.write_all_at(content("REWRITTEN", 2).as_bytes(), 0)?;
    rewritten.sync_all()?;
    fs::remove_file(mount.join("deleted"))?;
    let later = mount.join("later");
    write_synced(&later, b"made after the dump")?;
    Ok(fs::metadata(later)?.ino())
}

/// Stores that have an object of a file.
fn holders(cluster: &Cluster, inode: u64) -> Result<usize> {
    let name = format!("{:02x}/{inode:x}.0", inode & 0xff);
    let mut count = 0;
    for number in 1..=3 {
        let groups = cluster.dir().join(format!("osd-{number}/pgs"));
        for group in fs::read_dir(groups)? {
            count += usize::from(group?.path().join(&name).exists());
        }
    }
    Ok(count)
}

fn restored(cluster: &Cluster) -> Result<Value> {
    let text = cluster.admin(&["--output", "json", "restored", "show"])?;
    Ok(serde_json::from_str(&text)?)
}

fn refused(cluster: &Cluster, args: &[&str]) -> Result<String> {
    match cluster.admin(args) {
        Ok(said) => anyhow::bail!("{args:?} was done: {said}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// Object servers look for leftovers all the time.
fn hurry(cluster: &mut Cluster) -> Result<()> {
    let osds = cluster.names("osd")?;
    cluster.down()?;
    for osd in osds {
        let config = cluster.dir().join("config").join(format!("{osd}.toml"));
        let mut file = File::options().append(true).open(config)?;
        writeln!(file, "leftovers_ms = 200")?;
    }
    cluster.up()
}

/// All metadata servers begin with nothing, and everything runs that can.
fn lose_all_metadata(cluster: &mut Cluster) -> Result<()> {
    cluster.down()?;
    for number in 1..=3 {
        fs::remove_dir_all(cluster.dir().join(format!("mrc-{number}")))?;
    }
    let Err(error) = cluster.up() else {
        anyhow::bail!("`oxfs up` began anew over the objects of before");
    };
    let error = format!("{error:#}");
    ensure!(error.contains("xfs-admin restore"), "{error}");
    cluster.down_by_command()?;
    for role in ["mrc", "osd"] {
        for number in 1..=3 {
            cluster.start_server(&format!("{role}-{number}"))?;
        }
    }
    Ok(())
}

#[test]
fn dump_brings_everything_back_when_all_metadata_is_lost() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let outcome = lose_and_restore(&mut cluster);
    if outcome.is_err() {
        // `oxfs up`, which would end them, does not run all the time.
        cluster.down_by_command().ok();
    }
    outcome
}

fn lose_and_restore(cluster: &mut Cluster) -> Result<()> {
    hurry(cluster)?;
    cluster.wait_full()?;
    let mount = cluster.mount();
    make_files(&mount)?;
    let before = Tree::read(&mount.join("tree"))?;
    let deleted = fs::metadata(mount.join("deleted"))?.ino();
    let dump = cluster.scratch().join("dump");
    let file = dump.display().to_string();

    let said = cluster.admin(&["dump", &file])?;
    ensure!(
        said.contains("1 volumes") && said.contains("found whole"),
        "{said}"
    );
    let later = change_files(&mount)?;
    cluster.admin(&["volume", "create", "second"])?;
    cluster.wait_for("the objects of the deleted file to go", |cluster| {
        Ok(holders(cluster, deleted)? == 0 && holders(cluster, later)? >= 2)
    })?;
    let unneeded = refused(cluster, &["restore", &file])?;
    ensure!(unneeded.contains("new metadata cluster"), "{unneeded}");
    lose_all_metadata(cluster)?;

    let cut = cluster.scratch().join("cut");
    let whole = fs::read(&dump)?;
    fs::write(&cut, &whole[..whole.len() / 2])?;
    let error = refused(cluster, &["restore", &cut.display().to_string()])?;
    ensure!(
        error.contains(" line ") && error.contains("cut off"),
        "{error}"
    );
    // Until an object server is heard there is none to make a volume on, either.
    cluster.wait_for("object servers that know more", |cluster| {
        let error = refused(cluster, &["volume", "create", "new"])?;
        ensure!(
            error.contains("knows version") || error.contains("no object server is up"),
            "{error}"
        );
        Ok(error.contains("knows version"))
    })?;
    let said = cluster.admin(&["restore", &file])?;
    ensure!(said.contains("restored 1 volumes"), "{said}");
    let twice = refused(cluster, &["restore", &file])?;
    ensure!(twice.contains("new metadata cluster"), "{twice}");

    let mount = cluster.mount_with("again", &[], &[])?;
    check_files(&mount, &before)?;
    check_restored(cluster)?;
    let new = make_new_files(&mount)?;
    ensure!(new.iter().all(|inode| *inode > 1 << 40), "{new:?}");
    ensure!(!new.contains(&later) && !mount.join("later").exists());
    cluster.admin(&["volume", "create", "second"])?;
    cluster.wait_full()?;
    ensure!(holders(cluster, later)? >= 2, "it was to be kept");

    let again = cluster.scratch().join("dump again").display().to_string();
    cluster.admin(&["dump", &again])?;
    cluster.admin(&["restored", "discard"])?;
    cluster.wait_for("unknown objects to be deleted", |cluster| {
        Ok(holders(cluster, later)? == 0)
    })?;
    ensure!(restored(cluster)?["keeps_unknown_objects"] == false);
    check_files(&mount, &before)?;
    cluster.down_by_command()?;
    cluster.up()?;
    check_files(&cluster.mount(), &before)?;
    cluster.down()
}

fn check_files(mount: &Path, before: &Tree) -> Result<()> {
    let tree = mount.join("tree");
    let now = Tree::read(&tree)?;
    ensure!(&now == before, "the tree is another one: {now:?}");
    let raw = tree.join(OsStr::from_bytes(b"not \xff utf-8 \xc3"));
    ensure!(xattr(&raw, "user.text")? == b"a value");
    ensure!(xattr(&raw, "user.binary")? == [0, 255, 10]);
    let mut grown = content("grown", 1).into_bytes();
    grown.resize(grown.len() + LONG, 7);
    ensure!(fs::read(mount.join("grown"))? == grown, "grown");
    let cut = &content("cut", 1)[..1000];
    ensure!(fs::read_to_string(mount.join("cut"))? == cut, "cut");
    ensure!(fs::metadata(mount.join("cut"))?.len() == 1000);
    let rewritten = content("REWRITTEN", 2);
    ensure!(fs::read_to_string(mount.join("rewritten"))? == rewritten);
    ensure!(fs::read(mount.join("empty"))?.is_empty());
    // What is not there is no zeros.
    for outcome in [
        fs::read(mount.join("deleted")).map(|_| ()),
        File::create(mount.join("deleted")).map(|_| ()),
    ] {
        let error = outcome.err().context("a deleted file could be opened")?;
        ensure!(error.raw_os_error() == Some(libc::EIO), "{error}");
    }
    Ok(())
}

fn check_restored(cluster: &mut Cluster) -> Result<()> {
    cluster.wait_for("all files to be settled", |cluster| {
        let restored = restored(cluster)?;
        Ok(restored["files_settled"] == restored["files_total"])
    })?;
    let restored = restored(cluster)?;
    ensure!(restored["files_lost"] == 1, "{restored}");
    ensure!(restored["keeps_unknown_objects"] == true, "{restored}");
    ensure!(restored["files_total"].as_u64() > Some(10), "{restored}");
    cluster.wait_for("the restore's session to end", |cluster| {
        let list = cluster.admin(&["session", "list"])?;
        Ok(!list.contains("restore"))
    })
}

fn make_new_files(mount: &Path) -> Result<Vec<u64>> {
    let new = mount.join("new");
    fs::create_dir_all(&new)?;
    let mut inodes = Vec::new();
    for number in 0..50 {
        let path: PathBuf = new.join(number.to_string());
        write_synced(&path, content("new", number).as_bytes())?;
        inodes.push(fs::metadata(&path)?.ino());
    }
    for number in 0..50 {
        let text = fs::read_to_string(new.join(number.to_string()))?;
        ensure!(text == content("new", number), "new file {number}");
    }
    Ok(inodes)
}

#[expect(unsafe_code, reason = "xattrs have no safe interface in std")]
fn set_xattr(path: &Path, name: &str, value: &[u8]) -> Result<()> {
    let (path, name) = (c_path(path)?, CString::new(name)?);
    // SAFETY: strings end with a zero, and the length is the value's.
    let answer = unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    ensure!(answer == 0, "setxattr: {}", std::io::Error::last_os_error());
    Ok(())
}

#[expect(unsafe_code, reason = "xattrs have no safe interface in std")]
fn xattr(path: &Path, name: &str) -> Result<Vec<u8>> {
    let (path, name) = (c_path(path)?, CString::new(name)?);
    let mut value = vec![0_u8; 256];
    // SAFETY: strings end with a zero, and the length is the buffer's.
    let length = unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    let length = usize::try_from(length)
        .map_err(|_| anyhow::anyhow!("getxattr: {}", std::io::Error::last_os_error()))?;
    value.truncate(length);
    Ok(value)
}

fn c_path(path: &Path) -> Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
