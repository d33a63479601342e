//! A mount from its checks to its end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use fuser::{Session, SessionACL};
use nix::errno::Errno as SystemErrno;
use nix::mount::{MntFlags, umount2};
use shell::link::Wire;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use types::{ClusterId, Secret};

use crate::config::{CONNECT_TIMEOUT, DETACH_TIMEOUT, KERNEL_THREADS_MAX, KERNEL_THREADS_MIN};
use crate::connect::{ConnectError, ConnectOptions};
use crate::door::Door;
use crate::options::Flags;
use crate::oxfs::OxFs;

/// What to mount where.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Addresses of metadata servers, `HOST:PORT`.
    pub addresses: Vec<String>,
    /// Name of the volume.
    pub volume: String,
    /// An empty directory.
    pub mount_point: PathBuf,
    /// The cluster's id.
    pub cluster: ClusterId,
    /// The cluster's secret.
    pub secret: Secret,
    /// Further options.
    pub flags: Flags,
    /// How the links to servers behave.
    pub wire: Wire,
}

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The mount point is not there.
    #[error("mount point {} does not exist; make the directory first", .0.display())]
    Missing(PathBuf),
    /// The mount point is something else.
    #[error("mount point {} is not a directory; choose one that is", .0.display())]
    NotADirectory(PathBuf),
    /// There are files in the way.
    #[error("mount point {} is not empty; choose an empty directory", .0.display())]
    NotEmpty(PathBuf),
    /// Something is mounted there.
    #[error("something is already mounted on {}; unmount it first with `umount {}`", .0.display(), .0.display())]
    AlreadyMounted(PathBuf),
    /// A mount whose process died is still there.
    #[error("a dead mount is on {}; remove it with `umount -l {}`", .0.display(), .0.display())]
    DeadMount(PathBuf),
    /// The mount point can't be looked at.
    #[error("mount point {} can't be used: {source}", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no FUSE.
    #[error(
        "/dev/fuse can't be opened: {0}; load the kernel's FUSE (`modprobe fuse`) and mount as root or with fusermount3 installed"
    )]
    NoFuse(io::Error),
    /// The cluster can't be joined.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The address for numbers is taken, or not of this machine.
    #[error("metrics can't be served at {address}: {source}; choose another metrics_listen=")]
    Metrics {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The kernel or fusermount3 refused.
    #[error("mounting on {} failed: {source}", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The session with the kernel broke.
    #[error("the kernel ended the mount: {0}")]
    Ended(io::Error),
    /// What programs had written could not all be stored before the mount ended.
    #[error("not everything that was written could be stored before the mount ended; see the log")]
    Undrained,
}

/// Mounts, serves until the volume is unmounted or `shutdown` completes, and unmounts.
///
/// # Errors
///
/// [`MountError`].
pub async fn mount(
    options: MountOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), MountError> {
    mount_and_tell(options, shutdown, || {}).await
}

/// As [`mount()`]; calls `mounted` when programs can use it.
///
/// # Errors
///
/// [`MountError`].
pub async fn mount_and_tell(
    options: MountOptions,
    shutdown: impl Future<Output = ()>,
    mounted: impl FnOnce(),
) -> Result<(), MountError> {
    check_mount_point(&options.mount_point)?;
    check_fuse()?;
    let mount_point = options.mount_point.canonicalize().map_err(|source| {
        let path = options.mount_point.clone();
        MountError::Unusable { path, source }
    })?;
    let fs = OxFs::connect(ConnectOptions {
        addresses: options.addresses.clone(),
        volume: options.volume.clone(),
        cluster: options.cluster,
        secret: options.secret.clone(),
        mount_point: Some(mount_point.clone()),
        soft: options.flags.soft,
        connect_timeout: CONNECT_TIMEOUT,
        read_ahead_age: options.flags.read_ahead_age,
        wire: options.wire.clone(),
    })
    .await?;
    let metrics = serve_metrics(&fs, options.flags.metrics_listen).await;
    if let Err(error) = metrics {
        // Nothing was written; only the session is to be closed.
        let _ = fs.shutdown().await;
        return Err(error);
    }
    let session = match start(&fs, &options, &mount_point).await {
        Ok(session) => session,
        Err(source) => {
            let path = mount_point.clone();
            // Nothing was written; only the session is to be closed.
            let _ = fs.shutdown().await;
            return Err(MountError::Refused { path, source });
        }
    };
    tracing::info!(volume = options.volume, mount_point = %mount_point.display(), "mounted");
    mounted();
    let ended = serve(session, &mount_point, shutdown).await;
    let drained = fs.shutdown().await;
    tracing::info!(mount_point = %mount_point.display(), "unmounted");
    ended.map_err(MountError::Ended)?;
    drained.map_err(|_| MountError::Undrained)
}

/// Serves numbers for as long as the process runs, if an address is given.
async fn serve_metrics(fs: &OxFs, address: Option<SocketAddr>) -> Result<(), MountError> {
    let Some(address) = address else {
        return Ok(());
    };
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| MountError::Metrics { address, source })?;
    let bound = listener.local_addr();
    let bound = bound.map_err(|source| MountError::Metrics { address, source })?;
    let _first = fs.inner.shared.metrics_address.set(bound);
    let fs = fs.clone();
    tokio::spawn(shell::metrics::serve(
        listener,
        Arc::new(move || fs.metrics()),
    ));
    Ok(())
}

async fn start(fs: &OxFs, options: &MountOptions, mount_point: &Path) -> io::Result<Session<Door>> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut config = fuser::Config::default();
    config.mount_options = options.flags.to_fuse(&options.volume);
    config.acl = if options.flags.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(cpus.clamp(KERNEL_THREADS_MIN, KERNEL_THREADS_MAX));
    let runtime = tokio::runtime::Handle::current();
    let notifier = Arc::new(OnceLock::new());
    let background = options.flags.max_background;
    let door = Door::new(fs.clone(), runtime, background, notifier.clone());
    let mount_point = mount_point.to_owned();
    let session = tokio::task::spawn_blocking(move || Session::new(door, &mount_point, &config))
        .await
        .map_err(io::Error::other)??;
    // Nothing is served before the session runs.
    let _ = notifier.set(session.notifier());
    Ok(session)
}

/// Until it is unmounted, or unmounts it.
async fn serve(
    session: Session<Door>,
    mount_point: &Path,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let (sender, mut ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("fuse".to_owned())
        .spawn(move || {
            // Whoever waited may have given up.
            let _ = sender.send(session.run());
        })?;
    let connection = connection_of(mount_point);
    tokio::select! {
        outcome = &mut ended => {
            remove_dead(mount_point, connection).await;
            return outcome.unwrap_or(Ok(()));
        }
        () = shutdown => {}
    }
    let path = mount_point.to_owned();
    let unmounted = tokio::task::spawn_blocking(move || unmount(&path));
    if let Err(error) = unmounted.await.map_err(io::Error::other).flatten() {
        tracing::warn!(mount_point = %mount_point.display(), %error, "can't unmount");
    }
    if let Ok(outcome) = tokio::time::timeout(DETACH_TIMEOUT, &mut ended).await {
        return outcome.unwrap_or(Ok(()));
    }
    tracing::warn!(
        mount_point = %mount_point.display(),
        "programs still use the mount; their next requests will fail"
    );
    abort(connection);
    // Threads that do not end now end with the process.
    let _ = tokio::time::timeout(DETACH_TIMEOUT, ended).await;
    Ok(())
}

/// Takes away what is left of a mount whose connection ended. `umount -f` ends the connection, so that
/// everybody who waits gets an error, but leaves the mount if programs have files of it open.
async fn remove_dead(mount_point: &Path, connection: Option<u32>) {
    let path = mount_point.to_owned();
    let removed = tokio::task::spawn_blocking(move || {
        // Another mount may be there by now.
        if connection.is_some() && connection_of(&path) == connection {
            unmount(&path)?;
        }
        Ok(())
    });
    if let Err(error) = removed.await.map_err(io::Error::other).flatten() {
        tracing::warn!(mount_point = %mount_point.display(), %error, "can't remove the dead mount");
    }
}

/// Unmounts; detaches a mount that programs still use, so that no new one can.
fn unmount(mount_point: &Path) -> io::Result<()> {
    match umount2(mount_point, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        // Unmounted by somebody else meanwhile.
        Err(SystemErrno::EINVAL | SystemErrno::ENOENT) => Ok(()),
        Err(SystemErrno::EBUSY) => {
            umount2(
                mount_point,
                MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW,
            )?;
            Ok(())
        }
        Err(SystemErrno::EPERM) => {
            let status = std::process::Command::new("fusermount3")
                .args(["-u", "-z", "--"])
                .arg(mount_point)
                .status()?;
            if status.success() {
                Ok(())
            } else {
                Err(io::Error::other(format!(
                    "fusermount3 -u ended with {status}"
                )))
            }
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Number of the kernel's FUSE connection behind a mount point.
fn connection_of(mount_point: &Path) -> Option<u32> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = table.lines().rfind(|line| is_mount_of(line, mount_point))?;
    line.split(' ').nth(2)?.split(':').nth(1)?.parse().ok()
}

/// Whether a line of mountinfo is about `mount_point`.
fn is_mount_of(line: &str, mount_point: &Path) -> bool {
    let field = line.split(' ').nth(4).unwrap_or_default();
    // Blanks and the like are written as octal numbers.
    let plain = field
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\");
    Path::new(&plain) == mount_point
}

fn abort(connection: Option<u32>) {
    if let Some(connection) = connection {
        let path = format!("/sys/fs/fuse/connections/{connection}/abort");
        if let Err(error) = std::fs::write(&path, "1") {
            tracing::debug!(path, %error, "can't abort the connection");
        }
    }
}

fn check_mount_point(path: &Path) -> Result<(), MountError> {
    let owned = || path.to_owned();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::Missing(owned()));
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            return Err(MountError::DeadMount(owned()));
        }
        Err(source) => {
            return Err(MountError::Unusable {
                path: owned(),
                source,
            });
        }
    };
    if !metadata.is_dir() {
        return Err(MountError::NotADirectory(owned()));
    }
    let full = path.canonicalize().unwrap_or_else(|_| owned());
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if table.lines().any(|line| is_mount_of(line, &full)) {
        return Err(MountError::AlreadyMounted(owned()));
    }
    let mut entries = std::fs::read_dir(path).map_err(|source| MountError::Unusable {
        path: owned(),
        source,
    })?;
    if entries.next().is_some() {
        return Err(MountError::NotEmpty(owned()));
    }
    Ok(())
}

fn check_fuse() -> Result<(), MountError> {
    let metadata = std::fs::metadata("/dev/fuse").map_err(MountError::NoFuse)?;
    if !metadata.file_type().is_char_device() {
        let error = io::Error::other("it is no device");
        return Err(MountError::NoFuse(error));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_mount_points_are_named_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();

        let errors = [
            check_mount_point(&missing).unwrap_err().to_string(),
            check_mount_point(&file).unwrap_err().to_string(),
            check_mount_point(dir.path()).unwrap_err().to_string(),
            check_mount_point(Path::new("/proc"))
                .unwrap_err()
                .to_string(),
        ];

        assert!(errors[0].contains("does not exist") && errors[0].contains("missing"));
        assert!(errors[1].contains("not a directory"));
        assert!(errors[2].contains("not empty"));
        assert!(errors[3].contains("already mounted"));
    }

    #[test]
    fn mount_points_with_blanks_are_recognised() {
        let line = "36 35 98:0 / /mnt/my\\040files rw - fuse.oxfs oxfs rw";

        assert!(is_mount_of(line, Path::new("/mnt/my files")));
        assert!(!is_mount_of(line, Path::new("/mnt/my")));
    }
}
