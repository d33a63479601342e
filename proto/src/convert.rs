//! Between messages and the project's own types.

use crate::{link, osd, peer};
use types::{Fault, Inode, ObjectId, OsdId, Remedy, VolumeId};

impl From<&Fault> for link::Fault {
    fn from(fault: &Fault) -> Self {
        let remedy = match fault.remedy {
            Remedy::Retry => link::Remedy::Retry,
            Remedy::Redirect => link::Remedy::Redirect,
            Remedy::Refresh => link::Remedy::Refresh,
            Remedy::Surface => link::Remedy::Surface,
        };
        Self {
            remedy: remedy.into(),
            errno: fault.errno,
            message: fault.message.clone(),
            hint: fault.hint.clone(),
            osd_hint: fault.osd_hint.map(|osd| osd.0),
        }
    }
}

impl From<link::Fault> for Fault {
    fn from(fault: link::Fault) -> Self {
        let remedy = match fault.remedy() {
            link::Remedy::Retry => Remedy::Retry,
            link::Remedy::Redirect => Remedy::Redirect,
            link::Remedy::Refresh => Remedy::Refresh,
            link::Remedy::Surface | link::Remedy::Unspecified => Remedy::Surface,
        };
        Self {
            remedy,
            errno: fault.errno,
            message: fault.message,
            hint: fault.hint,
            osd_hint: fault.osd_hint.map(OsdId),
        }
    }
}

macro_rules! object_ref {
    ($module:ident) => {
        impl From<ObjectId> for $module::ObjectRef {
            fn from(object: ObjectId) -> Self {
                Self {
                    volume: object.volume.0,
                    inode: object.inode.0,
                    column: object.column,
                }
            }
        }

        impl From<$module::ObjectRef> for ObjectId {
            fn from(object: $module::ObjectRef) -> Self {
                Self {
                    volume: VolumeId(object.volume),
                    inode: Inode(object.inode),
                    column: object.column,
                }
            }
        }
    };
}

object_ref!(osd);
object_ref!(peer);
