//! Sealing capabilities.

use std::time::Duration;

use shell::link::Identity;
use types::{Capability, ClusterId, Inode, PgId, Rights, Secret, SessionId, UnixNanos, VolumeId};

use crate::config::{CAPABILITY_LIFETIME, CAPABILITY_MARGIN};

/// Issues capabilities of one cluster.
#[derive(Debug)]
pub(crate) struct Grants {
    cluster: ClusterId,
    secret: Secret,
}

impl Grants {
    pub(crate) fn new(identity: &Identity) -> Self {
        Self {
            cluster: identity.cluster,
            secret: identity.secret.clone(),
        }
    }

    /// A capability and for how many milliseconds its holder should use it.
    pub(crate) fn seal(
        &self,
        (session, volume): (SessionId, VolumeId),
        inode: Inode,
        pg: PgId,
        rights: Rights,
    ) -> (Vec<u8>, u64) {
        let lifetime = i64::try_from(CAPABILITY_LIFETIME.as_nanos()).unwrap_or(i64::MAX);
        let capability = Capability {
            cluster: self.cluster,
            volume,
            inode,
            pg,
            session,
            rights,
            expires: UnixNanos(shell::clock::wall().0.saturating_add(lifetime)),
        };
        let valid: Duration = CAPABILITY_LIFETIME - CAPABILITY_MARGIN;
        (
            capability.seal(&self.secret),
            u64::try_from(valid.as_millis()).unwrap_or(u64::MAX),
        )
    }
}
