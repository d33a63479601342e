//! What a mount asks object servers, and how it hears that one is gone.

use types::{Duration, OsdId};

use super::{Mount, ObjectCall, mount_end};
use crate::cluster::content::MOUNTS;
use crate::cluster::handle::{Handle, Kind};
use crate::cluster::happening::Happening;
use crate::cluster::world::World;

impl World {
    pub(crate) fn ask_object(
        &mut self,
        (mount, handle): (usize, usize),
        osd: OsdId,
        kind: Kind,
        op: osd_core::Op,
    ) {
        self.next_id += 1;
        let call = self.next_id;
        let state = &mut self.mounts[mount];
        let Some((key, serial)) = state.handles[handle].target() else {
            return;
        };
        let patience = kind.patience();
        let one = ObjectCall {
            handle,
            serial,
            osd,
            kind,
        };
        state.objects.insert(call, one);
        let right = state.handles[handle].right();
        if !self.server(osd).up {
            let failed = Happening::ObjectGone { mount, call };
            return self.schedule.after(Duration::from_millis(1), failed);
        }
        self.schedule
            .after(patience, Happening::ObjectGone { mount, call });
        let at = self.stream_arrival(mount_end(mount), osd.0, 0);
        let life = self.server(osd).life;
        let asks = Happening::AsksObject {
            mount,
            osd,
            life,
            call,
            key,
            right,
            op: Box::new(op),
        };
        self.schedule.at(at, asks);
    }

    pub(crate) fn drop_old_calls(&mut self, mount: usize) {
        let Mount {
            handles, objects, ..
        } = &mut self.mounts[mount];
        objects.retain(|_, call| {
            let target = handles.get(call.handle).and_then(Handle::target);
            target.is_some_and(|(_, serial)| serial == call.serial)
        });
    }

    /// A server is gone: whoever waits for it hears of it.
    pub(crate) fn mounts_lose(&mut self, osd: OsdId) {
        for mount in 0..MOUNTS {
            let objects = self.mounts[mount].objects.iter();
            let lost = objects.filter(|(_, call)| call.osd == osd);
            for call in lost.map(|(call, _)| *call).collect::<Vec<_>>() {
                let gone = Happening::ObjectGone { mount, call };
                self.schedule.after(Duration::from_millis(1), gone);
            }
        }
    }
}
