//! A cluster of lease servers: processes of this program, told what to do over their input.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command as Program, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::control::{Command, Said, Totals};
use benches::process::Guarded;

/// How long a server may take to answer a command.
const PATIENCE: Duration = Duration::from_secs(60);

/// One server.
#[derive(Debug)]
struct Node {
    process: Guarded,
    input: ChildStdin,
    said: Receiver<Said>,
    address: String,
    incarnation: u64,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    ttl: Duration,
    threads: usize,
}

impl Cluster {
    /// Starts the servers and waits until all talk to each other.
    pub(crate) fn start(members: usize, ttl: Duration, threads: usize) -> Result<Self> {
        let start = |id| Node::start(id, members, ttl, 1, threads);
        let nodes = (1..=members).map(start).collect::<Result<_>>()?;
        let mut cluster = Self {
            nodes,
            ttl,
            threads,
        };
        cluster.introduce()?;
        Ok(cluster)
    }

    pub(crate) fn members(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.process.pid()).collect()
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    /// Tells one server.
    pub(crate) fn tell(&mut self, at: usize, command: &Command) -> Result<()> {
        self.node(at)?.tell(command)
    }

    /// Tells all servers and waits until all are done.
    pub(crate) fn all(&mut self, command: impl Fn(usize) -> Command) -> Result<()> {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            node.tell(&command(at))?;
        }
        let mut nodes = self.nodes.iter();
        nodes.try_for_each(|node| node.done(PATIENCE))
    }

    /// Waits for the next word of one server.
    pub(crate) fn hear(&mut self, at: usize, patience: Duration) -> Result<Option<Said>> {
        self.node(at)?.hear(patience)
    }

    /// Waits until one server has done what it was told.
    pub(crate) fn done(&mut self, at: usize, patience: Duration) -> Result<()> {
        self.node(at)?.done(patience)
    }

    /// Sum of the counters of all servers.
    pub(crate) fn read(&mut self) -> Result<Totals> {
        for node in &mut self.nodes {
            node.tell(&Command::Read)?;
        }
        let mut sum = Totals::default();
        for node in &self.nodes {
            match node.hear(PATIENCE)? {
                Some(Said::Totals(totals)) => sum.merge(&totals),
                other => bail!("lease server answered {other:?} instead of its counters"),
            }
        }
        Ok(sum)
    }

    /// kill -9 of one server.
    pub(crate) fn kill(&mut self, at: usize) -> Result<()> {
        self.node(at)?.process.kill();
        Ok(())
    }

    pub(crate) fn freeze(&mut self, at: usize) -> Result<()> {
        self.node(at)?.process.freeze()
    }

    /// Starts a killed or frozen server again and waits until all talk to each other.
    pub(crate) fn restart(&mut self, at: usize) -> Result<()> {
        let (members, ttl, threads) = (self.nodes.len(), self.ttl, self.threads);
        let node = self.node(at)?;
        node.process.kill();
        *node = Node::start(at + 1, members, ttl, node.incarnation + 1, threads)?;
        self.introduce()
    }

    fn introduce(&mut self) -> Result<()> {
        let addresses: Vec<(u64, String)> = (1..).zip(self.addresses()).collect();
        self.all(|_| Command::Peers {
            addresses: addresses.clone(),
        })
    }

    fn node(&mut self, at: usize) -> Result<&mut Node> {
        self.nodes.get_mut(at).context("no such lease server")
    }
}

impl Node {
    fn start(
        id: usize,
        members: usize,
        ttl: Duration,
        incarnation: u64,
        threads: usize,
    ) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut child = Program::new(program)
            .arg("node")
            .args(["--id", &id.to_string()])
            .args(["--members", &members.to_string()])
            .args(["--ttl-ms", &ttl.as_millis().to_string()])
            .args(["--incarnation", &incarnation.to_string()])
            .args(["--threads", &threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a lease server")?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let process = Guarded::new(child);
        let input = input.context("a lease server without input")?;
        let output = output.context("a lease server without output")?;
        let (sender, said) = channel();
        std::thread::spawn(move || listen(BufReader::new(output), &sender));
        let mut node = Self {
            process,
            input,
            said,
            address: String::new(),
            incarnation,
        };
        match node.hear(PATIENCE)? {
            Some(Said::Listening { address }) => node.address = address,
            other => bail!("lease server said {other:?} instead of where it listens"),
        }
        Ok(node)
    }

    fn tell(&mut self, command: &Command) -> Result<()> {
        let mut line = serde_json::to_string(command)?;
        line.push('\n');
        self.input
            .write_all(line.as_bytes())
            .context("a lease server ended")
    }

    fn hear(&self, patience: Duration) -> Result<Option<Said>> {
        match self.said.recv_timeout(patience) {
            Ok(said) => Ok(Some(said)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(anyhow!("a lease server ended")),
        }
    }

    /// What is said in between is passed over.
    fn done(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            match self.hear(deadline.saturating_duration_since(Instant::now()))? {
                Some(Said::Done) => return Ok(()),
                Some(_) => {}
                None => bail!("a lease server did not do as told within {patience:?}"),
            }
        }
    }
}

/// Passes on what a server says, until it ends.
fn listen(output: impl BufRead, sender: &Sender<Said>) {
    for line in output.lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(said) => {
                if sender.send(said).is_err() {
                    return;
                }
            }
            Err(_) => eprintln!("lease server: {line}"),
        }
    }
}
