//! A link through a cable that is cut: when is the first request answered after the cut's end?

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use shell::link::{Link, Payload, WireOptions};
use tests::{Cable, Cut, End, with_link};

/// How long a request may take before the next is made, as a mount does with metadata servers.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two requests that failed at once.
const PAUSE: Duration = Duration::from_millis(10);

/// Longer than any link needs.
const HOPELESS: Duration = Duration::from_secs(60);

/// For how long packets are lost.
const LOSSY: Duration = Duration::from_secs(30);

pub(crate) fn run(seconds: &[f64], loss: &[u8], repeat: u32) -> Result<()> {
    println!("cut                 length [s]  resumed after [ms]");
    let cuts = [
        ("both ways", Cut::Both),
        ("server is deaf", Cut::Deaf(End::Left)),
        ("caller is deaf", Cut::Deaf(End::Right)),
    ];
    for (name, cut) in cuts {
        for length in seconds {
            let resumed = (0..repeat)
                .map(|_| {
                    with_link(
                        WireOptions::default(),
                        async move |cable: &Cable, link: &Link| {
                            resumed(cable, link, cut, *length).await
                        },
                    )
                })
                .collect::<Result<Vec<_>>>()?;
            println!("{name:<20}{length:>10}  {}", milliseconds(&resumed));
        }
    }
    for percent in loss {
        let (mut longest, mut answered) = (Vec::new(), 0);
        for _ in 0..repeat {
            let (stall, count) = with_link(
                WireOptions::default(),
                async move |cable: &Cable, link: &Link| lossy(cable, link, *percent).await,
            )?;
            longest.push(stall);
            answered += count;
        }
        println!(
            "{percent} % lost for {} s: {} requests answered, longest stalls [ms] {}",
            LOSSY.as_secs(),
            answered / u64::from(repeat),
            milliseconds(&longest)
        );
    }
    Ok(())
}

fn milliseconds(times: &[Duration]) -> String {
    let texts: Vec<String> = times.iter().map(|it| it.as_millis().to_string()).collect();
    texts.join(", ")
}

async fn ask(link: &Link) -> bool {
    let payload = Payload::of(Bytes::from_static(&[7; 4096]));
    let answer = link.call::<u64, u64>(&0, payload, PATIENCE).await;
    if answer.is_err() {
        tokio::time::sleep(PAUSE).await;
    }
    answer.is_ok()
}

async fn resumed(cable: &Cable, link: &Link, cut: Cut, length: f64) -> Result<Duration> {
    while !ask(link).await {}
    cable.cut(cut)?;
    let cutting = Instant::now();
    let ends = cutting + Duration::from_secs_f64(length);
    while Instant::now() < ends {
        let left = ends.saturating_duration_since(Instant::now());
        let _ = tokio::time::timeout(left, ask(link)).await;
    }
    cable.mend()?;
    let mended = Instant::now();
    while !ask(link).await {
        anyhow::ensure!(mended.elapsed() < HOPELESS, "no answer for a minute");
    }
    Ok(mended.elapsed())
}

/// The longest time between two answers, and how many there were.
async fn lossy(cable: &Cable, link: &Link, percent: u8) -> Result<(Duration, u64)> {
    while !ask(link).await {}
    cable.cut(Cut::Loss(percent))?;
    let (mut longest, mut count) = (Duration::ZERO, 0);
    let begun = Instant::now();
    let mut last = begun;
    while begun.elapsed() < LOSSY {
        if ask(link).await {
            longest = longest.max(last.elapsed());
            last = Instant::now();
            count += 1;
        }
    }
    Ok((longest.max(last.elapsed()), count))
}
