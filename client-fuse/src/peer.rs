//! Links to object servers, and which servers are out of reach right now.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use proto::mrc::Replica;
use shell::clock::boottime;
use shell::link::{CallError, Identity, Link, LinkOptions, Listener, ServiceKind};
use types::{Instant, OsdId, Remedy};

use crate::config::{CUT_TIME, SILENT_TIME};
use crate::lock;

/// Whether a server is out of reach. Asking one that is would only wait for the next attempt to
/// connect, while another server could answer.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    down: AtomicBool,
    why: Mutex<String>,
    /// It did not answer in time; end of the time for which others are asked first.
    silent_until: AtomicU64,
    /// It lives but does not answer here; end of the time for which it is asked through others.
    cut_until: AtomicU64,
}

impl Reach {
    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    pub(crate) fn why(&self) -> String {
        lock(&self.why).clone()
    }

    /// It has not answered in time.
    fn missed(&self) {
        let until = boottime() + SILENT_TIME;
        self.silent_until.store(until.as_nanos(), Ordering::Relaxed);
    }

    /// It lives, but nothing gets there from here. Returns whether that is news.
    pub(crate) fn cut_off(&self) -> bool {
        let news = !self.is_cut_off();
        let until = boottime() + CUT_TIME;
        self.cut_until.store(until.as_nanos(), Ordering::Relaxed);
        news
    }

    /// It has answered.
    pub(crate) fn heard(&self) {
        self.silent_until.store(0, Ordering::Relaxed);
        self.cut_until.store(0, Ordering::Relaxed);
    }

    /// Whether it is only reached through others, if at all.
    pub(crate) fn is_cut_off(&self) -> bool {
        let until = self.cut_until.load(Ordering::Relaxed);
        self.is_down() || (until > 0 && boottime() < Instant::from_nanos(until))
    }

    /// Whether others should be asked first.
    fn is_silent(&self) -> bool {
        let until = self.silent_until.load(Ordering::Relaxed);
        self.is_cut_off() || boottime() < Instant::from_nanos(until)
    }
}

impl Listener for Reach {
    fn connected(&self) {
        self.down.store(false, Ordering::Relaxed);
    }

    fn disconnected(&self, reason: &str) {
        reason.clone_into(&mut lock(&self.why));
        self.down.store(true, Ordering::Relaxed);
    }
}

/// A link to an object server.
#[derive(Debug)]
pub(crate) struct ObjectServer {
    pub(crate) address: String,
    pub(crate) link: Arc<Link>,
    reach: Arc<Reach>,
}

impl ObjectServer {
    /// Notes an answer, whatever it says.
    pub(crate) fn hear<T>(&self, outcome: &Result<T, CallError>) {
        if matches!(outcome, Ok(_) | Err(CallError::Fault(_))) {
            self.reach.heard();
        }
    }

    /// Why it is not worth asking now, if it isn't.
    pub(crate) fn out_of_reach(&self) -> Option<CallError> {
        self.reach
            .is_down()
            .then(|| CallError::Disconnected(self.reach.why()))
    }
}

/// All object servers heard of.
#[derive(Debug)]
pub(crate) struct ObjectServers {
    identity: Identity,
    known: Mutex<HashMap<OsdId, Arc<ObjectServer>>>,
}

impl ObjectServers {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            known: Mutex::default(),
        }
    }

    /// Remembers where the replicas of a grant are.
    pub(crate) fn learn(&self, replicas: &[Replica]) {
        let mut known = lock(&self.known);
        for replica in replicas {
            let osd = OsdId(replica.osd);
            if known
                .get(&osd)
                .is_some_and(|s| s.address == replica.address)
            {
                continue;
            }
            let reach = Arc::new(Reach::default());
            let listener: Arc<dyn Listener> = reach.clone();
            let link = Link::open_with(
                self.identity.clone(),
                ServiceKind::Osd,
                replica.address.clone(),
                LinkOptions::default(),
                listener,
            );
            let server = ObjectServer {
                address: replica.address.clone(),
                link,
                reach,
            };
            known.insert(osd, Arc::new(server));
        }
    }

    pub(crate) fn get(&self, osd: OsdId) -> Option<Arc<ObjectServer>> {
        lock(&self.known).get(&osd).cloned()
    }

    /// Messages sent to all of them.
    pub(crate) fn messages(&self) -> u64 {
        lock(&self.known)
            .values()
            .map(|server| server.link.messages())
            .sum()
    }

    /// The server has not answered in time.
    pub(crate) fn missed(&self, osd: OsdId) {
        if let Some(server) = self.get(osd) {
            server.reach.missed();
        }
    }

    /// The server lives, but nothing gets there from here.
    pub(crate) fn cut_off(&self, osd: OsdId) {
        if self.get(osd).is_some_and(|server| server.reach.cut_off()) {
            tracing::warn!(
                server = self.name(osd),
                "the primary of a file is cut off from this mount but not from the other object \
                 servers; asking it through them"
            );
        }
    }

    /// Whether requests get there from here.
    pub(crate) fn is_reached(&self, osd: OsdId) -> bool {
        self.get(osd)
            .is_some_and(|server| !server.reach.is_cut_off())
    }

    /// Whether others should be asked first.
    pub(crate) fn is_silent(&self, osd: OsdId) -> bool {
        self.get(osd).is_some_and(|server| server.reach.is_silent())
    }

    /// For log lines.
    pub(crate) fn name(&self, osd: OsdId) -> String {
        match self.get(osd) {
            Some(server) => format!("osd {osd} at {}", server.address),
            None => format!("osd {osd}"),
        }
    }
}

/// What a failed request means for routing.
pub(crate) fn failure_of(error: &CallError) -> client_core::Failure {
    use client_core::Failure;
    match error {
        CallError::Fault(fault) if fault.is_changes_lost() => Failure::Lost,
        CallError::Fault(fault) if fault.is_out_of_order() => Failure::OutOfOrder,
        CallError::Fault(fault) => match fault.remedy {
            Remedy::Retry => Failure::Retry,
            Remedy::Redirect => Failure::Redirect(fault.osd_hint),
            Remedy::Refresh => Failure::Refresh,
            Remedy::Surface => Failure::Surface(fault.errno),
        },
        CallError::Full => Failure::Retry,
        // Also a server that refuses us: others may not, and an operator is at work.
        _ => Failure::Gone,
    }
}
