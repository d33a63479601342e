//! Conversation with the metadata cluster: finds the leader, keeps the session, repeats requests.
//!
//! A change owns a slot of the session until its outcome is known, so that it is done exactly once
//! however often it is sent. Requests are repeated until they are answered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use client_core::{Leader, Slot, Slots};
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{OpenSession, Request, Response};
use shell::link::{CallError, Identity, Link, LinkOptions, Listener, Payload, ServiceKind};
use tokio::sync::{Notify, Semaphore};
use types::{Fault, Remedy};

use crate::config::{
    METADATA_BACKOFF_MAX, METADATA_BACKOFF_MIN, METADATA_PATIENCE, SESSION_NONCES_MAX, STALL_REPORT,
};
use crate::errno::Errno;
use crate::peer::Reach;
use crate::stall::{Stall, Stalls};
use crate::{lock, read_lock, write_lock};

/// What this mount is registered as.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) volume: u64,
    pub(crate) timeout: std::time::Duration,
    slots: Mutex<Slots>,
    free: Semaphore,
}

impl Session {
    fn of(opened: &proto::mrc::SessionOpened) -> Self {
        let count = opened.slot_count.max(1);
        Self {
            id: opened.session,
            volume: opened.volume,
            timeout: std::time::Duration::from_millis(opened.timeout_ms.max(1)),
            slots: Mutex::new(Slots::new(count)),
            free: Semaphore::new(count as usize),
        }
    }

    async fn take(&self) -> Result<Slot, Errno> {
        let permit = self.free.acquire().await.map_err(|_| Errno(libc::EIO))?;
        permit.forget();
        // There are as many permits as slots.
        lock(&self.slots).take().ok_or(Errno(libc::EIO))
    }

    fn give_back(&self, slot: Slot) {
        lock(&self.slots).give_back(slot);
        self.free.add_permits(1);
    }
}

struct MetadataLink {
    link: Arc<Link>,
    reach: Arc<Reach>,
}

/// How this mount presents itself.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    pub(crate) volume: String,
    pub(crate) client: String,
    pub(crate) mount_point: String,
}

/// The client of the metadata cluster.
pub(crate) struct Metadata {
    identity: Identity,
    introduction: Introduction,
    links: Mutex<HashMap<String, Arc<MetadataLink>>>,
    leader: Mutex<Leader>,
    /// Who answered last.
    answered: Mutex<String>,
    session: RwLock<Option<Arc<Session>>>,
    /// The last number drawn for what is said of files that are open for reading.
    order: AtomicU64,
    renewing: tokio::sync::Mutex<()>,
    /// Somebody else leads: it must learn what is open here.
    pub(crate) leader_changed: Notify,
    /// There is a new session: files must be opened in it.
    pub(crate) session_changed: Notify,
    stalls: Arc<Stalls>,
}

/// Why there is no answer yet.
pub(crate) struct Trouble {
    pub(crate) address: String,
    pub(crate) refused: Option<String>,
    pub(crate) text: String,
}

impl Metadata {
    pub(crate) fn new(
        identity: Identity,
        addresses: Vec<String>,
        introduction: Introduction,
        stalls: Arc<Stalls>,
    ) -> Self {
        Self {
            identity,
            introduction,
            links: Mutex::default(),
            leader: Mutex::new(Leader::new(addresses)),
            answered: Mutex::default(),
            session: RwLock::default(),
            order: AtomicU64::new(0),
            renewing: tokio::sync::Mutex::default(),
            leader_changed: Notify::new(),
            session_changed: Notify::new(),
            stalls,
        }
    }

    /// Messages sent to all servers.
    pub(crate) fn messages(&self) -> u64 {
        lock(&self.links)
            .values()
            .map(|peer| peer.link.messages())
            .sum()
    }

    /// The current session.
    pub(crate) fn session(&self) -> Result<Arc<Session>, Errno> {
        read_lock(&self.session)
            .clone()
            .ok_or(Errno(libc::ENOTCONN))
    }

    /// Opens a session. `report` hears of every failure on the way and says whether to go on.
    pub(crate) async fn open_session(
        &self,
        report: &mut (dyn FnMut(Trouble) -> bool + Send),
    ) -> Result<(), Fault> {
        let mut request = Request {
            op: Some(Op::OpenSession(OpenSession {
                volume: self.introduction.volume.clone(),
                client: self.introduction.client.clone(),
                mount_point: self.introduction.mount_point.clone(),
                pid: u64::from(std::process::id()),
                nonce: draw_nonce(),
            })),
            ..Request::default()
        };
        let mut pace = Pace::new(&self.stalls);
        let mut nonces = 1;
        loop {
            match self.attempt(&mut request, &mut pace, report).await {
                Attempt::Answer(Ok(Reply::SessionOpened(opened))) => {
                    *write_lock(&self.session) = Some(Arc::new(Session::of(&opened)));
                    return Ok(());
                }
                Attempt::Answer(Ok(_)) => return Err(unexpected()),
                Attempt::Answer(Err(fault))
                    if is_used_up(&fault) && nonces < SESSION_NONCES_MAX =>
                {
                    nonces += 1;
                    if let Some(Op::OpenSession(open)) = &mut request.op {
                        open.nonce = draw_nonce();
                    }
                }
                Attempt::Answer(Err(fault)) if fault.remedy == Remedy::Surface => {
                    return Err(fault);
                }
                Attempt::Answer(Err(_)) => pace.wait().await,
                Attempt::Vain { .. } => {}
            }
        }
    }

    /// The number under which something is said of files that are open for reading: greater than all
    /// before.
    pub(crate) fn draw_order(&self) -> u64 {
        self.order.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The last such number.
    pub(crate) fn last_order(&self) -> u64 {
        self.order.load(Ordering::SeqCst)
    }

    /// Asks for something that changes nothing.
    pub(crate) async fn ask(&self, op: Op) -> Result<Reply, Errno> {
        self.ask_in_order(op, 0).await
    }

    /// The same, with the number of a list of what is open.
    pub(crate) async fn ask_in_order(&self, op: Op, order: u64) -> Result<Reply, Errno> {
        let session = self.session()?;
        Box::pin(self.drive(session, None, (op, order))).await
    }

    /// Asks for a change, which is done exactly once.
    pub(crate) async fn change(&self, op: Op) -> Result<Reply, Errno> {
        let writes = match &op {
            Op::Create(create) => create.write,
            op => matches!(op, Op::OpenWrite(_)),
        };
        let reply = self.change_once(op).await?;
        match reply {
            Reply::Opened(made) if is_without_right(&made) => self.open_made(made, writes).await,
            reply => Ok(reply),
        }
    }

    async fn change_once(&self, op: Op) -> Result<Reply, Errno> {
        let session = self.session()?;
        let slot = session.take().await?;
        // Boxed, since many futures have one of these inside.
        Box::pin(self.drive(session, Some(slot), (op, 0))).await
    }

    /// Opens in the new session what was created in one that has ended.
    async fn open_made(&self, made: proto::mrc::Opened, writes: bool) -> Result<Reply, Errno> {
        let inode = made.attr.map_or(0, |attr| attr.inode);
        let reply = if writes {
            self.change_once(Op::OpenWrite(proto::mrc::OpenWrite { inode }))
                .await?
        } else {
            let open = proto::mrc::Open {
                inode,
                renew_write: false,
            };
            self.ask(Op::Open(open)).await?
        };
        match reply {
            Reply::Opened(opened) if !is_without_right(&opened) => {
                Ok(Reply::Opened(proto::mrc::Opened {
                    existed: made.existed,
                    ..opened
                }))
            }
            // The session has ended once more.
            _ => Err(Errno(libc::EIO)),
        }
    }

    async fn drive(
        &self,
        mut session: Arc<Session>,
        mut slot: Option<Slot>,
        (op, order): (Op, u64),
    ) -> Result<Reply, Errno> {
        let mut request = Request {
            session: session.id,
            slot: slot.map_or(0, |s| s.number),
            slot_seq: slot.map_or(0, |s| s.seq),
            forward: false,
            order,
            op: Some(op),
        };
        let mut pace = Pace::new(&self.stalls);
        let mut may_be_done = false;
        loop {
            let outcome = match self.attempt(&mut request, &mut pace, &mut |_| true).await {
                Attempt::Answer(outcome) => outcome,
                Attempt::Vain { unanswered } => {
                    may_be_done |= unanswered;
                    continue;
                }
            };
            let fault = match outcome {
                Ok(reply) => {
                    if let Some(slot) = slot {
                        session.give_back(slot);
                    }
                    return Ok(reply);
                }
                Err(fault) => fault,
            };
            match fault.remedy {
                Remedy::Refresh => {
                    let changing = slot.is_some();
                    if changing && may_be_done && is_forgotten(&fault) && !is_repeatable(&request) {
                        tracing::error!(
                            session = session.id,
                            "a change of a name or attribute was under way when this mount lost \
                             the cluster for so long that nobody knows whether it was done; its \
                             program is told EIO"
                        );
                        return Err(Errno(libc::EIO));
                    }
                    may_be_done = false;
                    session = self.renew_session(session.id).await?;
                    slot = if changing {
                        Some(session.take().await?)
                    } else {
                        None
                    };
                    request.session = session.id;
                    request.slot = slot.map_or(0, |s| s.number);
                    request.slot_seq = slot.map_or(0, |s| s.seq);
                }
                Remedy::Surface => {
                    if let Some(slot) = slot {
                        session.give_back(slot);
                    }
                    return Err(Errno::of(&fault));
                }
                Remedy::Retry | Remedy::Redirect => pace.wait().await,
            }
        }
    }

    /// One request to the believed leader, waits included.
    async fn attempt(
        &self,
        request: &mut Request,
        pace: &mut Pace,
        report: &mut (dyn FnMut(Trouble) -> bool + Send),
    ) -> Attempt {
        let Some((address, forward, peer)) = self.leader_link() else {
            let text = "no metadata server is known";
            return Attempt::Answer(Err(Fault::surface(libc::EIO, text)));
        };
        request.forward = forward;
        if client_core::is_ordered(request) {
            request.order = self.draw_order();
        }
        pace.notice(&address);
        let mut unanswered = false;
        let outcome = if peer.reach.is_down() {
            Err(CallError::Disconnected(peer.reach.why()))
        } else {
            unanswered = true;
            peer.link
                .call::<_, Response>(&*request, Payload::none(), METADATA_PATIENCE)
                .await
        };
        match &outcome {
            Ok(_) | Err(CallError::Fault(_)) => peer.reach.heard(),
            Err(CallError::Timeout) => {
                peer.reach.cut_off();
            }
            Err(_) => {}
        }
        let mut refused = None;
        let (hint, text) = match outcome {
            Ok((response, _)) => {
                self.heard(&address);
                return Attempt::Answer(response.reply.ok_or_else(unexpected));
            }
            Err(CallError::Fault(fault)) if fault.remedy == Remedy::Redirect => {
                unanswered = false;
                (fault.hint.clone(), fault.message)
            }
            // It knows no leader or can't prove that it is one: cut off from the others it would
            // say so for ever, while they have elected another one.
            Err(CallError::Fault(fault)) if fault.remedy == Remedy::Retry => (None, fault.message),
            Err(CallError::Fault(fault)) => {
                self.heard(&address);
                return Attempt::Answer(Err(fault));
            }
            Err(CallError::Full) => {
                return Attempt::Answer(Err(Fault::retry("too many requests are waiting")));
            }
            Err(CallError::Refused(text)) => {
                unanswered = false;
                refused = Some(text.clone());
                (None, text)
            }
            Err(error) => (None, format!("{address}: {error}")),
        };
        tracing::debug!(address, text, ?hint, "metadata server can't answer");
        let trouble = Trouble {
            address: address.clone(),
            refused,
            text,
        };
        if !report(trouble) {
            return Attempt::Answer(Err(Fault::surface(libc::EACCES, "given up")));
        }
        if lock(&self.leader).failed(&address, hint.as_deref(), forward) {
            pace.wait().await;
        }
        Attempt::Vain { unanswered }
    }

    fn heard(&self, address: &str) {
        lock(&self.leader).answered();
        let mut answered = lock(&self.answered);
        if *answered != address {
            let first = answered.is_empty();
            address.clone_into(&mut answered);
            if !first {
                self.leader_changed.notify_one();
            }
        }
    }

    /// These are all metadata servers that can lead now.
    pub(crate) fn told(&self, addresses: &[String]) {
        if addresses.is_empty() {
            return;
        }
        let mut links = lock(&self.links);
        lock(&self.leader).told(addresses);
        links.retain(|address, _| addresses.contains(address));
    }

    /// Whom to ask, and whether that one shall pass the request on.
    fn leader_link(&self) -> Option<(String, bool, Arc<MetadataLink>)> {
        let mut links = lock(&self.links);
        let cut_off = |address: &str| links.get(address).is_some_and(|it| it.reach.is_cut_off());
        let (address, forward) = {
            let mut leader = lock(&self.leader);
            let via = leader.ask(|address| !cut_off(address))?;
            (via.address.to_owned(), via.forward)
        };
        let peer = links.entry(address.clone()).or_insert_with(|| {
            let reach = Arc::new(Reach::default());
            let listener: Arc<dyn Listener> = reach.clone();
            let link = Link::open_with(
                self.identity.clone(),
                ServiceKind::Mrc,
                address.clone(),
                LinkOptions::default(),
                listener,
            );
            Arc::new(MetadataLink { link, reach })
        });
        Some((address, forward, peer.clone()))
    }

    /// The session `old` is over: opens another one, once for all who notice.
    async fn renew_session(&self, old: u64) -> Result<Arc<Session>, Errno> {
        let _one = self.renewing.lock().await;
        let current = self.session()?;
        if current.id != old {
            return Ok(current);
        }
        tracing::warn!(session = old, "the session expired; opening a new one");
        self.open_session(&mut |_| true)
            .await
            .map_err(|fault| Errno::of(&fault))?;
        self.session_changed.notify_one();
        self.session()
    }
}

/// What came of one attempt at a request.
enum Attempt {
    Answer(Result<Reply, Fault>),
    /// Another server is to be asked; if this one was asked and left it open, the request may have
    /// been done or may be done yet.
    Vain {
        unanswered: bool,
    },
}

fn draw_nonce() -> u64 {
    rand::random_range(1..=u64::MAX)
}

/// Whether an OpenSession is refused because its nonce opened a session before, of which this mount did
/// not hear, and which ended by the clock meanwhile. Another nonce opens another session.
fn is_used_up(fault: &Fault) -> bool {
    fault.remedy == Remedy::Surface && fault.errno == libc::EINVAL
}

/// Whether the metadata cluster has forgotten what became of the session's requests.
fn is_forgotten(fault: &Fault) -> bool {
    fault.errno == libc::EIO
}

/// Whether a request may be done twice.
fn is_repeatable(request: &Request) -> bool {
    matches!(
        &request.op,
        Some(Op::OpenWrite(_) | Op::Written(_) | Op::SetAttr(_))
    )
}

/// Whether a file is told as opened that was opened in a session that has ended since.
fn is_without_right(opened: &proto::mrc::Opened) -> bool {
    let grant = opened.grant.as_ref();
    grant.is_some_and(|grant| grant.capability.is_empty())
}

fn unexpected() -> Fault {
    Fault::surface(
        libc::EPROTO,
        "the metadata server answered something else than was asked; run the same release everywhere",
    )
}

/// How long to wait between attempts of one request, and when to report that it waits.
struct Pace {
    started: Instant,
    wait: std::time::Duration,
    stalls: Arc<Stalls>,
    stall: Option<Stall>,
}

impl Pace {
    fn new(stalls: &Arc<Stalls>) -> Self {
        Self {
            started: Instant::now(),
            wait: METADATA_BACKOFF_MIN,
            stalls: stalls.clone(),
            stall: None,
        }
    }

    fn notice(&mut self, address: &str) {
        if self.stall.is_none() && self.started.elapsed() >= STALL_REPORT {
            self.stall = Some(self.stalls.begin(&format!("mrc at {address}")));
        }
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.wait).await;
        self.wait = (self.wait * 2).min(METADATA_BACKOFF_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The real metadata state machine refuses a nonce whose session has ended as this mount expects it.
    #[test]
    fn nonce_of_a_session_that_ended_is_used_up() {
        use proto::index::command::Op as Change;

        let index = mrc_core::MemoryIndex::new();
        let apply = |op| {
            let command = mrc_core::internal(op, types::UnixNanos(0));
            let mut overlay = mrc_core::Overlay::new();
            let outcome = mrc_core::apply(&index, &mut overlay, &command).unwrap();
            mrc_core::Index::apply(&index, overlay.into_batch()).unwrap();
            outcome.reply
        };
        let register = proto::index::RegisterOsd {
            osd: 1,
            address: "o1".to_owned(),
            store_uuid: "s1".to_owned(),
            ..Default::default()
        };
        apply(Change::RegisterOsd(register)).unwrap();
        let create = proto::mrc::VolumeCreate {
            name: "v".to_owned(),
            replicas: 1,
            pgs: 1,
            root_owner: Some(Default::default()),
            nonce: 1,
            ..Default::default()
        };
        apply(Change::VolumeCreate(proto::index::VolumeCreate {
            request: Some(create),
            osds: vec![1],
        }))
        .unwrap();
        let open = |volume: &str| {
            let request = OpenSession {
                volume: volume.to_owned(),
                nonce: 7,
                ..OpenSession::default()
            };
            apply(Change::OpenSession(proto::index::OpenSession {
                request: Some(request),
                timeout_ms: 1_000,
            }))
        };
        let Some(Reply::SessionOpened(opened)) = open("v").unwrap().reply else {
            panic!("no session");
        };
        assert!(open("v").is_ok(), "a repetition finds it");
        let session = opened.session;
        apply(Change::ExpireSession(proto::index::ExpireSession {
            session,
        }))
        .unwrap();

        assert!(is_used_up(&open("v").unwrap_err()));
        assert!(!is_used_up(&open("w").unwrap_err()), "no such volume");
    }
}
