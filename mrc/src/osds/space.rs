//! Room on the disks of object servers, as they report it.

use std::collections::BTreeMap;

use mrc_core::FileSystem;
use types::OsdId;

use super::Osds;
use crate::log_writer::lock;

/// Room on the disks of some servers, by file system.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Space {
    /// All of it.
    pub capacity: Vec<FileSystem>,
    /// What is free, of the servers that were heard.
    pub free: Vec<FileSystem>,
}

impl Space {
    fn add(&mut self, (all, free): (FileSystem, FileSystem)) {
        if all.servers > 0 {
            self.capacity.push(all);
        }
        if free.servers > 0 {
            self.free.push(free);
        }
    }
}

impl Osds {
    /// What these servers have, and what of it is free: by file system, since several may share one.
    ///
    /// A server that is silent has what it said last; one that this leader has not heard at all has its
    /// capacity, and nothing is known of what is free there.
    pub(crate) fn space(&self, servers: impl Iterator<Item = (OsdId, u64)>) -> Space {
        let osds = lock(&self.0);
        let mut shared: BTreeMap<&str, (FileSystem, FileSystem)> = BTreeMap::new();
        let mut space = Space::default();
        for (osd, capacity_bytes) in servers {
            let mut alone = <(FileSystem, FileSystem)>::default();
            let heard = osds.get(&osd);
            let (all, free) = match heard.map_or("", |soft| &soft.file_system) {
                "" => &mut alone,
                name => shared.entry(name).or_default(),
            };
            all.servers += 1;
            all.bytes = all.bytes.max(capacity_bytes);
            if let Some(soft) = heard {
                free.servers += 1;
                free.bytes = free.bytes.max(soft.free_bytes);
            }
            space.add(alone);
        }
        shared.into_values().for_each(|it| space.add(it));
        space
    }
}
