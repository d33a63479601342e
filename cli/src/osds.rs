//! Asking object servers themselves, all at once.

use std::time::Duration;

use proto::osd::{self, request::Op};
use shell::admin::Admin;
use shell::link::{CallError, Link, LinkOptions, Payload, ServiceKind};
use tokio::task::JoinSet;

/// How long an object server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// An object server that can be asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Osd {
    pub(crate) id: u64,
    pub(crate) address: String,
}

/// An object server and what it said.
pub(crate) type Answered<T> = (Osd, Result<T, CallError>);

/// Asks one server one thing.
pub(crate) async fn ask(
    admin: &Admin,
    osd: &Osd,
    object: Option<osd::ObjectRef>,
    op: Op,
) -> Result<osd::Response, CallError> {
    ask_link(&open(admin, osd), object, op).await
}

/// Asks all of them the same thing at the same time; the answers are in the order of their numbers.
pub(crate) async fn ask_all(
    admin: &Admin,
    osds: &[Osd],
    object: Option<osd::ObjectRef>,
    op: &Op,
) -> Vec<Answered<osd::Response>> {
    let mut asked = JoinSet::new();
    for osd in osds {
        let (link, osd, op) = (open(admin, osd), osd.clone(), op.clone());
        asked.spawn(async move {
            let answer = ask_link(&link, object, op).await;
            (osd, answer)
        });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(osd, _)| osd.id);
    answers
}

/// Says which server did not answer, and why.
pub(crate) fn silent(osd: &Osd, error: &CallError) -> String {
    let text = error.to_string();
    match text.contains(&osd.address) {
        true => format!("osd {}: {text}", osd.id),
        false => format!("osd {} ({}): {text}", osd.id, osd.address),
    }
}

fn open(admin: &Admin, osd: &Osd) -> std::sync::Arc<Link> {
    Link::open(
        admin.identity().clone(),
        ServiceKind::Osd,
        osd.address.clone(),
        LinkOptions::default(),
    )
}

async fn ask_link(
    link: &Link,
    object: Option<osd::ObjectRef>,
    op: Op,
) -> Result<osd::Response, CallError> {
    let request = osd::Request {
        object,
        op: Some(op),
        ..osd::Request::default()
    };
    let (response, _) = link
        .call::<_, osd::Response>(&request, Payload::none(), ANSWER_TIMEOUT)
        .await?;
    Ok(response)
}
