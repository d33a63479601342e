//! Joining a cluster: the first session, and why there may be none.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{Request, Response, VolumeList};
use shell::link::{Identity, Link, LinkOptions, Payload, Role, ServiceKind, Wire};
use types::{ClusterId, Secret};

use crate::config::METADATA_PATIENCE;
use crate::metadata::{Metadata, Trouble};

/// Which volume of which cluster, and how to treat it.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Addresses of metadata servers, `HOST:PORT`; one that lives suffices.
    pub addresses: Vec<String>,
    /// Name of the volume.
    pub volume: String,
    /// The cluster's id.
    pub cluster: ClusterId,
    /// The cluster's secret.
    pub secret: Secret,
    /// Where it will be mounted, for administrators' eyes.
    pub mount_point: Option<PathBuf>,
    /// Requests give up with EIO after this long; never, if absent.
    pub soft: Option<std::time::Duration>,
    /// How long to look for a metadata server that answers.
    pub connect_timeout: std::time::Duration,
    /// Age at which bytes read ahead are thrown away; zero: nothing is read ahead.
    pub read_ahead_age: std::time::Duration,
    /// How the links to servers behave.
    pub wire: Wire,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No address was given.
    #[error("no metadata server address was given; write HOST:PORT[,HOST:PORT...]/VOLUME")]
    NoAddress,
    /// Nobody answers.
    #[error(
        "no metadata server answered within {milliseconds} ms ({}): {reason}; check the addresses and that the cluster runs",
        addresses.join(", ")
    )]
    Unreachable {
        /// Who was asked.
        addresses: Vec<String>,
        /// What the last one's trouble was.
        reason: String,
        /// For how long they were asked.
        milliseconds: u128,
    },
    /// The cluster does not want us.
    #[error("{reason}")]
    Refused {
        /// In the server's words.
        reason: String,
    },
    /// There is no such volume.
    #[error("volume {volume:?} does not exist; {}", known_text(known))]
    UnknownVolume {
        /// Asked for.
        volume: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// The cluster answered something else.
    #[error("the cluster opened no session: {reason}")]
    Failed {
        /// In the server's words.
        reason: String,
    },
}

fn known_text(known: &[String]) -> String {
    if known.is_empty() {
        "the cluster has none yet, make one with `xfs-admin volume create`".to_owned()
    } else {
        format!("the cluster has {}", known.join(", "))
    }
}

/// Who we are to servers.
pub(crate) fn identity(options: &ConnectOptions) -> Identity {
    Identity {
        cluster: options.cluster,
        secret: options.secret.clone(),
        role: Role::Mount,
        id: u64::from(std::process::id()),
        wire: options.wire.clone(),
    }
}

/// Opens the first session, or says why that is impossible.
pub(crate) async fn first_session(
    metadata: &Metadata,
    options: &ConnectOptions,
) -> Result<(), ConnectError> {
    let mut last = "no answer".to_owned();
    let mut refused: BTreeMap<String, String> = BTreeMap::new();
    let outcome = {
        let mut report = |trouble: Trouble| {
            last = trouble.text;
            if let Some(reason) = trouble.refused {
                refused.insert(trouble.address, reason);
            }
            // Once nobody wants us, waiting does not help.
            refused.len() < options.addresses.len()
        };
        let session = metadata.open_session(&mut report);
        tokio::time::timeout(options.connect_timeout, session).await
    };
    if let Some(reason) = refused.into_values().next() {
        return match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ConnectError::Refused { reason }),
        };
    }
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(fault)) if fault.errno == libc::ENOENT => Err(ConnectError::UnknownVolume {
            volume: options.volume.clone(),
            known: volumes(options).await,
        }),
        Ok(Err(fault)) => Err(ConnectError::Failed {
            reason: fault.message,
        }),
        Err(_) => Err(ConnectError::Unreachable {
            addresses: options.addresses.clone(),
            reason: last,
            milliseconds: options.connect_timeout.as_millis(),
        }),
    }
}

/// Names of the cluster's volumes, as far as anybody tells.
async fn volumes(options: &ConnectOptions) -> Vec<String> {
    let request = Request {
        op: Some(Op::VolumeList(VolumeList {})),
        ..Request::default()
    };
    for address in &options.addresses {
        let link = Link::open(
            identity(options),
            ServiceKind::Mrc,
            address.clone(),
            LinkOptions::default(),
        );
        let reply = link
            .call::<_, Response>(&request, Payload::none(), METADATA_PATIENCE)
            .await;
        if let Ok((response, _)) = reply
            && let Some(Reply::Volumes(volumes)) = response.reply
        {
            return volumes.volumes.into_iter().map(|v| v.name).collect();
        }
    }
    Vec::new()
}
