//! Snapshots and bookmarks of the cluster's datasets.

use std::collections::{BTreeMap, HashMap};

use crate::error::Error;
use crate::name::{BookmarkName, DatasetName, SnapshotName};
use crate::properties::{Values, rows};
use crate::tree::Tree;

/// A snapshot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// Its name, the dataset's included.
    pub name: SnapshotName,
    /// Its identity, which copies in other pools share.
    pub guid: u64,
    /// When it was made where it was first made, in seconds since 1970.
    pub created_s: u64,
    /// Bytes that only this snapshot holds.
    pub used_bytes: u64,
    /// Bytes of all files in it.
    pub referenced_bytes: u64,
    /// The transaction group that made it here: of two in one pool the newer has the larger.
    pub created_txg: u64,
}

/// A bookmark: what is left of a snapshot for increments to build upon.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bookmark {
    /// Its name, the dataset's included.
    pub name: BookmarkName,
    /// The identity of the snapshot it was made of.
    pub guid: u64,
    /// The transaction group that made that snapshot.
    pub created_txg: u64,
}

/// The newest snapshot that two datasets share, as it is called in each: what an increment from the first
/// to the second builds upon. None if they share none.
#[must_use]
pub fn newest_shared<'a>(
    from: &'a [Snapshot],
    to: &'a [Snapshot],
) -> Option<(&'a Snapshot, &'a Snapshot)> {
    let theirs: HashMap<u64, &Snapshot> = to
        .iter()
        .map(|snapshot| (snapshot.guid, snapshot))
        .collect();
    from.iter()
        .filter_map(|ours| Some((ours, *theirs.get(&ours.guid)?)))
        .max_by_key(|(ours, _)| ours.created_txg)
}

const PROPERTIES: &str = "guid,creation,used,referenced,createtxg";

impl Tree {
    /// Makes a snapshot.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`] about its dataset; [`Error::Failed`] if the name is taken.
    pub fn snapshot(&self, name: &SnapshotName) -> Result<Snapshot, Error> {
        self.check_ours(&name.dataset())?;
        self.tools().change_zfs(["snapshot", name.as_str()])?;
        self.find_snapshot(name)
    }

    /// The snapshots of a dataset, oldest first.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`]; [`Error::Unreadable`].
    pub fn snapshots(&self, dataset: &DatasetName) -> Result<Vec<Snapshot>, Error> {
        self.check_ours(dataset)?;
        let columns = "name,property,value,source";
        let mut words = vec!["get", "-rHp", "-d", "1", "-o", columns];
        if self.tools().abilities().typed_get {
            words.extend(["-t", "snapshot"]);
        }
        words.extend([PROPERTIES, dataset.as_str()]);
        parse_snapshots(&self.tools().ask_zfs(words)?, dataset)
    }

    /// One snapshot.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`]; [`Error::Unreadable`].
    pub(crate) fn find_snapshot(&self, name: &SnapshotName) -> Result<Snapshot, Error> {
        let columns = "name,property,value,source";
        let words = ["get", "-Hp", "-o", columns, PROPERTIES, name.as_str()];
        let text = self.tools().ask_zfs(words).map_err(|error| {
            if error.is_missing() {
                Error::Missing {
                    name: name.to_string(),
                }
            } else {
                error
            }
        })?;
        parse_snapshot(&text, name)
    }

    /// Destroys a snapshot.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`] about its dataset; [`Error::Failed`] if it is not there, held,
    /// or has clones.
    pub fn destroy_snapshot(&self, name: &SnapshotName) -> Result<(), Error> {
        self.check_ours(&name.dataset())?;
        self.tools().change_zfs(["destroy", name.as_str()])
    }

    /// Takes a dataset back to its newest snapshot: what was written since is lost.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`] about its dataset; [`Error::Failed`] if there are newer
    /// snapshots.
    pub fn rollback(&self, name: &SnapshotName) -> Result<(), Error> {
        self.check_ours(&name.dataset())?;
        self.tools().change_zfs(["rollback", name.as_str()])
    }

    /// Makes a bookmark of a snapshot.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`]; [`Error::Missing`], [`Error::Foreign`] about the dataset; [`Error::Failed`] if
    /// the name is taken or the pool has no bookmarks.
    pub fn bookmark(&self, snapshot: &SnapshotName, bookmark: &BookmarkName) -> Result<(), Error> {
        self.check_bookmarks()?;
        self.check_ours(&snapshot.dataset())?;
        self.check_ours(&bookmark.dataset())?;
        let words = ["bookmark", snapshot.as_str(), bookmark.as_str()];
        self.tools().change_zfs(words)
    }

    /// The bookmarks of a dataset, oldest first; none where there can't be any.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Foreign`]; [`Error::Unreadable`].
    pub fn bookmarks(&self, dataset: &DatasetName) -> Result<Vec<Bookmark>, Error> {
        self.check_ours(dataset)?;
        if self.check_bookmarks().is_err() {
            return Ok(Vec::new());
        }
        let columns = "name,property,value,source";
        let words = ["get", "-rHp", "-d", "1", "-o", columns, "-t", "bookmark"];
        let words = words
            .into_iter()
            .chain(["guid,createtxg", dataset.as_str()]);
        parse_bookmarks(&self.tools().ask_zfs(words)?, dataset)
    }

    /// Destroys a bookmark.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`]; [`Error::Missing`], [`Error::Foreign`] about its dataset; [`Error::Failed`] if
    /// it is not there.
    pub fn destroy_bookmark(&self, name: &BookmarkName) -> Result<(), Error> {
        self.check_bookmarks()?;
        self.check_ours(&name.dataset())?;
        self.tools().change_zfs(["destroy", name.as_str()])
    }

    fn check_bookmarks(&self) -> Result<(), Error> {
        if self.tools().abilities().bookmarks {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: "making bookmarks",
            remedy: "keep the snapshots instead, or install OpenZFS 0.7 or newer",
        })
    }
}

/// Rows about the names that begin with a dataset and a sign, name by name.
fn names_of<'a>(text: &'a str, dataset: &DatasetName, sign: char) -> Vec<(&'a str, &'a str)> {
    let prefix = format!("{dataset}{sign}");
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    for row in rows(text) {
        if let Some(short) = row.name.strip_prefix(&prefix) {
            names.insert(row.name, short);
        }
    }
    names.into_iter().collect()
}

fn parse_snapshots(text: &str, dataset: &DatasetName) -> Result<Vec<Snapshot>, Error> {
    let mut snapshots = Vec::new();
    // Per snapshot only its own lines, so that thousands of them aren't searched for each other.
    for lines in blocks(text) {
        for (_, short) in names_of(lines, dataset, '@') {
            // A name that is none for us was not made by us, but it is there: it can be no base.
            let Ok(name) = dataset.snapshot(short) else {
                continue;
            };
            snapshots.push(parse_snapshot(lines, &name)?);
        }
    }
    snapshots.sort_by_key(|snapshot| snapshot.created_txg);
    Ok(snapshots)
}

/// Runs of lines that begin with the same name.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut lines = rest.split_inclusive('\n');
        let first = lines.next()?;
        let more = lines.take_while(|line| first_field(line) == first_field(first));
        let end = first.len() + more.map(str::len).sum::<usize>();
        let (block, tail) = rest.split_at(end);
        rest = tail;
        Some(block)
    })
}

fn first_field(line: &str) -> &str {
    line.split(['\t', '\n']).next().unwrap_or_default()
}

fn parse_snapshot(text: &str, name: &SnapshotName) -> Result<Snapshot, Error> {
    let values = Values::of(text, name.as_str(), "zfs get guid,creation,used,referenced");
    Ok(Snapshot {
        name: name.clone(),
        guid: values.number("guid")?,
        created_s: values.number("creation")?,
        used_bytes: values.number("used")?,
        referenced_bytes: values.number("referenced")?,
        created_txg: values.number("createtxg")?,
    })
}

fn parse_bookmarks(text: &str, dataset: &DatasetName) -> Result<Vec<Bookmark>, Error> {
    let mut bookmarks = Vec::new();
    for (whole, short) in names_of(text, dataset, '#') {
        let Ok(name) = dataset.bookmark(short) else {
            continue;
        };
        let values = Values::of(text, whole, "zfs get -t bookmark guid,createtxg");
        bookmarks.push(Bookmark {
            name,
            guid: values.number("guid")?,
            created_txg: values.number("createtxg")?,
        });
    }
    bookmarks.sort_by_key(|bookmark| bookmark.created_txg);
    Ok(bookmarks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(name: &str, guid: u64, created_txg: u64) -> Snapshot {
        Snapshot {
            name: SnapshotName::new(name).unwrap(),
            guid,
            created_s: 0,
            used_bytes: 0,
            referenced_bytes: 0,
            created_txg,
        }
    }

    #[test]
    fn newest_shared_snapshot_is_found_by_identity_not_by_name() {
        let from = [
            snapshot("a/d@1", 1, 10),
            snapshot("a/d@2", 2, 20),
            snapshot("a/d@3", 3, 30),
        ];
        // The third is another of the same name.
        let to = [
            snapshot("b/d@1", 1, 100),
            snapshot("b/d@two", 2, 200),
            snapshot("b/d@3", 33, 300),
        ];

        let (ours, theirs) = newest_shared(&from, &to).unwrap();

        assert_eq!(ours.name.as_str(), "a/d@2");
        assert_eq!(theirs.name.as_str(), "b/d@two");
        assert_eq!(newest_shared(&from[2..], &to), None);
        assert_eq!(newest_shared(&[], &to), None);
    }

    /// In the format of zfs-fuse 0.7.0, which can't leave out the dataset itself and its children.
    #[test]
    fn snapshots_of_the_dataset_alone_are_listed_oldest_first() {
        let dataset = DatasetName::new("tank/d").unwrap();
        let of = |name: &str, txg: &str| {
            format!(
                "{name}\tguid\t18446744073709551615\t-\n{name}\tcreation\t1795993691\t-\n\
                 {name}\tused\t0\t-\n{name}\treferenced\t18944\t-\n{name}\tcreatetxg\t{txg}\t-\n"
            )
        };
        let text = [
            of("tank/d", "1"),
            of("tank/d@b", "30"),
            of("tank/d@a b", "25"),
            of("tank/d@a", "20"),
            of("tank/d/below", "40"),
            of("tank/dd@x", "50"),
        ]
        .concat();

        let snapshots = parse_snapshots(&text, &dataset).unwrap();

        let names: Vec<_> = snapshots
            .iter()
            .map(|snapshot| snapshot.name.short())
            .collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(snapshots[0].guid, u64::MAX);
        assert_eq!(snapshots[0].referenced_bytes, 18944);
        assert!(parse_snapshots("tank/d@a\tguid\t-\t-\n", &dataset).is_err());
    }

    proptest! {
        #[test]
        fn prop_noise_is_no_panic(text in "(\\PC|\n|\t|tank/d@a){0,100}") {
            let _ = parse_snapshots(&text, &DatasetName::new("tank/d").unwrap());
        }
    }
}
