//! Requests of one MiB, as object servers send them to each other, with every wire option.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use nix::sys::resource::{UsageWho, getrusage};
use shell::link::{Checksum, Compression, Link, Payload, WireOptions};
use tests::{Cable, with_link};

/// Requests under way at once: enough to keep both ends busy.
const AT_ONCE: u32 = 8;

/// Bytes of a request's payload.
const PAYLOAD_BYTES: usize = 1 << 20;

/// Longer than any request takes.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

pub(crate) fn run(mib: u32) -> Result<()> {
    println!("data     compression  checksum  bytes sent per byte  CPU of both ends [ms/MiB]");
    let samples = [
        ("text", text()?),
        ("zeros", vec![0; PAYLOAD_BYTES]),
        ("random", random()),
    ];
    for (name, bytes) in samples {
        let bytes = Bytes::from(bytes);
        for compression in Compression::ALL {
            row(name, &bytes, compression, Checksum::Crc32c, mib)?;
        }
        for checksum in [Checksum::Sha256, Checksum::None] {
            row(name, &bytes, Compression::None, checksum, mib)?;
        }
    }
    Ok(())
}

fn row(
    name: &str,
    bytes: &Bytes,
    compression: Compression,
    checksum: Checksum,
    mib: u32,
) -> Result<()> {
    let options = WireOptions {
        compression,
        checksum,
        ..WireOptions::default()
    };
    let bytes = bytes.clone();
    let (sent, cpu) = with_link(options, async move |_: &Cable, link: &Link| {
        // The first attempts to connect may fail: a new network has to find its machines.
        while send(link, &bytes, AT_ONCE).await.is_err() {}
        let (sent, cpu) = (sent_bytes()?, cpu_seconds()?);
        send(link, &bytes, mib).await?;
        Ok((sent_bytes()? - sent, cpu_seconds()? - cpu))
    })?;
    let mib = f64::from(mib);
    #[expect(clippy::cast_precision_loss, reason = "a ratio with three digits")]
    let ratio = sent as f64 / (mib * 1_048_576.0);
    println!(
        "{name:<9}{:<13}{:<10}{ratio:>19.3}{:>27.2}",
        compression.name(),
        checksum.name(),
        cpu * 1000.0 / mib
    );
    Ok(())
}

/// Sends so many payloads; nothing comes back but the answers' bodies.
async fn send(link: &Link, bytes: &Bytes, count: u32) -> Result<()> {
    let mut left = count;
    while left > 0 {
        let now = left.min(AT_ONCE);
        let mut answers = Vec::new();
        for _ in 0..now {
            // With its checksum, which object servers get from the client and pass on.
            let payload = Payload::of(bytes.clone());
            let (answer, answered) = tokio::sync::oneshot::channel();
            link.send(&1_u64, payload, PATIENCE, move |outcome| {
                drop(answer.send(outcome.map(|_| ())));
            });
            answers.push(answered);
        }
        for answered in answers {
            answered.await??;
        }
        left -= now;
    }
    Ok(())
}

/// Bytes that this thread's end of the cable has sent.
fn sent_bytes() -> Result<u64> {
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = table
        .lines()
        .find_map(|line| line.trim().strip_prefix("eth0:"));
    let line = line.context("no eth0")?;
    let sent = line.split_whitespace().nth(8).context("no column")?;
    Ok(sent.parse()?)
}

/// CPU time of this process.
fn cpu_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes")]
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// The first MiB of this workspace's sources: text with as much order as logs and mail have.
fn text() -> Result<Vec<u8>> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..")];
    let mut text = Vec::new();
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        entries.sort();
        for path in entries {
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                text.extend(fs::read(path)?);
            }
        }
    }
    anyhow::ensure!(text.len() >= PAYLOAD_BYTES, "the sources are not there");
    text.truncate(PAYLOAD_BYTES);
    Ok(text)
}

/// A xorshift sequence (Marsaglia 2003).
fn random() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(PAYLOAD_BYTES);
    while bytes.len() < PAYLOAD_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes
}
