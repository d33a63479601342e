//! What servers say of themselves: their numbers, their release, their clock, and where collectors find them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{SessionInfo, SessionList, ShowNumbers};
use proto::osd;
use shell::admin::Admin;
use shell::link::{CallError, Link, LinkOptions, Payload, ServiceKind};
use shell::metrics::times_among;
use shell::times::Histogram;
use tokio::task::JoinSet;
use types::Fault;

use crate::lists::odd;
use crate::outcome::Failure;

/// How long a server may take to answer. 2 s: twice what a busy one takes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A server that can be asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Asked {
    /// `mrc` or `osd`.
    pub(crate) role: String,
    pub(crate) id: u64,
    pub(crate) address: String,
}

impl Asked {
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.role, self.id)
    }
}

/// What a server said.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// Empty: of a release that does not tell.
    pub(crate) release: String,
    /// Empty: nowhere.
    pub(crate) metrics_address: String,
    /// How far its clock is ahead of this machine's, in ms; none if it does not tell.
    pub(crate) ahead_ms: Option<i64>,
    /// How wrong that may be: half of the time that the question took.
    pub(crate) unsure_ms: i64,
    /// When it was heard.
    pub(crate) at: Instant,
    pub(crate) numbers: HashMap<String, u64>,
}

impl Said {
    /// A number by its full name.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.numbers.get(name).copied()
    }

    /// Durations by their full name.
    pub(crate) fn times(&self, name: &str) -> Histogram {
        let numbers = self.numbers.iter();
        times_among(name, numbers.map(|(name, value)| (name.as_str(), *value)))
    }

    #[cfg(test)]
    pub(crate) fn of(release: &str, numbers: &[(&str, u64)]) -> Self {
        Self {
            release: release.to_owned(),
            metrics_address: String::new(),
            ahead_ms: Some(0),
            unsure_ms: 0,
            at: Instant::now(),
            numbers: numbers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect(),
        }
    }
}

/// Asks servers again and again over the same connections.
#[derive(Debug, Default)]
pub(crate) struct Asker(HashMap<String, Arc<Link>>);

impl Asker {
    /// Asks all of them at once; the answers are in the order of the questions.
    pub(crate) async fn ask(
        &mut self,
        admin: &Admin,
        servers: &[Asked],
    ) -> Vec<(Asked, Result<Said, CallError>)> {
        let mut asked = JoinSet::new();
        for (place, server) in servers.iter().enumerate() {
            let (link, server) = (self.link(admin, server), server.clone());
            asked.spawn(async move {
                let said = ask_one(&link, &server.role).await;
                (place, server, said)
            });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(place, _, _)| *place);
        answers
            .into_iter()
            .map(|(_, server, said)| (server, said))
            .collect()
    }

    fn link(&mut self, admin: &Admin, server: &Asked) -> Arc<Link> {
        let service = match server.role.as_str() {
            "mrc" => ServiceKind::Mrc,
            _ => ServiceKind::Osd,
        };
        let link = self.0.entry(server.address.clone()).or_insert_with(|| {
            let identity = admin.identity().clone();
            Link::open(
                identity,
                service,
                server.address.clone(),
                LinkOptions::default(),
            )
        });
        Arc::clone(link)
    }
}

async fn ask_one(link: &Link, role: &str) -> Result<Said, CallError> {
    let (begun, began_ns) = (Instant::now(), now_ns());
    let told = match role {
        "mrc" => of_mrc(link).await,
        _ => of_osd(link).await,
    }?;
    let took_ms = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
    let Told {
        release,
        wall_ns,
        metrics_address,
        numbers,
    } = told;
    Ok(Said {
        release,
        metrics_address,
        ahead_ms: (wall_ns != 0).then(|| (wall_ns - began_ns) / 1_000_000 - took_ms / 2),
        unsure_ms: took_ms / 2 + 1,
        at: Instant::now(),
        numbers,
    })
}

struct Told {
    release: String,
    wall_ns: i64,
    metrics_address: String,
    numbers: HashMap<String, u64>,
}

async fn of_mrc(link: &Link) -> Result<Told, CallError> {
    let request = proto::mrc::Request {
        op: Some(Op::ShowNumbers(ShowNumbers {})),
        ..proto::mrc::Request::default()
    };
    let answer = link.call::<_, proto::mrc::Response>(&request, Payload::none(), ANSWER_TIMEOUT);
    let Some(Reply::Numbers(told)) = answer.await?.0.reply else {
        // 71: EPROTO.
        return Err(CallError::Fault(Fault::surface(
            71,
            "the answer is to another question; run the same release on all machines",
        )));
    };
    let numbers = told.numbers.into_iter();
    Ok(Told {
        release: told.release,
        wall_ns: told.wall_ns,
        metrics_address: told.metrics_address,
        numbers: numbers.map(|it| (it.name, it.value)).collect(),
    })
}

async fn of_osd(link: &Link) -> Result<Told, CallError> {
    let request = osd::Request {
        op: Some(osd::request::Op::LeaseStats(osd::LeaseStats {})),
        ..osd::Request::default()
    };
    let answer = link.call::<_, osd::Response>(&request, Payload::none(), ANSWER_TIMEOUT);
    let told = answer.await?.0;
    let numbers = told.metrics.into_iter();
    Ok(Told {
        release: told.release,
        wall_ns: told.wall_ns,
        metrics_address: told.metrics_address,
        numbers: numbers.map(|it| (it.name, it.value)).collect(),
    })
}

/// Sessions of mounts that live, as the leader knows them.
pub(crate) async fn sessions(admin: &Admin) -> Result<Vec<SessionInfo>, Failure> {
    match admin.ask_leader(Op::SessionList(SessionList {})).await? {
        Reply::Sessions(sessions) => {
            let mut active = sessions.sessions;
            active.retain(|session| session.state == "active");
            Ok(active)
        }
        _ => Err(odd()),
    }
}

fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX))
}
