//! What clients are told when something was not done.
//!
//! The numbers are Linux's errno values; this crate has no libc.

use types::{Fault, OsdId, Remedy};

use crate::config::OBJECT_BYTES_MAX;
use crate::stall::WaitsFor;

const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const EINVAL: i32 = 22;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const ESTALE: i32 = 116;

/// What a shell sends instead of a reply whose lease ran out.
#[must_use]
pub fn expired() -> Fault {
    Fault::retry("the lease ran out before the answer could be sent; repeat the request")
}

pub(crate) fn busy() -> Fault {
    Fault::retry("too many requests wait for this object; repeat the request later")
}

pub(crate) fn stalled(waits_for: &WaitsFor) -> Fault {
    Fault::retry(format!("{waits_for}; repeat the request"))
}

pub(crate) fn not_the_holder() -> Fault {
    Fault::surface(
        EAGAIN,
        "this server does not hold the object's lease; `xfs-admin lease show` says who does",
    )
}

pub(crate) fn no_replica(osd: OsdId, view: u64) -> Fault {
    Fault::surface(
        EINVAL,
        format!(
            "object server {osd} has no replica of the object in view {view}; choose one that has"
        ),
    )
}

pub(crate) fn not_up(osd: OsdId) -> Fault {
    Fault::surface(
        EAGAIN,
        format!(
            "object server {osd} is not reached or its replica is behind; try again when it is up"
        ),
    )
}

pub(crate) fn not_ready() -> Fault {
    Fault::surface(
        EAGAIN,
        "this server is just becoming the object's primary, or ceasing to be; try again",
    )
}

pub(crate) fn no_quorum() -> Fault {
    Fault::retry(
        "too few of the object's replicas answered in time for the volume's quorum; repeat the request",
    )
}

pub(crate) fn lease_lost() -> Fault {
    Fault::retry("the lease was lost before the request was done; repeat it")
}

pub(crate) fn delayed() -> Fault {
    Fault::retry("a newer change of this session was applied before; repeat with a new change id")
}

pub(crate) fn redirect(holder: OsdId) -> Fault {
    Fault {
        osd_hint: Some(holder),
        ..Fault::new(
            Remedy::Redirect,
            EAGAIN,
            format!("object server {holder} is the object's primary"),
        )
    }
}

pub(crate) fn elsewhere() -> Fault {
    Fault::new(
        Remedy::Redirect,
        EIO,
        "this object server can't serve the object now; ask another replica",
    )
}

pub(crate) fn not_a_member(view: u64) -> Fault {
    Fault::refresh(format!(
        "this server holds no replica of the object in view {view} of its placement group"
    ))
}

pub(crate) fn deleted() -> Fault {
    Fault::surface(ESTALE, "the object was deleted")
}

pub(crate) fn too_large() -> Fault {
    Fault::surface(
        EFBIG,
        format!("objects can't be longer than {OBJECT_BYTES_MAX} bytes"),
    )
}

pub(crate) fn read_too_long(length_bytes: u32) -> Fault {
    Fault::surface(
        EINVAL,
        format!("a read of {length_bytes} bytes is longer than the largest allowed, 4 MiB"),
    )
}

pub(crate) fn no_space() -> Fault {
    Fault::surface(ENOSPC, "no space left on the object servers")
}

pub(crate) fn damaged(block: u64) -> Fault {
    Fault::surface(
        EIO,
        format!("4 KiB block {block} of the object is damaged on every replica"),
    )
}
