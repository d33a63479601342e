//! The datasets of one cluster in one pool.
//!
//! They lie at `<root>/<volume>/<pg>`, the root being any dataset but a pool's own, and each carries the user property `oxfs:cluster` with
//! the cluster's id, set on itself. A dataset without it is somebody else's, wherever it lies: it is
//! never changed, received into or sent. An inherited mark doesn't count, because what an administrator
//! makes below one of ours inherits it.
//!
//! The mark is read before each change; nothing guards against somebody who swaps two datasets between.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use types::{ClusterId, PgKey, VolumeId};

use crate::error::Error;
use crate::name::DatasetName;
use crate::properties::{Values, rows};
use crate::tools::Tools;

/// How long a dataset may be busy after it was unmounted. 10 s: zfs-fuse takes some hundred milliseconds.
pub(crate) const LET_GO_LIMIT: Duration = Duration::from_secs(10);

/// Time between two looks whether it still is. 50 ms: each runs a command.
pub(crate) const LET_GO_PAUSE: Duration = Duration::from_millis(50);

/// The user property that says whose a dataset is.
pub(crate) const MARK: &str = "oxfs:cluster";

/// The datasets of one cluster in one pool. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Tree {
    tools: Tools,
    root: DatasetName,
    cluster: ClusterId,
}

/// How a dataset is made.
#[derive(Clone, Debug, Default)]
pub struct NewDataset {
    /// Where it can be mounted; none: nowhere.
    pub mountpoint: Option<PathBuf>,
    /// How its blocks are compressed; none: as those above it.
    pub compression: Option<Compression>,
    /// Whether nothing but a receive may change it.
    pub is_readonly: bool,
}

/// How blocks are compressed. What a pool is too old for, it refuses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Compression {
    /// Not at all.
    Off,
    /// As the version thinks best: lzjb, later lz4.
    On,
    /// Lz4.
    Lz4,
    /// Zstd.
    Zstd,
    /// Gzip.
    Gzip,
}

impl Compression {
    const fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

/// What is known about a dataset of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DatasetInfo {
    /// Bytes it takes with its snapshots.
    pub used_bytes: u64,
    /// Bytes that its files take now.
    pub referenced_bytes: u64,
    /// Bytes that it can still take.
    pub available_bytes: u64,
    /// Whether it is mounted.
    pub is_mounted: bool,
    /// Whether nothing but a receive may change it.
    pub is_readonly: bool,
    /// Where it is or would be mounted.
    pub mountpoint: Option<PathBuf>,
}

impl Tree {
    /// The cluster's part of a pool. Nothing is made or asked yet.
    ///
    /// # Errors
    ///
    /// [`Error::LongName`] if the root's name leaves no room for those below it.
    pub fn new(tools: Tools, root: DatasetName, cluster: ClusterId) -> Result<Self, Error> {
        root.check_root()?;
        Ok(Self {
            tools,
            root,
            cluster,
        })
    }

    /// The programs it is driven with.
    #[must_use]
    pub const fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The cluster whose datasets these are.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The dataset above all others of the cluster.
    #[must_use]
    pub const fn root(&self) -> &DatasetName {
        &self.root
    }

    /// Where the dataset of a placement group is, or would be.
    #[must_use]
    pub fn group(&self, group: PgKey) -> DatasetName {
        self.root.group(group)
    }

    /// The placement group whose dataset this is, if it is one's.
    #[must_use]
    pub fn group_of(&self, dataset: &DatasetName) -> Option<PgKey> {
        dataset.group_below(&self.root)
    }

    /// Makes the dataset of a placement group, and those above it if they are missing. It is not mounted,
    /// and never mounts by itself: see [`Tree::mount`].
    ///
    /// # Errors
    ///
    /// [`Error::Foreign`] if one above it is not the cluster's; [`Error::Failed`] if it exists;
    /// [`Error::BadMountpoint`].
    pub fn create(&self, group: PgKey, new: &NewDataset) -> Result<DatasetName, Error> {
        let name = self.group(group);
        self.make(&name, new)?;
        Ok(name)
    }

    /// Makes a dataset below the root.
    pub(crate) fn make(&self, name: &DatasetName, new: &NewDataset) -> Result<(), Error> {
        self.check_inside(name)?;
        let mountpoint = match &new.mountpoint {
            Some(path) => mountpoint_word(path)?,
            None => "none",
        };
        self.make_above(name)?;
        let mut properties = vec![
            format!("{MARK}={}", self.cluster),
            "canmount=noauto".to_owned(),
            "atime=off".to_owned(),
            format!("mountpoint={mountpoint}"),
        ];
        if let Some(compression) = new.compression {
            properties.push(format!("compression={}", compression.word()));
        }
        if new.is_readonly {
            properties.push("readonly=on".to_owned());
        }
        self.create_with(name, &properties)
    }

    /// Makes the containers above a dataset that are missing.
    fn make_above(&self, name: &DatasetName) -> Result<(), Error> {
        self.make_container(&self.root)?;
        let below = name.as_str().get(self.root.as_str().len() + 1..);
        let Some((volume, _)) = below.and_then(|below| below.split_once('/')) else {
            return Ok(());
        };
        self.make_container(&DatasetName::new(&format!("{}/{volume}", self.root))?)
    }

    pub(crate) fn make_container(&self, name: &DatasetName) -> Result<(), Error> {
        match self.check_ours(name) {
            Err(error) if error.is_missing() => {}
            outcome => return outcome,
        }
        let properties = [
            format!("{MARK}={}", self.cluster),
            "canmount=off".to_owned(),
            "mountpoint=none".to_owned(),
        ];
        match self.create_with(name, &properties) {
            // Another thread may have made it meanwhile.
            Err(error) => self.check_ours(name).map_err(|_| error),
            Ok(()) => Ok(()),
        }
    }

    pub(crate) fn create_with(
        &self,
        name: &DatasetName,
        properties: &[String],
    ) -> Result<(), Error> {
        let options = properties.iter().flat_map(|set| ["-o", set.as_str()]);
        let words = ["create"].into_iter().chain(options);
        self.tools.change_zfs(words.chain([name.as_str()]))
    }

    /// The cluster's datasets, ascending: placement groups, and the containers of volumes above them.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if there is no such pool; none if there is just nothing of the cluster in it.
    pub fn list(&self) -> Result<Vec<DatasetName>, Error> {
        let mut words = vec![
            "get",
            "-rHp",
            "-s",
            "local",
            "-o",
            "name,property,value,source",
        ];
        if self.tools.abilities().typed_get {
            words.extend(["-t", "filesystem"]);
        }
        words.extend([MARK, self.root.as_str()]);
        let text = match self.tools.ask_zfs(words) {
            // The pool must be there all the same.
            Err(error) if error.is_missing() => {
                let pool = self.root.as_str().split('/').next().unwrap_or_default();
                self.tools.ask_zfs(["list", "-H", "-o", "name", pool])?;
                return Ok(Vec::new());
            }
            outcome => outcome?,
        };
        let cluster = self.cluster.to_string();
        let ours = rows(&text).filter(|row| row.source == "local" && row.value == cluster);
        // Names that are none are snapshots with a mark of their own, or not made by us.
        let mut names: Vec<_> = ours
            .filter_map(|row| DatasetName::new(row.name).ok())
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The placement groups that have a dataset, ascending by name.
    ///
    /// # Errors
    ///
    /// As [`Tree::list`].
    pub fn groups(&self) -> Result<Vec<PgKey>, Error> {
        let names = self.list()?;
        Ok(names
            .iter()
            .filter_map(|name| self.group_of(name))
            .collect())
    }

    /// What is known about a dataset.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`].
    pub fn info(&self, dataset: &DatasetName) -> Result<DatasetInfo, Error> {
        const PROPERTIES: &str =
            "oxfs:cluster,used,referenced,available,mounted,readonly,mountpoint";
        let text = self.ask(dataset, PROPERTIES)?;
        let values = Values::of(&text, dataset.as_str(), "zfs get");
        self.check_mark(dataset, &values)?;
        let mountpoint = values
            .text("mountpoint")
            .filter(|path| path.starts_with('/'));
        Ok(DatasetInfo {
            used_bytes: values.number("used")?,
            referenced_bytes: values.number("referenced")?,
            available_bytes: values.number("available")?,
            is_mounted: values.text("mounted") == Some("yes"),
            is_readonly: values.text("readonly") == Some("on"),
            mountpoint: mountpoint.map(PathBuf::from),
        })
    }

    /// Mounts a dataset at its mount point; nothing happens if it is mounted. Waits while another process of this
    /// machine mounts one through this driver: two at once make zfs-fuse hang for good.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`]; [`Error::Failed`] if it has no mount point or that is not
    /// empty.
    pub fn mount(&self, dataset: &DatasetName) -> Result<(), Error> {
        if self.info(dataset)?.is_mounted {
            return Ok(());
        }
        let _turn = self.tools.take_turn()?;
        self.tools.change_zfs(["mount", dataset.as_str()])
    }

    /// Unmounts a dataset; nothing happens if it is not mounted.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`]; [`Error::Failed`] if programs use it.
    pub fn unmount(&self, dataset: &DatasetName) -> Result<(), Error> {
        if !self.info(dataset)?.is_mounted {
            return Ok(());
        }
        self.tools.change_zfs(["unmount", dataset.as_str()])
    }

    /// Says whether anything but a receive may change a dataset from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`].
    pub fn set_readonly(&self, dataset: &DatasetName, is_readonly: bool) -> Result<(), Error> {
        self.check_ours(dataset)?;
        let set = if is_readonly {
            "readonly=on"
        } else {
            "readonly=off"
        };
        self.tools.change_zfs(["set", set, dataset.as_str()])
    }

    /// Gives a dataset another name below the root.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`]; [`Error::Outside`]; [`Error::Failed`] if the new name is
    /// taken or the dataset is in use.
    pub fn rename(&self, from: &DatasetName, to: &DatasetName) -> Result<(), Error> {
        self.check_inside(from)?;
        self.check_inside(to)?;
        self.check_ours(from)?;
        self.make_above(to)?;
        self.tools
            .change_zfs(["rename", from.as_str(), to.as_str()])
    }

    /// Destroys a dataset with all its snapshots. It must not be in use, nor have datasets below it or
    /// clones.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`], [`Error::HasChildren`]: nothing happened.
    /// [`Error::Failed`]: if it is in use nothing happened, else some of its snapshots may be gone.
    pub fn destroy(&self, dataset: &DatasetName) -> Result<(), Error> {
        self.check_ours(dataset)?;
        self.check_childless(dataset)?;
        // First, because it fails if the dataset is in use.
        self.unmount(dataset)?;
        // One by one: `-r` would take along what somebody makes below it just now.
        for snapshot in self.snapshots(dataset)? {
            self.tools.change_zfs(["destroy", snapshot.name.as_str()])?;
        }
        self.destroy_once_let_go(dataset)
    }

    /// ZFS lets go of a file system some time after it was unmounted.
    fn destroy_once_let_go(&self, dataset: &DatasetName) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            match self.tools.change_zfs(["destroy", dataset.as_str()]) {
                Err(Error::Failed { said, .. })
                    if said.contains("is busy") && begun.elapsed() < LET_GO_LIMIT => {}
                outcome => return outcome,
            }
            thread::sleep(LET_GO_PAUSE);
        }
    }

    /// Destroys the container of a volume that has no datasets any more; nothing happens if it has some
    /// or is not there.
    ///
    /// # Errors
    ///
    /// [`Error::Foreign`], [`Error::Failed`].
    pub fn destroy_empty(&self, volume: VolumeId) -> Result<(), Error> {
        match self.destroy(&self.root.volume(volume)) {
            Err(Error::HasChildren { .. } | Error::Missing { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    fn check_childless(&self, dataset: &DatasetName) -> Result<(), Error> {
        let types = "filesystem,volume";
        let words = [
            "list",
            "-H",
            "-r",
            "-t",
            types,
            "-o",
            "name",
            dataset.as_str(),
        ];
        let names = self.tools.ask_zfs(words)?;
        match names.lines().find(|name| *name != dataset.as_str()) {
            Some(child) => Err(Error::HasChildren {
                dataset: dataset.to_string(),
                child: child.to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Properties of a dataset, as rows of name, property, value and source.
    pub(crate) fn ask(&self, dataset: &DatasetName, properties: &str) -> Result<String, Error> {
        let columns = "name,property,value,source";
        let words = ["get", "-Hp", "-o", columns, properties, dataset.as_str()];
        self.tools.ask_zfs(words).map_err(|error| {
            if error.is_missing() {
                Error::Missing {
                    name: dataset.to_string(),
                }
            } else {
                error
            }
        })
    }

    /// Refuses a dataset that doesn't carry the mark.
    pub(crate) fn check_ours(&self, dataset: &DatasetName) -> Result<(), Error> {
        let text = self.ask(dataset, MARK)?;
        self.check_mark(dataset, &Values::of(&text, dataset.as_str(), "zfs get"))
    }

    pub(crate) fn check_mark(
        &self,
        dataset: &DatasetName,
        values: &Values<'_>,
    ) -> Result<(), Error> {
        let row = values.row(MARK).filter(|row| row.source == "local");
        let mark = row.map(|row| row.value);
        if mark == Some(self.cluster.to_string().as_str()) {
            return Ok(());
        }
        Err(Error::Foreign {
            dataset: dataset.to_string(),
            mark: mark.map(str::to_owned),
            ours: self.cluster,
        })
    }

    /// Refuses a name that doesn't lie below the root.
    pub(crate) fn check_inside(&self, dataset: &DatasetName) -> Result<(), Error> {
        if dataset.is_below(&self.root) {
            return Ok(());
        }
        Err(Error::Outside {
            dataset: dataset.to_string(),
            root: self.root.to_string(),
        })
    }
}

/// A path as a property's value.
pub(crate) fn mountpoint_word(path: &Path) -> Result<&str, Error> {
    let word = path
        .to_str()
        .filter(|word| word.starts_with('/') && !word.chars().any(char::is_control));
    word.ok_or_else(|| Error::BadMountpoint {
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_absolute_and_plain() {
        assert_eq!(mountpoint_word(Path::new("/srv/a b")).unwrap(), "/srv/a b");
        for path in ["", "none", "legacy", "srv/a", "/srv\n/a"] {
            assert!(mountpoint_word(Path::new(path)).is_err(), "{path:?}");
        }
    }
}
