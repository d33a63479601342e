//! What a mount must show before its request gets to an object.

use types::{
    Capability, CapabilityError, ClusterId, Fault, ObjectId, OsdId, PgId, PgKey, Remedy, Rights,
    Secret, SessionId, UnixNanos,
};

/// EACCES.
const EACCES: i32 = 13;

/// What an operation does to an object's bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    /// Nothing.
    Read,
    /// It may change them, or says that they are there for good.
    Write,
}

/// Checks a capability against what is asked and gives the session it was issued to.
///
/// # Errors
///
/// A fault that says what does not fit: refresh if a new capability helps, surface if not.
pub fn admit(
    sealed: &[u8],
    secret: &Secret,
    cluster: ClusterId,
    object: ObjectId,
    pg: PgId,
    need: Need,
    now: UnixNanos,
) -> Result<SessionId, Fault> {
    let capability = Capability::open(sealed, secret, now).map_err(|error| match error {
        CapabilityError::Expired { .. } => Fault::refresh(error.to_string()),
        _ => Fault::surface(EACCES, error.to_string()),
    })?;
    if capability.cluster != cluster {
        return Err(Fault::surface(
            EACCES,
            format!(
                "capability is for cluster {}, this server is of {cluster}",
                capability.cluster
            ),
        ));
    }
    if (capability.volume, capability.inode) != (object.volume, object.inode) {
        return Err(Fault::surface(
            EACCES,
            format!(
                "capability is for file {}/{:x}, the request for {object}",
                capability.volume, capability.inode.0
            ),
        ));
    }
    if capability.pg != pg {
        return Err(Fault::new(
            Remedy::Refresh,
            EACCES,
            format!(
                "capability is for placement group {}, the request for {pg}; open the file again",
                capability.pg
            ),
        ));
    }
    if need == Need::Write && capability.rights == Rights::Read {
        return Err(Fault::surface(
            EACCES,
            format!("capability for {object} allows reading only; open the file for writing"),
        ));
    }
    Ok(capability.session)
}

/// Checks the view of a placement group that a request goes by. `ours` is the view this server knows, if
/// it knows the group, whether it is a member or not.
///
/// # Errors
///
/// Refresh if the request's view is old; retry if this server has to hear of it first.
pub fn check_view(
    me: OsdId,
    group: PgKey,
    (ours, is_member): (Option<u64>, bool),
    view: u64,
) -> Result<(), Fault> {
    match ours {
        Some(ours) if ours == view && is_member => Ok(()),
        Some(ours) if ours > view => Err(Fault::refresh(format!(
            "replica set {view} of placement group {group} is out of date, {ours} is current; \
             ask for it again"
        ))),
        Some(_) | None => Err(Fault::retry(format!(
            "object server {me} does not know replica set {view} of placement group {group} yet"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Inode, VolumeId};

    const CLUSTER: ClusterId = ClusterId(7);
    const OBJECT: ObjectId = ObjectId {
        volume: VolumeId(1),
        inode: Inode(42),
        column: 0,
    };

    fn capability(rights: Rights) -> Capability {
        Capability {
            cluster: CLUSTER,
            volume: OBJECT.volume,
            inode: OBJECT.inode,
            pg: PgId(3),
            session: SessionId(9),
            rights,
            expires: UnixNanos(1000),
        }
    }

    fn admit_at(
        sealed: &[u8],
        object: ObjectId,
        need: Need,
        now: i64,
    ) -> Result<SessionId, (Remedy, String)> {
        let secret = Secret::from_bytes([1; 32]);
        admit(
            sealed,
            &secret,
            CLUSTER,
            object,
            PgId(3),
            need,
            UnixNanos(now),
        )
        .map_err(|fault| (fault.remedy, fault.message))
    }

    #[test]
    fn fitting_capability_is_admitted_and_each_misfit_named() {
        let secret = Secret::from_bytes([1; 32]);
        let writer = capability(Rights::Write).seal(&secret);
        let reader = capability(Rights::Read).seal(&secret);
        let other = ObjectId {
            inode: Inode(43),
            ..OBJECT
        };
        let forged = capability(Rights::Write).seal(&Secret::from_bytes([2; 32]));
        let foreign = Capability {
            cluster: ClusterId(8),
            ..capability(Rights::Write)
        };
        let moved = Capability {
            pg: PgId(4),
            ..capability(Rights::Write)
        };

        assert_eq!(admit_at(&writer, OBJECT, Need::Write, 0), Ok(SessionId(9)));
        assert_eq!(admit_at(&reader, OBJECT, Need::Read, 0), Ok(SessionId(9)));
        let misfits = [
            (
                &reader,
                OBJECT,
                Need::Write,
                0,
                Remedy::Surface,
                "reading only",
            ),
            (&writer, other, Need::Read, 0, Remedy::Surface, "1/2a"),
            (
                &writer,
                OBJECT,
                Need::Read,
                2000,
                Remedy::Refresh,
                "expired",
            ),
            (&forged, OBJECT, Need::Read, 0, Remedy::Surface, "signed"),
            (
                &foreign.seal(&secret),
                OBJECT,
                Need::Read,
                0,
                Remedy::Surface,
                "cluster",
            ),
            (
                &moved.seal(&secret),
                OBJECT,
                Need::Read,
                0,
                Remedy::Refresh,
                "group 4",
            ),
            (
                &vec![1, 2],
                OBJECT,
                Need::Read,
                0,
                Remedy::Surface,
                "malformed",
            ),
        ];
        for (sealed, object, need, now, remedy, text) in misfits {
            let (found, message) = admit_at(sealed, object, need, now).unwrap_err();
            assert_eq!(found, remedy, "{message}");
            assert!(message.contains(text), "{message}");
        }
    }

    #[test]
    fn old_view_is_to_be_refreshed_and_a_newer_one_is_awaited() {
        let group = PgKey {
            volume: VolumeId(1),
            pg: PgId(3),
        };
        let check =
            |ours, view| check_view(OsdId(2), group, ours, view).map_err(|fault| fault.remedy);

        assert_eq!(check((Some(4), true), 4), Ok(()));
        assert_eq!(check((Some(5), true), 4), Err(Remedy::Refresh));
        assert_eq!(check((Some(5), false), 4), Err(Remedy::Refresh));
        assert_eq!(check((Some(3), true), 4), Err(Remedy::Retry));
        assert_eq!(check((Some(4), false), 4), Err(Remedy::Retry));
        assert_eq!(check((None, false), 4), Err(Remedy::Retry));
    }
}
