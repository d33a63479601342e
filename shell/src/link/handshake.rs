//! What both ends tell and prove to each other before the first message.
//!
//! The caller names cluster, version, role, id and service, draws a nonce and signs it all with
//! the cluster's secret; the server checks them in an order that gives the clearest refusal and
//! signs the nonce in its answer, so that neither talks to a stranger by mistake. A party that can
//! read and change the traffic is not kept out: that needs TLS.

use std::net::SocketAddr;

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use types::{ClusterId, Secret};

use super::encoding::Agreed;
use super::identity::{Caller, Identity, ServiceKind};
use super::options::{Checksum, Compression};
use super::refusals::{Reason, Refused};
use super::version::Spoken;

const CLUSTER: &str = "oxfs-cluster";
/// The newest version that the caller speaks; in the answer, the one that is spoken.
const VERSION: &str = "oxfs-version";
/// The oldest one; missing, it is the same. Not signed: with another one the ends speak another version that both
/// speak, or none.
const OLDEST_VERSION: &str = "oxfs-version-oldest";
const ROLE: &str = "oxfs-role";
const ID: &str = "oxfs-id";
const SERVICE: &str = "oxfs-service";
const NONCE: &str = "oxfs-nonce";
const COMPRESSION: &str = "oxfs-compression";
const CHECKSUM: &str = "oxfs-checksum";
const AUTH: &str = "oxfs-auth";

/// What the caller's signature covers.
const SIGNED: [&str; 8] = [
    CLUSTER,
    VERSION,
    ROLE,
    ID,
    SERVICE,
    NONCE,
    COMPRESSION,
    CHECKSUM,
];

/// What the caller sends, and the nonce to check the answer with.
pub(crate) fn greeting(
    identity: &Identity,
    service: ServiceKind,
    agreed: Agreed,
) -> (MetadataMap, String) {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let fields = [
        (CLUSTER, identity.cluster.to_string()),
        (VERSION, Spoken::OURS.newest.to_string()),
        (OLDEST_VERSION, Spoken::OURS.oldest.to_string()),
        (ROLE, identity.role.name().to_owned()),
        (ID, identity.id.to_string()),
        (SERVICE, service.name().to_owned()),
        (NONCE, nonce.clone()),
        (COMPRESSION, agreed.compression.to_string()),
        (CHECKSUM, agreed.checksum.to_string()),
    ];
    let mut metadata = MetadataMap::new();
    for (key, value) in fields {
        insert(&mut metadata, key, &value);
    }
    sign(&mut metadata, &identity.secret);
    (metadata, nonce)
}

/// Signs a greeting.
pub(super) fn sign(metadata: &mut MetadataMap, secret: &Secret) {
    // A field that is missing is refused for that, whatever the signature says.
    let text = call_text(metadata).unwrap_or_default();
    insert(metadata, AUTH, &hex(&secret.sign(text.as_bytes())));
}

/// All fields of a greeting that are signed.
fn call_text(metadata: &MetadataMap) -> Result<String, Refused> {
    let mut text = String::from("call");
    for key in SIGNED {
        text.push('\n');
        text.push_str(field(metadata, key)?);
    }
    Ok(text)
}

/// A caller that may come in.
pub(crate) struct Admitted {
    pub(crate) caller: Caller,
    pub(crate) service: ServiceKind,
    /// What payloads look like, in both directions.
    pub(crate) agreed: Agreed,
    /// What the caller is told.
    pub(crate) answer: MetadataMap,
}

/// Checks a greeting at the server and gives the caller, the service it wants and our answer.
pub(crate) fn admit(
    metadata: &MetadataMap,
    address: Option<SocketAddr>,
    me: &Identity,
) -> Result<Admitted, Refused> {
    let version = version(metadata, me)?;
    let cluster = field(metadata, CLUSTER)?;
    if cluster.parse::<ClusterId>() != Ok(me.cluster) {
        let text = format!(
            "the caller belongs to cluster {cluster}, {} {} to cluster {}; \
             check the addresses and the cluster id in its configuration",
            me.role, me.id, me.cluster
        );
        return Err(Refused::new(Reason::Cluster, text));
    }
    let signed = call_text(metadata)?;
    if !verify(&me.secret, signed.as_bytes(), field(metadata, AUTH)?) {
        let text = format!(
            "the caller does not know the secret of cluster {}; \
             give it the secret file of the cluster",
            me.cluster
        );
        return Err(Refused::new(Reason::Secret, text));
    }
    let caller = Caller {
        role: parsed(metadata, ROLE)?,
        id: parsed(metadata, ID)?,
        address,
    };
    let service: ServiceKind = parsed(metadata, SERVICE)?;
    if !service.admits(caller.role) {
        let text = format!(
            "{} {} may not use the service {service}",
            caller.role, caller.id
        );
        return Err(Refused::new(Reason::Service, text));
    }
    let agreed = Agreed {
        compression: option(metadata, COMPRESSION, "compression", &Compression::ALL, me)?,
        checksum: option(metadata, CHECKSUM, "checksum", &Checksum::ALL, me)?,
    };
    let mut answer = MetadataMap::new();
    insert(&mut answer, VERSION, &version.to_string());
    let proof = me
        .secret
        .sign(&answer_text(field(metadata, NONCE)?, agreed));
    insert(&mut answer, AUTH, &hex(&proof));
    Ok(Admitted {
        caller,
        service,
        agreed,
        answer,
    })
}

/// The version to be spoken with a caller.
fn version(metadata: &MetadataMap, me: &Identity) -> Result<u32, Refused> {
    let newest = parsed(metadata, VERSION)?;
    let oldest = match metadata.contains_key(OLDEST_VERSION) {
        true => parsed(metadata, OLDEST_VERSION)?,
        false => newest,
    };
    let (ours, theirs) = (Spoken::OURS, Spoken { oldest, newest });
    ours.common(theirs).ok_or_else(|| {
        let older = match theirs.newest < ours.oldest {
            true => "the caller",
            false => me.role.name(),
        };
        let text = format!(
            "the caller speaks protocol version {theirs}, {} {} speaks {ours}; upgrade {older} first, to a \
             release that speaks both, or run the same release on both",
            me.role, me.id
        );
        Refused::new(Reason::Version, text)
    })
}

/// Whether the server's answer proves that it knows the secret.
pub(crate) fn is_answer(
    metadata: &MetadataMap,
    nonce: &str,
    agreed: Agreed,
    secret: &Secret,
) -> bool {
    field(metadata, AUTH).is_ok_and(|tag| verify(secret, &answer_text(nonce, agreed), tag))
}

/// Whether the server answers in a version that we speak. One that does not tell speaks the one we asked for.
pub(crate) fn is_spoken(metadata: &MetadataMap) -> bool {
    let Ok(version) = field(metadata, VERSION) else {
        return true;
    };
    let ours = Spoken::OURS;
    version
        .parse()
        .is_ok_and(|version| (ours.oldest..=ours.newest).contains(&version))
}

/// Whether a server's status is a refusal that repeating does not change.
pub(crate) fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::PermissionDenied | Code::FailedPrecondition | Code::Unimplemented
    )
}

/// The nonce, and what was agreed on.
fn answer_text(nonce: &str, agreed: Agreed) -> Vec<u8> {
    let Agreed {
        compression,
        checksum,
    } = agreed;
    format!("answer\n{nonce}\n{compression}\n{checksum}").into_bytes()
}

/// A wire option that the caller wants.
fn option<T: std::str::FromStr + std::fmt::Display>(
    metadata: &MetadataMap,
    key: &str,
    name: &str,
    known: &[T],
    me: &Identity,
) -> Result<T, Refused> {
    let wanted = field(metadata, key)?;
    wanted.parse().map_err(|_| {
        let known: Vec<String> = known.iter().map(T::to_string).collect();
        let text = format!(
            "the caller wants the {name} {wanted:?}, {} {} knows {}; change `wire.{name}` in the \
             caller's configuration, or run the same release on both",
            me.role,
            me.id,
            known.join(", ")
        );
        Refused::new(Reason::Option, text)
    })
}

fn insert(metadata: &mut MetadataMap, key: &'static str, value: &str) {
    // Values are digits and lower-case words, which are always valid; a missing one is refused.
    if let Ok(value) = value.parse() {
        metadata.insert(key, value);
    }
}

fn field<'a>(metadata: &'a MetadataMap, key: &str) -> Result<&'a str, Refused> {
    metadata
        .get(key)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| {
            let text = format!("the caller sent no {key}; only OxFS programs can connect here");
            Refused::new(Reason::Greeting, text)
        })
}

fn parsed<T: std::str::FromStr>(metadata: &MetadataMap, key: &str) -> Result<T, Refused> {
    let value = field(metadata, key)?;
    value.parse().map_err(|_| {
        let text = format!("the caller's {key} is {value:?}, which is unknown");
        Refused::new(Reason::Greeting, text)
    })
}

fn verify(secret: &Secret, message: &[u8], tag: &str) -> bool {
    unhex(tag).is_some_and(|tag| tag.len() == 32 && secret.verify(message, &tag))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}
