//! What happens in the world, and to whom.

use osd_core::{Done, ObjectKey, Op, Payload};
use proto::{mrc, peer};
use types::{Fault as Refusal, Instant, OsdId, PgKey};

use crate::cluster::server::{Asked, List, PeerAnswer};

/// What a mount shows an object server with a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Right {
    pub(crate) capability: Vec<u8>,
    pub(crate) view: u64,
}

/// What one server sends another on a stream.
#[derive(Debug)]
pub(crate) enum Frame {
    Ask {
        key: ObjectKey,
        asked: Asked,
        message: Box<peer::Request>,
        payload: Payload,
    },
    Answer {
        call: u64,
        reply: Box<PeerAnswer>,
    },
    List {
        group: PgKey,
        view: u64,
        asked: Asked,
    },
    /// None: the other goes by another view.
    Listed {
        call: u64,
        list: Option<List>,
    },
}

/// What happens.
#[derive(Debug)]
pub(crate) enum Happening {
    // To a server; void if it was started anew since.
    LeaseMessage {
        from: OsdId,
        to: OsdId,
        message: lease::Message,
    },
    Stream {
        from: OsdId,
        to: OsdId,
        life: u64,
        generation: u64,
        frame: Frame,
    },
    Works(OsdId, u64),
    Alarm(OsdId, u64),
    LeaseTimer(OsdId, u64),
    Looks(OsdId, u64),
    JobData(OsdId, u64, u64),
    JobRecord(OsdId, u64, u64),
    CallTimesOut(OsdId, u64, u64),
    Replies {
        osd: OsdId,
        life: u64,
        request: u64,
        result: Box<Result<Done, Refusal>>,
        valid_until: Option<Instant>,
    },
    AsksObject {
        mount: usize,
        osd: OsdId,
        life: u64,
        call: u64,
        key: ObjectKey,
        right: Right,
        op: Box<Op>,
    },
    Deletes {
        osd: OsdId,
        life: u64,
        batch: u64,
        keys: Vec<(ObjectKey, bool)>,
    },
    Beats(OsdId, u64),
    MapArrives {
        osd: OsdId,
        life: u64,
        map: Box<mrc::OsdMap>,
    },
    Starts(OsdId),
    StopEnds(OsdId, u64),
    // To a mount.
    Mount(usize),
    ObjectAnswers {
        mount: usize,
        call: u64,
        result: Box<Result<Done, Refusal>>,
    },
    ObjectGone {
        mount: usize,
        call: u64,
    },
    MetaAnswers {
        mount: usize,
        call: u64,
        attempt: Option<u64>,
        result: Box<mrc_core::Reply>,
    },
    // To the metadata cluster.
    AsksMeta {
        member: usize,
        mount: usize,
        call: u64,
        attempt: u64,
        change: u64,
        request: Box<mrc::Request>,
    },
    BeatArrives {
        member: usize,
        osd: OsdId,
        life: u64,
        beat: Box<mrc::OsdHeartbeat>,
    },
    Commits(u64),
    Elects,
    Janitor,
    Deleted {
        osd: OsdId,
        batch: u64,
        done: bool,
    },
    // To the world.
    /// Groups whose change may end, and policies that change.
    Governs,
    Connections,
    Misfortune,
    PowerFails,
}

impl Happening {
    /// The server it happens to, and in which life if that matters.
    pub(crate) const fn server(&self) -> Option<(OsdId, Option<u64>)> {
        match self {
            Self::LeaseMessage { to, .. } => Some((*to, None)),
            Self::Stream { to, life, .. } => Some((*to, Some(*life))),
            Self::Works(osd, life)
            | Self::Alarm(osd, life)
            | Self::LeaseTimer(osd, life)
            | Self::Looks(osd, life)
            | Self::JobData(osd, life, _)
            | Self::JobRecord(osd, life, _)
            | Self::CallTimesOut(osd, life, _)
            | Self::Replies { osd, life, .. }
            | Self::AsksObject { osd, life, .. }
            | Self::Deletes { osd, life, .. }
            | Self::Beats(osd, life)
            | Self::MapArrives { osd, life, .. }
            | Self::StopEnds(osd, life) => Some((*osd, Some(*life))),
            _ => None,
        }
    }

    /// What the trace notes of it.
    pub(crate) fn gist(&self) -> (&'static str, u64, u64) {
        match self {
            Self::LeaseMessage { from, to, message } => {
                ("lease message", from.0 << 32 | to.0, message.ballot.counter)
            }
            Self::Stream {
                from, to, frame, ..
            } => {
                let kind = match frame {
                    Frame::Ask { asked, .. } => asked.call << 2,
                    Frame::Answer { call, .. } => call << 2 | 1,
                    Frame::List { asked, .. } => asked.call << 2 | 2,
                    Frame::Listed { call, .. } => call << 2 | 3,
                };
                ("stream", from.0 << 32 | to.0, kind)
            }
            Self::Works(osd, life) => ("works", osd.0, *life),
            Self::Alarm(osd, life) => ("alarm", osd.0, *life),
            Self::LeaseTimer(osd, life) => ("lease timer", osd.0, *life),
            Self::Looks(osd, life) => ("looks", osd.0, *life),
            Self::JobData(osd, _, job) => ("job data", osd.0, *job),
            Self::JobRecord(osd, _, job) => ("job record", osd.0, *job),
            Self::CallTimesOut(osd, _, call) => ("call times out", osd.0, *call),
            Self::Replies { osd, request, .. } => ("replies", osd.0, *request),
            Self::AsksObject {
                mount, osd, call, ..
            } => ("asks object", (*mount as u64) << 32 | osd.0, *call),
            Self::Deletes { osd, batch, .. } => ("deletes", osd.0, *batch),
            Self::Beats(osd, _) => ("beats", osd.0, 0),
            Self::MapArrives { osd, map, .. } => ("map arrives", osd.0, map.version),
            Self::BeatArrives { member, osd, .. } => ("beat arrives", *member as u64, osd.0),
            Self::Governs => ("governs", 0, 0),
            Self::Starts(osd) => ("starts", osd.0, 0),
            Self::StopEnds(osd, life) => ("stop ends", osd.0, *life),
            Self::Mount(mount) => ("mount", *mount as u64, 0),
            Self::ObjectAnswers { mount, call, .. } => ("object answers", *mount as u64, *call),
            Self::ObjectGone { mount, call } => ("object gone", *mount as u64, *call),
            Self::MetaAnswers { mount, call, .. } => ("meta answers", *mount as u64, *call),
            Self::AsksMeta { member, call, .. } => ("asks meta", *member as u64, *call),
            Self::Commits(id) => ("commits", *id, 0),
            Self::Elects => ("elects", 0, 0),
            Self::Janitor => ("janitor", 0, 0),
            Self::Deleted { osd, batch, .. } => ("deleted", osd.0, *batch),
            Self::Connections => ("connections", 0, 0),
            Self::Misfortune => ("misfortune", 0, 0),
            Self::PowerFails => ("power fails", 0, 0),
        }
    }
}
