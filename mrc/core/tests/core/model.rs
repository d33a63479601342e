//! A file system as a tree of plain structs, written from the manual pages and apart from the core.
//!
//! It holds directories as maps, derives link counts of directories instead of keeping them, and
//! looks downwards where the core looks upwards.

use std::collections::{BTreeMap, BTreeSet};

/// What something is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    File {
        size: u64,
    },
    Directory {
        entries: BTreeMap<Vec<u8>, u64>,
        parent: u64,
        removed: bool,
    },
    Symlink {
        target: Vec<u8>,
    },
    Special {
        kind: u32,
        rdev: u64,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) permissions: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Names of a file; of a directory derived.
    pub(crate) names: u32,
    pub(crate) atime: i64,
    pub(crate) mtime: i64,
    pub(crate) ctime: i64,
    pub(crate) truncations: u64,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// An errno by its symbol.
pub(crate) type Errno = &'static str;
pub(crate) type Answer<T> = Result<T, Errno>;

pub(crate) struct Model {
    pub(crate) nodes: BTreeMap<u64, Node>,
    next: u64,
    /// (inode, session) open for writing.
    pub(crate) writers: BTreeSet<(u64, u64)>,
    /// The most inodes there may be below the root; 0: any number.
    pub(crate) quota_files: u64,
    pub(crate) now: i64,
}

impl Node {
    pub(crate) fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }

    fn type_bits(&self) -> u32 {
        match &self.kind {
            Kind::File { .. } => 0o100_000,
            Kind::Directory { .. } => 0o040_000,
            Kind::Symlink { .. } => 0o120_000,
            Kind::Special { kind, .. } => *kind,
        }
    }

    pub(crate) fn mode(&self) -> u32 {
        self.type_bits() | self.permissions
    }

    pub(crate) fn size(&self) -> u64 {
        match &self.kind {
            Kind::File { size } => *size,
            Kind::Directory { .. } => 4096,
            Kind::Symlink { target } => target.len() as u64,
            Kind::Special { .. } => 0,
        }
    }

    pub(crate) fn rdev(&self) -> u64 {
        match &self.kind {
            Kind::Special { rdev, .. } => *rdev,
            _ => 0,
        }
    }
}

fn good_name(name: &[u8]) -> Answer<()> {
    if name.is_empty() {
        Err("ENOENT")
    } else if name.len() > 255 {
        Err("ENAMETOOLONG")
    } else if matches!(name, b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        Err("EINVAL")
    } else {
        Ok(())
    }
}

impl Model {
    pub(crate) fn new(now: i64, root: (u32, u32)) -> Self {
        let directory = Kind::Directory {
            entries: BTreeMap::new(),
            parent: 1,
            removed: false,
        };
        let root = Node {
            kind: directory,
            permissions: 0o755,
            uid: root.0,
            gid: root.1,
            names: 0,
            atime: now,
            mtime: now,
            ctime: now,
            truncations: 0,
            xattrs: BTreeMap::new(),
        };
        Self {
            nodes: BTreeMap::from([(1, root)]),
            next: 2,
            writers: BTreeSet::new(),
            quota_files: 0,
            now,
        }
    }

    pub(crate) fn nlink(&self, id: u64) -> u32 {
        let node = &self.nodes[&id];
        match &node.kind {
            Kind::Directory { removed: true, .. } => 0,
            Kind::Directory { entries, .. } => {
                let below = entries.values().filter(|id| self.nodes[id].is_directory());
                2 + below.count() as u32
            }
            _ => node.names,
        }
    }

    /// Those without a name that nobody writes.
    pub(crate) fn collectable(&self) -> Vec<u64> {
        let nameless = self.nodes.keys().filter(|id| self.nlink(**id) == 0);
        nameless
            .filter(|id| !self.writers.iter().any(|(inode, _)| inode == *id))
            .copied()
            .collect()
    }

    /// Bytes and inodes that count for quotas: what has a name or is written, but for the root.
    pub(crate) fn used(&self) -> (u64, u64) {
        let doomed = self.collectable();
        let live = self.nodes.iter().filter(|(id, _)| !doomed.contains(id));
        let bytes = live.clone().map(|(_, node)| match node.kind {
            Kind::File { size } => size,
            _ => 0,
        });
        (bytes.fold(0, u64::wrapping_add), live.count() as u64 - 1)
    }

    fn node(&mut self, id: u64) -> Answer<&mut Node> {
        self.nodes.get_mut(&id).ok_or("ESTALE")
    }

    /// Entries of a directory that is still in the tree.
    fn entries(&mut self, id: u64) -> Answer<&mut BTreeMap<Vec<u8>, u64>> {
        match &mut self.node(id)?.kind {
            Kind::Directory { removed: true, .. } => Err("ENOENT"),
            Kind::Directory { entries, .. } => Ok(entries),
            _ => Err("ENOTDIR"),
        }
    }

    fn find(&mut self, parent: u64, name: &[u8]) -> Answer<Option<u64>> {
        let found = self.entries(parent)?.get(name).copied();
        good_name(name)?;
        Ok(found)
    }

    fn touch(&mut self, directory: u64) {
        let now = self.now;
        let node = self.nodes.get_mut(&directory).unwrap();
        (node.mtime, node.ctime) = (now, now);
    }

    pub(crate) fn make(
        &mut self,
        parent: u64,
        name: &[u8],
        mut kind: Kind,
        mode: u32,
        owner: (u32, u32),
    ) -> Answer<u64> {
        if let Kind::Symlink { target } = &kind {
            match target.len() {
                0 => return Err("ENOENT"),
                4096.. => return Err("ENAMETOOLONG"),
                _ => {}
            }
        }
        if self.find(parent, name)?.is_some() {
            return Err("EEXIST");
        }
        if self.quota_files > 0 && self.used().1 >= self.quota_files {
            return Err("EDQUOT");
        }
        if let Kind::Directory { parent: up, .. } = &mut kind {
            *up = parent;
        }
        let above = &self.nodes[&parent];
        let mut node = Node {
            kind,
            permissions: mode,
            uid: owner.0,
            gid: owner.1,
            names: 1,
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            truncations: 0,
            xattrs: BTreeMap::new(),
        };
        if above.permissions & 0o2000 != 0 {
            node.gid = above.gid;
            if node.is_directory() {
                node.permissions |= 0o2000;
            }
        }
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.entries(parent)?.insert(name.to_vec(), id);
        self.touch(parent);
        Ok(id)
    }

    pub(crate) fn create(
        &mut self,
        parent: u64,
        name: &[u8],
        exclusive: bool,
        writer: Option<u64>,
        owner: (u32, u32),
    ) -> Answer<(u64, bool)> {
        let (id, existed) = match self.find(parent, name)? {
            Some(_) if exclusive => return Err("EEXIST"),
            Some(id) => match self.nodes[&id].kind {
                Kind::File { .. } => (id, true),
                Kind::Directory { .. } => return Err("EISDIR"),
                _ => return Err("ESTALE"),
            },
            None => (
                self.make(parent, name, Kind::File { size: 0 }, 0o640, owner)?,
                false,
            ),
        };
        if let Some(session) = writer {
            self.writers.insert((id, session));
        }
        Ok((id, existed))
    }

    pub(crate) fn link(&mut self, id: u64, parent: u64, name: &[u8]) -> Answer<()> {
        self.entries(parent)?;
        good_name(name)?;
        self.node(id)?;
        if self.find(parent, name)?.is_some() {
            return Err("EEXIST");
        }
        let now = self.now;
        let node = self.node(id)?;
        if node.is_directory() {
            return Err("EPERM");
        }
        if node.names == 0 {
            return Err("ENOENT");
        }
        node.names += 1;
        node.ctime = now;
        self.entries(parent)?.insert(name.to_vec(), id);
        self.touch(parent);
        Ok(())
    }

    /// Something loses the name that was already taken out of its directory.
    fn lose_name(&mut self, id: u64) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).unwrap();
        node.ctime = now;
        match &mut node.kind {
            Kind::Directory { removed, .. } => *removed = true,
            _ => node.names -= 1,
        }
    }

    pub(crate) fn remove(&mut self, parent: u64, name: &[u8], directory: bool) -> Answer<()> {
        let id = self.find(parent, name)?.ok_or("ENOENT")?;
        match (&self.nodes[&id].kind, directory) {
            (Kind::Directory { .. }, false) => return Err("EISDIR"),
            (Kind::Directory { entries, .. }, true) if !entries.is_empty() => {
                return Err("ENOTEMPTY");
            }
            (Kind::Directory { .. }, true) | (_, false) => {}
            (_, true) => return Err("ENOTDIR"),
        }
        self.entries(parent)?.remove(name);
        self.lose_name(id);
        self.touch(parent);
        Ok(())
    }

    /// Whether `inner` is `outer` or somewhere below it.
    fn contains(&self, outer: u64, inner: u64) -> bool {
        outer == inner
            || match &self.nodes[&outer].kind {
                Kind::Directory { entries, .. } => {
                    entries.values().any(|below| self.contains(*below, inner))
                }
                _ => false,
            }
    }

    pub(crate) fn rename(
        &mut self,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
        no_replace: bool,
        exchange: bool,
    ) -> Answer<()> {
        if no_replace && exchange {
            return Err("EINVAL");
        }
        self.entries(from.0)?;
        self.entries(to.0)?;
        good_name(from.1)?;
        good_name(to.1)?;
        let source = self.find(from.0, from.1)?.ok_or("ENOENT")?;
        let target = self.find(to.0, to.1)?;
        match target {
            Some(_) if no_replace => return Err("EEXIST"),
            None if exchange => return Err("ENOENT"),
            _ => {}
        }
        if from.0 != to.0 {
            if self.contains(source, to.0) {
                return Err("EINVAL");
            }
            if target.is_some_and(|target| self.contains(target, from.0)) {
                return Err(if exchange { "EINVAL" } else { "ENOTEMPTY" });
            }
        }
        if target == Some(source) {
            return Ok(());
        }
        if let Some(target) = target.filter(|_| !exchange) {
            let moves_directory = self.nodes[&source].is_directory();
            match &self.nodes[&target].kind {
                Kind::Directory { .. } if !moves_directory => return Err("EISDIR"),
                Kind::Directory { entries, .. } if !entries.is_empty() => {
                    return Err("ENOTEMPTY");
                }
                Kind::Directory { .. } => {}
                _ if moves_directory => return Err("ENOTDIR"),
                _ => {}
            }
        }

        self.entries(from.0)?.remove(from.1);
        self.put(to, source);
        match target {
            Some(target) if exchange => self.put(from, target),
            Some(target) => self.lose_name(target),
            None => {}
        }
        self.touch(from.0);
        self.touch(to.0);
        Ok(())
    }

    fn put(&mut self, (directory, name): (u64, &[u8]), id: u64) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).unwrap();
        node.ctime = now;
        if let Kind::Directory { parent, .. } = &mut node.kind {
            *parent = directory;
        }
        self.entries(directory).unwrap().insert(name.to_vec(), id);
    }

    pub(crate) fn chmod(&mut self, id: u64, permissions: u32) -> Answer<()> {
        let now = self.now;
        let node = self.node(id)?;
        if matches!(node.kind, Kind::Symlink { .. }) {
            return Err("EOPNOTSUPP");
        }
        node.permissions = permissions;
        node.ctime = now;
        Ok(())
    }

    pub(crate) fn chown(&mut self, id: u64, uid: Option<u32>, gid: Option<u32>) -> Answer<()> {
        let now = self.now;
        let node = self.node(id)?;
        node.uid = uid.unwrap_or(node.uid);
        node.gid = gid.unwrap_or(node.gid);
        if !node.is_directory() {
            node.permissions &= !0o4000;
            if node.permissions & 0o010 != 0 {
                node.permissions &= !0o2000;
            }
        }
        node.ctime = now;
        Ok(())
    }

    pub(crate) fn truncate(&mut self, id: u64, length: u64) -> Answer<()> {
        let now = self.now;
        let node = self.node(id)?;
        match &mut node.kind {
            Kind::File { .. } if length > types::FILE_BYTES_MAX => return Err("EFBIG"),
            Kind::File { size } => *size = length,
            Kind::Directory { .. } => return Err("EISDIR"),
            _ => return Err("EINVAL"),
        }
        (node.mtime, node.ctime) = (now, now);
        node.truncations += 1;
        Ok(())
    }

    pub(crate) fn utimes(&mut self, id: u64, atime: i64, mtime: Option<i64>) -> Answer<()> {
        let now = self.now;
        let node = self.node(id)?;
        node.atime = atime;
        node.mtime = mtime.unwrap_or(now);
        node.ctime = now;
        Ok(())
    }

    pub(crate) fn open_write(&mut self, id: u64, session: u64) -> Answer<()> {
        match self.node(id)?.kind {
            Kind::File { .. } => {}
            Kind::Directory { .. } => return Err("EISDIR"),
            Kind::Symlink { .. } => return Err("ELOOP"),
            Kind::Special { .. } => return Err("EINVAL"),
        }
        self.writers.insert((id, session));
        Ok(())
    }

    pub(crate) fn written(
        &mut self,
        id: u64,
        (end, truncations): (u64, u64),
        mtime: Option<i64>,
        close: Option<u64>,
    ) -> Answer<()> {
        let now = self.now;
        let node = self.node(id)?;
        let Kind::File { size } = &mut node.kind else {
            return Err("EINVAL");
        };
        if end > *size && truncations != node.truncations {
            return Err("EAGAIN");
        }
        if end > *size || mtime.is_some() {
            *size = end.max(*size);
            node.mtime = mtime.unwrap_or(now);
            node.ctime = now;
        }
        if let Some(session) = close {
            self.writers.remove(&(id, session));
        }
        Ok(())
    }

    pub(crate) fn set_xattr(
        &mut self,
        id: u64,
        name: &[u8],
        value: &[u8],
        create: bool,
        replace: bool,
    ) -> Answer<()> {
        let now = self.now;
        let node = self.node(id)?;
        if create && node.xattrs.contains_key(name) {
            return Err("EEXIST");
        }
        if replace && !node.xattrs.contains_key(name) {
            return Err("ENODATA");
        }
        node.xattrs.insert(name.to_vec(), value.to_vec());
        node.ctime = now;
        Ok(())
    }

    pub(crate) fn remove_xattr(&mut self, id: u64, name: &[u8]) -> Answer<()> {
        let now = self.now;
        let node = self.node(id)?;
        node.xattrs.remove(name).ok_or("ENODATA")?;
        node.ctime = now;
        Ok(())
    }
}
