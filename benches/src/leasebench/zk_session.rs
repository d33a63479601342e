//! One ZooKeeper session: requests are pipelined, replies come in order.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::jute::{PING_XID, Reply, Writer, connected, reply, split};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two attempts to open a session.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// A session and its connection.
#[derive(Debug)]
pub(crate) struct Session {
    stream: TcpStream,
    inbound: BytesMut,
    /// What is to be sent with the next [`flush`](Self::flush).
    pub(crate) outbound: Writer,
    /// Session time that the server granted.
    pub(crate) timeout: Duration,
}

impl Session {
    /// Opens a session, as every client of ZooKeeper does: a server that just then follows another
    /// leader closes the connection, and is asked again until [`PATIENCE`] ends.
    pub(crate) async fn open(address: &str, timeout: Duration) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let attempt = tokio::time::timeout(PATIENCE, Self::try_open(address, timeout)).await;
            match attempt.context("ZooKeeper did not answer").flatten() {
                Ok(session) => return Ok(session),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
    }

    async fn try_open(address: &str, timeout: Duration) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| address.to_owned())?;
        stream.set_nodelay(true)?;
        let mut session = Self {
            stream,
            inbound: BytesMut::with_capacity(64 << 10),
            outbound: Writer::default(),
            timeout,
        };
        session
            .outbound
            .connect(i32::try_from(timeout.as_millis())?);
        session.flush().await?;
        loop {
            let mut rest = &*session.inbound;
            if let Some(message) = split(&mut rest)? {
                let granted = connected(message)?;
                let used = session.inbound.len() - rest.len();
                session.inbound.advance(used);
                if granted <= 0 {
                    bail!("{address} refused a session");
                }
                session.timeout = Duration::from_millis(u64::try_from(granted)?);
                return Ok(session);
            }
            session.read().await?;
        }
    }

    /// Sends what was written.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        if !self.outbound.bytes.is_empty() {
            self.stream.write_all(&self.outbound.bytes).await?;
            self.outbound.bytes.clear();
        }
        Ok(())
    }

    /// Waits for replies and gives all that are there. Pings are left out. Can be abandoned while
    /// it waits, without losing anything.
    pub(crate) async fn replies(&mut self, into: &mut Vec<Reply>) -> Result<()> {
        self.read().await?;
        let mut rest = &*self.inbound;
        while let Some(message) = split(&mut rest)? {
            let reply = reply(message)?;
            if reply.xid != PING_XID {
                into.push(reply);
            }
        }
        let used = self.inbound.len() - rest.len();
        self.inbound.advance(used);
        Ok(())
    }

    /// Creates an ephemeral node. False if there is one already.
    pub(crate) async fn create(&mut self, path: &str) -> Result<bool> {
        self.outbound.create(1, path);
        match self.answer().await? {
            0 => Ok(true),
            // NODEEXISTS.
            -110 => Ok(false),
            error => bail!("ZooKeeper refused to create {path}: {error}"),
        }
    }

    /// Deletes a node.
    pub(crate) async fn delete(&mut self, path: &str) -> Result<()> {
        self.outbound.delete(1, path);
        match self.answer().await? {
            0 => Ok(()),
            error => bail!("ZooKeeper refused to delete {path}: {error}"),
        }
    }

    /// Ends the session, so that its nodes go at once.
    pub(crate) async fn close(mut self) -> Result<()> {
        self.outbound.close(1);
        self.answer().await?;
        Ok(())
    }

    async fn answer(&mut self) -> Result<i32> {
        self.flush().await?;
        let mut replies = Vec::new();
        let wait = async {
            while replies.is_empty() {
                self.replies(&mut replies).await?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .context("ZooKeeper did not answer")??;
        replies.first().map(|reply| reply.error).context("no reply")
    }

    async fn read(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.inbound).await? == 0 {
            bail!("ZooKeeper ended the session");
        }
        Ok(())
    }
}
