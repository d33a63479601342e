//! Object servers that share one copy of every object, as replicas of one history do.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use prost::Message;
use proto::osd::request::Op;
use proto::osd::{Request, Response, Sync, Truncate, Write};
use shell::clock::wall;
use shell::link::{Connection, Handler, Payload, Responder};
use types::{Capability, Fault, OsdId, Remedy, Rights};

use super::secret;

/// How a server treats what reaches it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Never answers, and does nothing.
    Frozen,
    /// Does nothing and breaks the connection.
    Breaking,
}

#[derive(Default)]
struct Object {
    bytes: Vec<u8>,
    /// Of each session.
    marks: HashMap<u64, Mark>,
}

/// The newest change of a session.
#[derive(Clone, Copy, Default)]
struct Mark {
    change_id: u64,
    first_id: u64,
    append_offset: u64,
}

/// What all object servers know.
#[derive(Default)]
pub(crate) struct Objects {
    objects: Mutex<HashMap<u64, Object>>,
    moods: Mutex<HashMap<u64, Mood>>,
    /// The primary of all objects; 0: the first that is asked.
    pub(crate) primary: AtomicU64,
    /// Errno for all writes and truncations from now on; 0: none.
    pub(crate) write_errno: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) syncs: AtomicU64,
    /// Changes refused because they were older than what was applied.
    pub(crate) stale: AtomicU64,
    /// Requests left unanswered.
    kept: Mutex<Vec<Responder>>,
}

impl Objects {
    pub(crate) fn bytes(&self, inode: u64) -> Option<Vec<u8>> {
        let objects = self.objects.lock().unwrap();
        objects.get(&inode).map(|object| object.bytes.clone())
    }

    /// A majority of the replicas loses power: nothing of the object was stable.
    pub(crate) fn lose(&self, inode: u64) {
        self.objects.lock().unwrap().remove(&inode);
    }

    pub(crate) fn set_mood(&self, osd: u64, mood: Mood) {
        self.moods.lock().unwrap().insert(osd, mood);
    }

    /// How many requests frozen servers have not answered.
    pub(crate) fn unanswered(&self) -> usize {
        self.kept.lock().unwrap().len()
    }

    fn mood(&self, osd: u64) -> Mood {
        let moods = self.moods.lock().unwrap();
        moods.get(&osd).copied().unwrap_or_default()
    }

    fn check(&self, osd: u64, request: &Request) -> Result<(u64, u64), Fault> {
        let capability = Capability::open(&request.capability, &secret(), wall())
            .map_err(|error| Fault::refresh(error.to_string()))?;
        let inode = request.object.unwrap().inode;
        assert_eq!(capability.inode.0, inode);
        let writes = !matches!(request.op, Some(Op::Read(_) | Op::Stat(_)));
        if writes && capability.rights != Rights::Write {
            return Err(Fault::surface(
                libc::EACCES,
                "the capability is for reading",
            ));
        }
        let _ = self
            .primary
            .compare_exchange(0, osd, Ordering::Relaxed, Ordering::Relaxed);
        let primary = self.primary.load(Ordering::Relaxed);
        if primary != osd {
            let mut fault = Fault::new(Remedy::Redirect, libc::EAGAIN, "not the primary");
            fault.osd_hint = Some(OsdId(primary));
            return Err(fault);
        }
        Ok((inode, capability.session.0))
    }

    fn serve(&self, osd: u64, request: &Request, data: Bytes) -> Result<(Response, Bytes), Fault> {
        let (inode, session) = self.check(osd, request)?;
        let mut objects = self.objects.lock().unwrap();
        let errno = self.write_errno.load(Ordering::Relaxed);
        let mut response = Response::default();
        let mut bytes = Bytes::new();
        match request.op.as_ref().unwrap() {
            Op::Read(read) => {
                self.reads.fetch_add(1, Ordering::Relaxed);
                if let Some(object) = objects.get(&inode) {
                    let length = object.bytes.len();
                    let from = (read.offset as usize).min(length);
                    let to = (from + read.length_bytes as usize).min(length);
                    bytes = Bytes::copy_from_slice(&object.bytes[from..to]);
                }
            }
            Op::Write(_) | Op::Truncate(_) if errno != 0 => {
                return Err(Fault::surface(errno as i32, "as arranged"));
            }
            Op::Write(Write { follows, .. })
            | Op::Truncate(Truncate { follows, .. })
            | Op::Sync(Sync { follows })
                if lacks(objects.get(&inode), session, *follows) =>
            {
                return Err(Fault::changes_lost());
            }
            Op::Write(write) => {
                self.writes.fetch_add(1, Ordering::Relaxed);
                let object = objects.entry(inode).or_default();
                let ids = (write.change_id, write.first_id, write.after);
                let done = self.is_done(object, (session, write.first_session), ids)?;
                let mark = object.marks.entry(session).or_default();
                if let Some(done) = done {
                    response.offset = done.append_offset;
                } else {
                    (mark.change_id, mark.first_id) = (write.change_id, write.first_id);
                    let at = if write.append {
                        object.bytes.len() as u64
                    } else {
                        write.offset
                    };
                    if write.append {
                        mark.append_offset = at;
                    }
                    let end = at as usize + data.len();
                    if object.bytes.len() < end {
                        object.bytes.resize(end, 0);
                    }
                    object.bytes[at as usize..end].copy_from_slice(&data);
                    response.offset = at;
                }
            }
            Op::Truncate(truncate) => {
                let object = objects.entry(inode).or_default();
                let ids = (truncate.change_id, truncate.first_id, truncate.after);
                let done = self.is_done(object, (session, truncate.first_session), ids)?;
                if done.is_none() {
                    let mark = object.marks.entry(session).or_default();
                    (mark.change_id, mark.first_id) = (truncate.change_id, truncate.first_id);
                    object.bytes.resize(truncate.length_bytes as usize, 0);
                }
            }
            Op::Sync(_) => {
                self.syncs.fetch_add(1, Ordering::Relaxed);
            }
            Op::Stat(_) => {}
            Op::Seek(seek) => {
                let bytes = objects.get(&inode).map_or(&[][..], |object| &object.bytes);
                response.offset = found(bytes, seek.offset, seek.hole);
            }
            Op::Delete(_)
            | Op::LeaseList(_)
            | Op::LeaseShow(_)
            | Op::LeaseHandOver(_)
            | Op::LeaseStats(_)
            | Op::Stalls(_)
            | Op::ScrubStart(_)
            | Op::ScrubStatus(_)
            | Op::MapShow(_) => panic!("mounts do not ask for this"),
        }
        response.length_bytes = objects.get(&inode).map_or(0, |o| o.bytes.len() as u64);
        Ok((response, bytes))
    }

    /// Whether a change was done before, in this session or the one that sent it first.
    fn is_done(
        &self,
        object: &Object,
        (session, first_session): (u64, u64),
        (change_id, first_id, after): (u64, u64, u64),
    ) -> Result<Option<Mark>, Fault> {
        let mark = |session| object.marks.get(&session).copied().unwrap_or_default();
        let (mine, earlier) = (mark(session), mark(first_session));
        let done = [mine, earlier]
            .into_iter()
            .find(|mark| first_id <= mark.first_id);
        if done.is_some() {
            return Ok(done);
        }
        if change_id <= mine.change_id {
            self.stale.fetch_add(1, Ordering::Relaxed);
            return Err(Fault::retry("a newer change was applied"));
        }
        if after > mine.first_id.max(earlier.first_id) {
            return Err(Fault::out_of_order());
        }
        Ok(None)
    }
}

fn lacks(object: Option<&Object>, session: u64, follows: u64) -> bool {
    let mark = object.and_then(|object| object.marks.get(&session));
    mark.map_or(0, |mark| mark.first_id) < follows
}

/// One of them.
pub(crate) struct Osd {
    id: u64,
    all: Arc<Objects>,
}

impl Osd {
    pub(crate) fn new(id: u64, all: Arc<Objects>) -> Self {
        Self { id, all }
    }
}

impl Handler for Osd {
    fn request(&self, from: &Arc<Connection>, body: Bytes, payload: Payload, responder: Responder) {
        match self.all.mood(self.id) {
            Mood::Well => {}
            Mood::Frozen => return self.all.kept.lock().unwrap().push(responder),
            Mood::Breaking => return from.close(),
        }
        let request = Request::decode(body).unwrap();
        let data = payload.verified().unwrap();
        match self.all.serve(self.id, &request, data) {
            Ok((response, bytes)) => responder.ok(&response, Payload::of(bytes)),
            Err(fault) => responder.fault(fault),
        }
    }
}

/// Block of a hole: bytes that are all zero.
const HOLE_BYTES: usize = 4096;

/// What a Seek finds.
fn found(bytes: &[u8], offset: u64, hole: bool) -> u64 {
    let mut at = offset as usize;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let block = &rest[..rest.len().min(HOLE_BYTES - at % HOLE_BYTES)];
        if block.iter().all(|byte| *byte == 0) == hole {
            return at as u64;
        }
        at += block.len();
    }
    // Holes begin at the end, but data does not.
    if hole && offset < bytes.len() as u64 {
        bytes.len() as u64
    } else {
        u64::MAX
    }
}
