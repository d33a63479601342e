//! A store in a pool: the root above its datasets, which says whose it is, and their mount points.
//!
//! Beside the cluster's mark the root carries `oxfs:store`, the id that was drawn when the server's directory
//! was made: what lies in the pool belongs to that directory and to no other.

use std::path::{Path, PathBuf};

use types::PgKey;

use crate::error::Error;
use crate::name::DatasetName;
use crate::properties::{Values, rows};
use crate::tree::{MARK, Tree, mountpoint_word};

/// The user property that says which store a root holds.
const STORE: &str = "oxfs:store";

/// Room below a root: what quotas and reservations leave of the pool's.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Room {
    /// Bytes that all of it takes.
    pub used_bytes: u64,
    /// Bytes that it can still take.
    pub available_bytes: u64,
}

/// A placement group's dataset.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Group {
    /// The placement group.
    pub key: PgKey,
    /// Its dataset.
    pub dataset: DatasetName,
    /// Whether ZFS takes it for mounted; it does so, too, where its daemon has died.
    pub is_mounted: bool,
    /// Where it is or would be mounted.
    pub mountpoint: Option<PathBuf>,
}

impl Tree {
    /// Makes the root of a store, and the containers above it that are missing. Blocks are compressed, so
    /// that zeros take no room, if they are not already by what lies above.
    ///
    /// Nothing happens if it is there and this store's. Datasets above it may be anybody's: they are left as
    /// they are.
    ///
    /// # Errors
    ///
    /// [`Error::Foreign`] or [`Error::OtherStore`] if the name is taken.
    pub fn make_root(&self, store: &str) -> Result<(), Error> {
        match self.check_root(store) {
            Err(error) if error.is_missing() => {}
            outcome => return outcome,
        }
        if let Some(parent) = self.root().parent() {
            self.make_way(&parent)?;
        }
        let above = self.root().as_str().rsplit_once('/');
        let above = above.map_or(self.root().as_str(), |(above, _)| above);
        let columns = "name,property,value,source";
        let words = ["get", "-Hp", "-o", columns, "compression", above];
        let text = self.tools().ask_zfs(words)?;
        let compression = Values::of(&text, above, "zfs get compression").text("compression");
        let mut properties = vec![
            format!("{MARK}={}", self.cluster()),
            format!("{STORE}={store}"),
            "canmount=off".to_owned(),
            "mountpoint=none".to_owned(),
        ];
        if compression == Some("off") {
            properties.push("compression=on".to_owned());
        }
        self.create_with(self.root(), &properties)
    }

    /// Makes the containers that are missing down to this one.
    fn make_way(&self, name: &DatasetName) -> Result<(), Error> {
        match self.ask(name, MARK) {
            Err(error) if error.is_missing() => {}
            // Whoever made it.
            outcome => return outcome.map(drop),
        }
        if let Some(parent) = name.parent() {
            self.make_way(&parent)?;
        }
        match self.make_container(name) {
            // Somebody else was faster.
            Err(error) => self.ask(name, MARK).map(drop).map_err(|_| error),
            Ok(()) => Ok(()),
        }
    }

    /// Checks that the root is this store's, and that what is synced below it is stable.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`], [`Error::OtherStore`], [`Error::NotSynced`].
    pub fn check_root(&self, store: &str) -> Result<(), Error> {
        let text = self.ask(self.root(), "all")?;
        let values = Values::of(&text, self.root().as_str(), "zfs get all");
        self.check_mark(self.root(), &values)?;
        let found = values.row(STORE).filter(|row| row.source == "local");
        let found = found.map(|row| row.value);
        if found != Some(store) {
            return Err(Error::OtherStore {
                dataset: self.root().to_string(),
                store: found.map(str::to_owned),
                ours: store.to_owned(),
            });
        }
        // What is too old to know the property always syncs.
        match values.text("sync") {
            Some("disabled") => Err(Error::NotSynced {
                dataset: self.root().to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// Room below the root.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`]; [`Error::TimedOut`] if the pool hangs.
    pub fn room(&self) -> Result<Room, Error> {
        let text = self.ask(self.root(), "used,available")?;
        let values = Values::of(&text, self.root().as_str(), "zfs get used,available");
        Ok(Room {
            used_bytes: values.number("used")?,
            available_bytes: values.number("available")?,
        })
    }

    /// The datasets of placement groups that are the cluster's, ascending by name. Others below the root are
    /// left out.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] if there is no root.
    pub fn groups_at_rest(&self) -> Result<Vec<Group>, Error> {
        let columns = "name,property,value,source";
        let properties = "oxfs:cluster,mounted,mountpoint";
        let root = self.root().as_str();
        let words = ["get", "-rHp", "-o", columns, properties, root];
        let text = self.tools().ask_zfs(words)?;
        let cluster = self.cluster().to_string();
        let ours = rows(&text)
            .filter(|row| row.property == MARK && row.source == "local" && row.value == cluster);
        let mut groups: Vec<_> = ours
            .filter_map(|row| {
                let dataset = DatasetName::new(row.name).ok()?;
                let values = Values::of(&text, row.name, "zfs get mounted");
                let mountpoint = values.text("mountpoint");
                Some(Group {
                    key: self.group_of(&dataset)?,
                    is_mounted: values.text("mounted") == Some("yes"),
                    mountpoint: mountpoint
                        .filter(|path| path.starts_with('/'))
                        .map(PathBuf::from),
                    dataset,
                })
            })
            .collect();
        groups.sort_unstable_by(|a, b| a.dataset.cmp(&b.dataset));
        Ok(groups)
    }

    /// Says where a dataset is to be mounted. One that is mounted must be unmounted first.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`]; [`Error::BadMountpoint`].
    pub fn set_mountpoint(&self, dataset: &DatasetName, path: &Path) -> Result<(), Error> {
        let set = format!("mountpoint={}", mountpoint_word(path)?);
        self.check_ours(dataset)?;
        self.tools().change_zfs(["set", &set, dataset.as_str()])
    }
}
