//! Disks that are full, and room that is given back.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::statvfs::statvfs;
use tests::{Cluster, Disk, replicas_differ, run};

const MIB: u64 = 1 << 20;

fn has_no_room(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOSPC)
}

/// Directories of the servers of a role.
fn dirs(cluster: &Cluster, role: &str) -> Result<Vec<PathBuf>> {
    let servers = cluster.servers()?.into_iter();
    Ok(servers
        .filter(|server| server.role == role)
        .map(|server| server.dir)
        .collect())
}

/// Bytes of the disk that the objects of a store take.
fn stored_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        // Removed meanwhile.
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => stored_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

/// Makes and syncs a file whose bytes are all `byte`.
fn make_file(path: &Path, byte: u8, bytes: u64) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&vec![byte; usize::try_from(bytes)?])?;
    Ok(file.sync_all()?)
}

/// Its first bytes are all `byte`.
fn check_file(path: &Path, byte: u8, bytes: u64) -> Result<()> {
    let found = fs::read(path)?;
    let wrong = found.iter().position(|it| *it != byte);
    ensure!(
        found.len() as u64 >= bytes && wrong.is_none_or(|at| at as u64 >= bytes),
        "{} is damaged: {} bytes, at {wrong:?} another one than {byte}",
        path.display(),
        found.len()
    );
    Ok(())
}

#[test]
fn server_that_was_down_frees_what_was_deleted_meanwhile() -> Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.admin(&["volume", "create", "doomed", "--pgs", "4"])?;
    let doomed = cluster.mount_volume("second", "doomed", (&[], &[]))?;
    let mount = cluster.mount();
    make_file(&mount.join("kept"), 1, MIB)?;
    make_file(&mount.join("removed"), 2, 8 * MIB)?;
    for number in 0..8 {
        make_file(&doomed.join(format!("file-{number}")), 3, MIB)?;
    }
    let stores: Vec<_> = dirs(&cluster, "osd")?
        .iter()
        .map(|dir| dir.join("pgs"))
        .collect();
    cluster.wait_for("all replicas", |_| {
        Ok(stores.iter().all(|store| stored_bytes(store) >= 17 * MIB))
    })?;

    cluster.signal("osd-3", libc::SIGKILL)?;
    fs::remove_file(mount.join("removed"))?;
    run(Path::new("/"), "umount", &[&doomed.display().to_string()])?;
    cluster.wait_for("the volume to be deleted", |cluster| {
        Ok(cluster.admin(&["volume", "delete", "doomed"]).is_ok())
    })?;
    let is_freed = |store: &PathBuf| Ok(stored_bytes(store) < 3 * MIB);
    for store in stores.iter().take(2) {
        cluster.wait_for("the servers that are up to free it", |_| is_freed(store))?;
    }
    ensure!(stored_bytes(&stores[2]) >= 17 * MIB, "it was down");
    cluster.start_server("osd-3")?;

    cluster.wait_for("the one that was down to free it", |_| is_freed(&stores[2]))?;
    cluster.wait_full()?;
    for store in &stores {
        let bytes = stored_bytes(store);
        ensure!(bytes >= MIB, "{} has {bytes} bytes", store.display());
    }
    check_file(&mount.join("kept"), 1, MIB)?;
    cluster.down()
}

/// A cluster whose servers of a role have disks of their own.
fn with_disks(role: &str, bytes: u64) -> Result<(Cluster, Vec<Disk>)> {
    let mut cluster = Cluster::start()?;
    let dirs = dirs(&cluster, role)?;
    cluster.down()?;
    let disks = dirs.iter().map(|dir| Disk::under(dir, bytes));
    let disks = disks.collect::<Result<_>>()?;
    cluster.up()?;
    cluster.wait_full()?;
    Ok((cluster, disks))
}

/// Writes and syncs MiB after MiB until there is no room; returns how many were synced.
fn write_until_full(path: &Path, byte: u8) -> Result<u64> {
    let mut file = File::create(path)?;
    let piece = vec![byte; usize::try_from(MIB)?];
    for written in 0..1024 {
        match file.write_all(&piece).and_then(|()| file.sync_all()) {
            Ok(()) => {}
            Err(error) if has_no_room(&error) => return Ok(written),
            Err(error) => return Err(error).context("write"),
        }
    }
    bail!("a GiB fits on disks of 128 MiB")
}

#[test]
fn full_object_servers_refuse_data_keep_what_they_have_and_go_on_when_there_is_room() -> Result<()>
{
    let (mut cluster, disks) = with_disks("osd", 128 * MIB)?;
    let mount = cluster.mount();
    make_file(&mount.join("early"), 1, 8 * MIB)?;

    let synced = write_until_full(&mount.join("large"), 2)?;

    ensure!((16..128).contains(&synced), "{synced} MiB were synced");
    println!("{synced} MiB fitted on disks of 128 MiB");
    check_file(&mount.join("early"), 1, 8 * MIB)?;
    check_file(&mount.join("large"), 2, synced * MIB)?;
    let length = fs::metadata(mount.join("large"))?.len();
    println!("it is {length} bytes long");
    let free = |mount: &Path| -> Result<u64> {
        let stat = statvfs(mount)?;
        Ok(stat.blocks_available() * stat.fragment_size())
    };
    cluster.wait_for("df to show it", |cluster| {
        Ok(free(&cluster.mount())? < 4 * MIB)
    })?;
    // Names, and bytes that are there already, need no room on these disks.
    fs::create_dir(mount.join("dir"))?;
    File::options()
        .write(true)
        .open(mount.join("early"))?
        .write_all_at(&[1; 4096], MIB)?;

    fs::remove_file(mount.join("large"))?;

    cluster.wait_for("the room to be given back", |cluster| {
        Ok(free(&cluster.mount())? > 64 * MIB)
    })?;
    for disk in &disks {
        ensure!(disk.free_bytes()? > 64 * MIB);
    }
    make_file(&mount.join("late"), 3, 32 * MIB)?;
    check_file(&mount.join("late"), 3, 32 * MIB)?;
    check_file(&mount.join("early"), 1, 8 * MIB)?;
    cluster.wait_full()?;
    let stores = dirs(&cluster, "osd")?;
    cluster.down()?;
    let differences = replicas_differ(&stores)?;
    ensure!(differences.is_empty(), "{differences:?}");
    Ok(())
}

/// Makes directories until one is refused; returns them.
fn make_until_refused(mount: &Path) -> Result<Vec<PathBuf>> {
    /// Servers look at their disks every now and then.
    const PATIENCE: Duration = Duration::from_secs(60);
    let begun = Instant::now();
    let mut made = Vec::new();
    while begun.elapsed() < PATIENCE {
        let path = mount.join(format!("dir-{}", made.len()));
        match fs::create_dir(&path) {
            Ok(()) => made.push(path),
            Err(error) if has_no_room(&error) => return Ok(made),
            Err(error) => return Err(error).context("mkdir"),
        }
    }
    bail!("no directory was refused among {}", made.len())
}

/// What goes on while the disks of the metadata servers are nearly full.
fn what_needs_no_new_names(mount: &Path, made: &[PathBuf]) -> Result<()> {
    for round in 0..50 {
        let mut file = File::options().append(true).open(mount.join("file"))?;
        file.write_all(&[1; 4096])?;
        file.sync_all().with_context(|| format!("round {round}"))?;
    }
    check_file(&mount.join("file"), 1, MIB + 50 * 4096)?;
    for name in made {
        fs::remove_dir(name)?;
    }
    Ok(())
}

#[test]
fn metadata_servers_whose_disks_get_full_refuse_new_names_and_say_so_until_there_is_room()
-> Result<()> {
    /// Less than the eighth that is kept free.
    const LEFT: u64 = 26 * MIB;
    let (mut cluster, disks) = with_disks("mrc", 256 * MIB)?;
    let mount = cluster.mount();
    make_file(&mount.join("file"), 1, MIB)?;

    for disk in &disks {
        disk.fill_but(LEFT)?;
    }

    let made = make_until_refused(&mount)?;
    println!("{} directories were made meanwhile", made.len());
    let status = cluster.admin(&["status"])?;
    ensure!(status.contains("disk is nearly full"), "{status}");
    what_needs_no_new_names(&mount, &made)?;
    let states: Vec<_> = cluster.servers()?.into_iter().map(|it| it.state).collect();
    ensure!(!states.iter().any(|state| state == "down"), "{states:?}");

    for disk in &disks {
        disk.free()?;
    }
    cluster.wait_for("directories to be made again", |_| {
        match fs::create_dir(mount.join("late")) {
            Ok(()) => Ok(true),
            Err(error) if has_no_room(&error) => Ok(false),
            Err(error) => Err(error).context("mkdir"),
        }
    })?;
    cluster.wait_for("nobody to complain", |cluster| {
        Ok(!cluster.admin(&["status"])?.contains("nearly full"))
    })?;
    // What was acknowledged is in the logs.
    cluster.down()?;
    cluster.up()?;
    ensure!(mount.join("late").is_dir());
    check_file(&mount.join("file"), 1, MIB + 50 * 4096)?;
    cluster.down()
}
