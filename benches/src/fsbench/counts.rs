//! What operations cost besides time: messages of the mount, syncs of the whole machine.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// What is counted, if anything is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counting {
    /// Where the mount serves its numbers, `IP:PORT`.
    pub(crate) metrics: Option<String>,
    /// With perf(1), which needs root and the kernel's tracepoints.
    pub(crate) syncs: bool,
}

/// Since a row began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Messages the mount sent to servers. One worker's are round trips: it waits for each answer.
    pub(crate) messages: Option<u64>,
    /// Calls of fsync(2), fdatasync(2) and syncfs(2) of all processes, the measuring one included.
    pub(crate) syncs: Option<u64>,
}

/// A row under way.
pub(crate) struct Running {
    counting: Counting,
    messages_before: Option<u64>,
    perf: Option<(Child, PathBuf)>,
}

impl Counting {
    pub(crate) fn start(&self) -> Result<Running> {
        let perf = if self.syncs { Some(perf()?) } else { None };
        let messages_before = self.messages()?;
        Ok(Running {
            counting: self.clone(),
            messages_before,
            perf,
        })
    }

    fn messages(&self) -> Result<Option<u64>> {
        let Some(address) = &self.metrics else {
            return Ok(None);
        };
        let mut stream = TcpStream::connect(address).with_context(|| address.clone())?;
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let values = text
            .lines()
            .filter(|line| line.starts_with("oxfs_client_messages_total"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Ok(Some(values.sum()))
    }
}

impl Running {
    pub(crate) fn stop(self) -> Result<Counts> {
        let messages = match (self.counting.messages()?, self.messages_before) {
            (Some(after), Some(before)) => Some(after.saturating_sub(before)),
            _ => None,
        };
        let syncs = match self.perf {
            Some((child, file)) => Some(perf_counts(child, &file)?),
            None => None,
        };
        Ok(Counts { messages, syncs })
    }
}

/// Counts until its input ends. It counts once its command runs, which says so by echoing a line.
fn perf() -> Result<(Child, PathBuf)> {
    let file = std::env::temp_dir().join(format!("fsbench-perf-{}", std::process::id()));
    let mut command = Command::new("perf");
    command.args(["stat", "-a", "-x", ",", "-o"]).arg(&file);
    for call in ["fsync", "fdatasync", "syncfs"] {
        command.args(["-e", &format!("syscalls:sys_enter_{call}")]);
    }
    let mut child = command
        .args(["--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("perf(1) is needed to count syncs; install linux-perf")?;
    let (Some(input), Some(output)) = (&mut child.stdin, &mut child.stdout) else {
        bail!("perf(1) has no input or output");
    };
    input.write_all(b"\n").context("perf(1) ended at once")?;
    let read = output.read(&mut [0])?;
    ensure!(
        read == 1,
        "perf(1) counts nothing; it needs root and tracefs"
    );
    Ok((child, file))
}

fn perf_counts(mut child: Child, file: &PathBuf) -> Result<u64> {
    drop(child.stdin.take());
    child.wait()?;
    let text = fs::read_to_string(file).context("what perf(1) wrote")?;
    fs::remove_file(file)?;
    let counts = text
        .lines()
        .filter(|line| line.contains("sys_enter_"))
        .filter_map(|line| line.split(',').next()?.parse::<u64>().ok());
    Ok(counts.sum())
}
