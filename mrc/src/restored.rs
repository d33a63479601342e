//! What a leader looks after when the metadata was lost, and since it was restored from a dump.

use mrc_core::janitor::LostWriter;
use mrc_core::query;
use proto::index::command::Op as Change;
use types::{Fault, Inode, VolumeId};

use crate::config::SETTLE_FIRST_MAX;
use crate::door::{Service, index_fault};
use crate::log_writer::lock;

impl Service {
    /// Refuses to begin anew while object servers remember more than this cluster knows: their objects would be
    /// taken for those of new files, and deleted.
    pub(crate) fn is_not_behind(&self) -> Result<(), Fault> {
        let version = query::map_version(&**self.node.index());
        let version = version.map_err(|error| index_fault(&error))?;
        let timeout = self.config.osd_timeout();
        let Some((osd, newer)) = self.osds.ahead_of(version, timeout) else {
            return Ok(());
        };
        Err(Fault::surface(
            libc::EBUSY,
            format!(
                "object server {osd} knows version {newer} of the map and this metadata cluster only version \
                 {version}: what it holds is of a metadata cluster whose directories are lost. Restore a dump of it \
                 with `xfs-admin restore FILE`; only if its files may be lost, give the object servers empty \
                 directories"
            ),
        ))
    }

    /// Whether a file has been compared with its object since the metadata was restored. Else it is soon.
    pub(crate) fn is_settled(&self, volume: VolumeId, inode: Inode) -> Result<(), Fault> {
        let index = &**self.node.index();
        let open = mrc_core::unsettled_by_restore(index, volume, inode);
        let Some(session) = open.map_err(|error| index_fault(&error))? else {
            return Ok(());
        };
        let wanted = LostWriter {
            volume,
            inode,
            session,
        };
        let mut first = lock(&self.settle_first);
        if first.len() < SETTLE_FIRST_MAX && !first.contains(&wanted) {
            first.push_back(wanted);
        }
        drop(first);
        self.node.machine.events().janitor.notify_one();
        Err(Fault::retry(
            "the metadata was restored from a dump, and the file is yet to be compared with its object",
        ))
    }

    /// The same of the file that a change opens.
    pub(crate) fn opens_settled(
        &self,
        volume: VolumeId,
        change: Option<&Change>,
    ) -> Result<(), Fault> {
        let inode = match change {
            Some(Change::OpenWrite(open)) => Inode(open.inode),
            Some(Change::Create(create)) if !create.exclusive => {
                let parent = Inode(create.parent);
                let found = query::entry(&**self.node.index(), volume, parent, &create.name);
                match found.map_err(|error| index_fault(&error))? {
                    Some(inode) => inode,
                    None => return Ok(()),
                }
            }
            _ => return Ok(()),
        };
        self.is_settled(volume, inode)
    }
}
