//! The programs `zfs` and `zpool`: where they are, what they can do, and how they are called.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::Error;
use crate::process::{ASK_LIMIT, CHANGE_LIMIT, Line};
use crate::usage::Abilities;

/// Time between two looks whether another process has finished its turn. 5 ms: a turn takes some 30.
const TURN_PAUSE: Duration = Duration::from_millis(5);

/// Directories of administrators' programs that a service's path may lack.
const PLACES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The installed programs. Clones share what was found.
#[derive(Clone, Debug)]
pub struct Tools(Arc<Found>);

#[derive(Debug)]
struct Found {
    zfs: PathBuf,
    zpool: PathBuf,
    abilities: Abilities,
}

impl Tools {
    /// Finds the programs on the path and in the usual directories, and asks them whether ZFS answers
    /// and what they can do. Blocks for up to three minutes if ZFS hangs.
    ///
    /// # Errors
    ///
    /// [`Error::NotInstalled`]; [`Error::NoAnswer`] if there is no module, no daemon or no right to use it.
    pub fn find() -> Result<Self, Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self::find_in(std::env::split_paths(&path).chain(PLACES.map(PathBuf::from)))
    }

    /// As [`Tools::find`], in these directories only.
    ///
    /// # Errors
    ///
    /// As [`Tools::find`].
    pub fn find_in(places: impl IntoIterator<Item = PathBuf>) -> Result<Self, Error> {
        let places: Vec<_> = places.into_iter().collect();
        let zfs = program("zfs", &places)?;
        let zpool = program("zpool", &places)?;
        answer(&zpool)?;
        // Without words they print their usage and end badly.
        let usage = |path: &Path| Line::new(path, []).run_to_any_end(ASK_LIMIT);
        let abilities = Abilities::of(&usage(&zfs)?, &usage(&zpool)?);
        Ok(Self(Arc::new(Found {
            zfs,
            zpool,
            abilities,
        })))
    }

    /// What the programs can do.
    #[must_use]
    pub fn abilities(&self) -> Abilities {
        self.0.abilities
    }

    /// Runs `zfs` with words that change nothing.
    pub(crate) fn ask_zfs<'a>(
        &self,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Result<String, Error> {
        self.zfs(words).run(ASK_LIMIT)
    }

    /// Runs `zpool` with words that change nothing.
    pub(crate) fn ask_zpool<'a>(
        &self,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Result<String, Error> {
        Line::new(&self.0.zpool, words).run(ASK_LIMIT)
    }

    /// Runs `zfs` with words that change something.
    pub(crate) fn change_zfs<'a>(
        &self,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Error> {
        self.zfs(words).run(CHANGE_LIMIT).map(drop)
    }

    /// Runs `zpool` with words that change something.
    pub(crate) fn change_zpool<'a>(
        &self,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Error> {
        Line::new(&self.0.zpool, words).run(CHANGE_LIMIT).map(drop)
    }

    /// Waits until no other process of this machine has the turn, which ends with what is returned. The lock is
    /// on the program's own file, which all of them have.
    ///
    /// # Errors
    ///
    /// [`Error::NoTurn`] after as long as a command may take.
    pub(crate) fn take_turn(&self) -> Result<Flock<File>, Error> {
        let path = &self.0.zfs;
        let failed = |source| Error::NoTurn {
            path: path.clone(),
            source,
        };
        let begun = Instant::now();
        let mut file = File::open(path).map_err(failed)?;
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(turn) => return Ok(turn),
                Err((file, Errno::EAGAIN)) if begun.elapsed() < CHANGE_LIMIT => file,
                Err((_, error)) => return Err(failed(error.into())),
            };
            thread::sleep(TURN_PAUSE);
        }
    }

    /// `zfs` with these words, to be run.
    pub(crate) fn zfs<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Line {
        Line::new(&self.0.zfs, words)
    }
}

/// The first of the directories that has an executable file of that name.
fn program(name: &'static str, places: &[PathBuf]) -> Result<PathBuf, Error> {
    let is_program = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let found = places.iter().map(|place| place.join(name)).find(is_program);
    found.ok_or_else(|| Error::NotInstalled {
        program: name,
        places: places
            .iter()
            .map(|place| place.display().to_string())
            .collect::<Vec<_>>()
            .join(":"),
    })
}

/// Asks for the pools, which needs the module or the daemon.
fn answer(zpool: &Path) -> Result<(), Error> {
    match Line::new(zpool, ["list", "-H", "-o", "name"]).run(ASK_LIMIT) {
        Err(Error::Failed { command, said, .. }) => Err(Error::NoAnswer { command, said }),
        outcome => outcome.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts in place of the programs. Not written by a test, as a file that somebody may write cannot be run
    /// (ETXTBSY in execve(2)) and a process that another thread starts meanwhile would inherit it.
    fn scripts(name: &str) -> Result<Tools, Error> {
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
        Tools::find_in([programs.join(name)])
    }

    #[test]
    fn missing_programs_are_an_error_that_names_the_packages() {
        let empty = tempfile::tempdir().unwrap();

        let error = Tools::find_in([empty.path().to_owned()]).unwrap_err();

        let text = error.to_string();
        for part in [
            "zfs",
            "zfsutils-linux",
            "zfs-fuse",
            &empty.path().to_string_lossy(),
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    /// The words are those of zfs-fuse without its daemon.
    #[test]
    fn programs_without_a_daemon_are_an_error_that_says_how_to_start_it() {
        let error = scripts("no_daemon").unwrap_err();

        let text = error.to_string();
        for part in [
            "zpool list",
            "connect: No such file",
            "modprobe zfs",
            "zfs-fuse",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn programs_are_asked_what_they_can_do() {
        let tools = scripts("bookmarks").unwrap();

        assert!(tools.abilities().bookmarks);
        assert!(!tools.abilities().resumable_receive);
    }
}
