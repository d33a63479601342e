//! Links through a network that is cut for a while: they are of use again soon after its end.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use shell::link::{Link, Payload, RESUME_MAX, WireOptions};
use tests::{Cable, Cut, End, with_link};

/// How long a request may take, as one of a mount to a metadata server.
const PATIENCE: Duration = Duration::from_secs(1);

/// Longer than anything here takes; a test that reaches it failed.
const LONG: Duration = Duration::from_secs(30);

/// Between two requests that failed at once.
const PAUSE: Duration = Duration::from_millis(10);

async fn ask(link: &Link, patience: Duration) -> bool {
    let payload = Payload::of(Bytes::from_static(&[7; 4096]));
    let answer = link.call::<u64, u64>(&0, payload, patience).await;
    if answer.is_err() {
        tokio::time::sleep(PAUSE).await;
    }
    answer.is_ok()
}

/// Asks again and again until an answer comes.
async fn answered(link: &Link, limit: Duration) -> Result<()> {
    let asking = async { while !ask(link, PATIENCE).await {} };
    let answered = tokio::time::timeout(limit, asking).await.is_ok();
    ensure!(answered, "no answer within {limit:?}");
    Ok(())
}

/// Uses a link during a cut and after it. TCP by itself sends again 3 s and 6.2 s after the first
/// time, so that a cut that ends in between costs seconds.
fn resumes_after(cut: Cut) -> Result<()> {
    with_link(
        WireOptions::default(),
        async move |cable: &Cable, link: &Link| {
            answered(link, LONG).await?;

            cable.cut(cut)?;
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(3300) {
                ensure!(!ask(link, PATIENCE).await, "the cut cuts nothing");
            }
            cable.mend()?;

            answered(link, RESUME_MAX).await
        },
    )
}

#[test]
fn link_resumes_soon_after_a_cut_of_both_directions() -> Result<()> {
    resumes_after(Cut::Both)
}

#[test]
fn link_resumes_soon_after_its_requests_were_not_heard() -> Result<()> {
    resumes_after(Cut::Deaf(End::Left))
}

#[test]
fn link_resumes_soon_after_its_answers_were_not_heard() -> Result<()> {
    resumes_after(Cut::Deaf(End::Right))
}
