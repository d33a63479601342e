//! The free space of this server's disk, and what the leader refuses when it comes to an end.
//!
//! A metadata server that can't write its log has to stop, and on full disks all of them would at
//! once. So a reserve is kept: below it whatever makes the index grow is refused with `ENOSPC`,
//! while deleting, closing and housekeeping go on and make room.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::index::command::Op as Change;
use types::Fault;

use crate::config::{CUSHION_BYTES_MAX, DISK_LOOK_INTERVAL, DISK_RESERVE_BYTES_MAX};
use crate::cushion::Cushion;
use crate::node::Node;

/// A file system's size and what is free of it, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Space {
    /// All of it.
    pub capacity_bytes: u64,
    /// What may still be written.
    pub free_bytes: u64,
}

/// Looks how much space the file system of a directory has.
pub type SpaceProbe = Arc<dyn Fn(&Path) -> io::Result<Space> + Send + Sync>;

/// Asks the file system.
pub(crate) fn probe() -> SpaceProbe {
    Arc::new(|dir| {
        let stat = nix::sys::statvfs::statvfs(dir)?;
        let unit = stat.fragment_size();
        Ok(Space {
            capacity_bytes: stat.blocks() * unit,
            free_bytes: stat.blocks_available() * unit,
        })
    })
}

/// What is kept free: an eighth of a small disk, no more than the maximum of a large one.
const fn reserve_bytes(capacity_bytes: u64) -> u64 {
    let eighth = capacity_bytes / 8;
    if eighth < DISK_RESERVE_BYTES_MAX {
        eighth
    } else {
        DISK_RESERVE_BYTES_MAX
    }
}

/// A sixteenth of a small disk.
const fn cushion_bytes(capacity_bytes: u64) -> u64 {
    let part = capacity_bytes / 16;
    if part < CUSHION_BYTES_MAX {
        part
    } else {
        CUSHION_BYTES_MAX
    }
}

/// The disk of this server.
pub(crate) struct Disk {
    probe: SpaceProbe,
    dir: PathBuf,
    cushion: Cushion,
    /// Free bytes while they are below the reserve, else [`ENOUGH`].
    low: AtomicU64,
}

const ENOUGH: u64 = u64::MAX;

impl Disk {
    pub(crate) fn new(dir: &Path, probe: SpaceProbe) -> Self {
        let disk = Self {
            probe,
            dir: dir.to_owned(),
            cushion: Cushion::at(dir),
            low: AtomicU64::new(ENOUGH),
        };
        disk.look();
        disk
    }

    /// Looks how much is free; true if it is too little. While it is enough, the cushion is filled.
    pub(crate) fn look(&self) -> bool {
        let space = match (self.probe)(&self.dir) {
            Ok(space) => space,
            Err(error) => {
                tracing::warn!(%error, dir = %self.dir.display(), "can't see how much of the disk is free");
                return self.is_low();
            }
        };
        let reserve = reserve_bytes(space.capacity_bytes);
        let low = space.free_bytes < reserve;
        let free = if low { space.free_bytes } else { ENOUGH };
        let before = self.low.swap(free, Ordering::Relaxed);
        let (dir, free_bytes) = (self.dir.display(), space.free_bytes);
        match (before != ENOUGH, low) {
            (false, true) => tracing::warn!(
                %dir, free_bytes, reserve,
                "the disk is nearly full: whatever needs room is refused until some is free"
            ),
            (true, false) => tracing::info!(%dir, free_bytes, "the disk has room again"),
            _ => {}
        }
        let cushion = cushion_bytes(space.capacity_bytes);
        if !low
            && space.free_bytes > reserve + cushion
            && let Err(error) = self.cushion.fill(cushion)
        {
            tracing::debug!(%error, %dir, "no cushion for the index yet");
        }
        low
    }

    /// Whether what needs room is refused.
    pub(crate) fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed) != ENOUGH
    }

    /// What to answer to a change that needs room while there is too little.
    pub(crate) fn refusal(&self, change: &Change) -> Option<Fault> {
        let free = self.low.load(Ordering::Relaxed);
        (free != ENOUGH && grows(change)).then(|| {
            let text = format!(
                "the metadata server's disk is nearly full ({} has {} MiB free); delete something there or here",
                self.dir.display(),
                free >> 20
            );
            Fault::surface(libc::ENOSPC, text)
        })
    }
}

/// Whether the index is longer afterwards, and by something that only its owner can remove.
fn grows(change: &Change) -> bool {
    match change {
        Change::Create(_)
        | Change::MkDir(_)
        | Change::MkNod(_)
        | Change::Symlink(_)
        | Change::Link(_)
        | Change::SetXattr(_)
        | Change::VolumeCreate(_) => true,
        Change::Rename(rename) => rename.new_name.len() > rename.name.len(),
        _ => false,
    }
}

/// Looks at the disk for ever. While it is nearly full, the log is cut down to what a restart
/// needs, and the index is flushed so that pages of what was deleted can be used again.
pub(crate) async fn watch(node: Arc<Node>, disk: Arc<Disk>) {
    loop {
        tokio::time::sleep(DISK_LOOK_INTERVAL).await;
        let looking = Arc::clone(&disk);
        let look = tokio::task::spawn_blocking(move || looking.look());
        let low = look.await.unwrap_or(false);
        node.log.spare().prepare();
        if !low {
            continue;
        }
        // Failures stop the server by themselves.
        let _failed = node.machine.flush().await;
        if node.log.has_older_segments() {
            let applied = node.machine.applied().map_or(0, |id| id.index);
            let trigger = node.raft.trigger();
            let _stopped = trigger.snapshot().await;
            let _stopped = trigger.purge_log(applied).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::log_writer::lock;

    #[test]
    fn reserve_is_a_part_of_small_disks_and_bounded_on_large_ones() {
        assert_eq!(reserve_bytes(64 << 20), 8 << 20);
        assert_eq!(reserve_bytes(1 << 40), DISK_RESERVE_BYTES_MAX);
    }

    #[test]
    fn below_the_reserve_what_grows_is_refused_and_nothing_else() {
        let free = Arc::new(Mutex::new(40 << 20));
        let seen = Arc::clone(&free);
        let probe: SpaceProbe = Arc::new(move |_| {
            Ok(Space {
                capacity_bytes: 64 << 20,
                free_bytes: *lock(&seen),
            })
        });
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(dir.path(), probe);
        let rename = |name: &[u8], new_name: &[u8]| {
            Change::Rename(proto::mrc::Rename {
                name: name.to_vec().into(),
                new_name: new_name.to_vec().into(),
                ..proto::mrc::Rename::default()
            })
        };
        let grow = [
            Change::Create(proto::mrc::Create::default()),
            Change::MkDir(proto::mrc::MkDir::default()),
            rename(b"a", b"ab"),
        ];
        let others = [
            Change::Unlink(proto::mrc::Unlink::default()),
            Change::RmDir(proto::mrc::RmDir::default()),
            Change::Written(proto::mrc::Written::default()),
            rename(b"ab", b"ba"),
        ];
        assert!(grow.iter().all(|change| disk.refusal(change).is_none()));

        *lock(&free) = (8 << 20) - 1;
        assert!(disk.look());

        for change in &grow {
            let fault = disk.refusal(change).unwrap();
            assert_eq!(fault.errno, libc::ENOSPC);
            assert!(fault.message.contains(&*dir.path().to_string_lossy()));
        }
        assert!(others.iter().all(|change| disk.refusal(change).is_none()));
        *lock(&free) = 8 << 20;
        assert!(!disk.look());
        assert!(grow.iter().all(|change| disk.refusal(change).is_none()));
    }
}
