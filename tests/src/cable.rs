//! Two network namespaces joined by a cable that can be cut, in one direction or both.

use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};

/// An end of a cable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The one.
    Left,
    /// The other.
    Right,
}

/// What does not get through a cable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cut {
    /// Nothing gets through.
    Both,
    /// This end hears nothing; what it says is heard.
    Deaf(End),
    /// So many of 100 packets are lost, in each direction.
    Loss(u8),
}

/// The namespaces end with it, once the threads in them have.
#[derive(Debug)]
pub struct Cable {
    left: File,
    right: File,
}

impl Cable {
    /// Makes the namespaces; needs root, `ip` and `nft`.
    ///
    /// # Errors
    ///
    /// What the kernel or a tool said.
    pub fn new() -> Result<Self> {
        let cable = Self {
            left: namespace()?,
            right: namespace()?,
        };
        let other = path(&cable.right);
        cable.run(
            End::Left,
            &format!("ip link add eth0 type veth peer name eth0 netns {other}"),
        )?;
        for end in [End::Left, End::Right] {
            let address = cable.address(end);
            cable.run(end, &format!("ip addr add {address}/24 dev eth0"))?;
            cable.run(end, "ip link set eth0 up")?;
            cable.run(end, "ip link set lo up")?;
            cable.filter(
                end,
                "add table ip cable\n\
                 add chain ip cable in { type filter hook input priority 0; }\n",
            )?;
        }
        Ok(cable)
    }

    /// Address of an end.
    #[must_use]
    pub const fn address(&self, end: End) -> IpAddr {
        let last = match end {
            End::Left => 1,
            End::Right => 2,
        };
        IpAddr::V4(std::net::Ipv4Addr::new(10, 78, 0, last))
    }

    /// Moves the calling thread to an end, for good.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn enter(&self, end: End) -> Result<()> {
        setns(self.namespace(end), CloneFlags::CLONE_NEWNET).context("setns")
    }

    /// Cuts it, instead of what was cut before.
    ///
    /// # Errors
    ///
    /// What `nft` said.
    pub fn cut(&self, cut: Cut) -> Result<()> {
        for end in [End::Left, End::Right] {
            // Where packets arrive: a drop on the way out would be told to the sender, which no
            // network does.
            let rule = match cut {
                Cut::Deaf(deaf) if deaf != end => String::new(),
                Cut::Both | Cut::Deaf(_) => "add rule ip cable in iifname eth0 drop\n".to_owned(),
                Cut::Loss(percent) => format!(
                    "add rule ip cable in iifname eth0 numgen random mod 100 < {percent} drop\n"
                ),
            };
            self.filter(end, &format!("flush chain ip cable in\n{rule}"))?;
        }
        Ok(())
    }

    /// Mends it.
    ///
    /// # Errors
    ///
    /// What `nft` said.
    pub fn mend(&self) -> Result<()> {
        for end in [End::Left, End::Right] {
            self.filter(end, "flush chain ip cable in\n")?;
        }
        Ok(())
    }

    const fn namespace(&self, end: End) -> &File {
        match end {
            End::Left => &self.left,
            End::Right => &self.right,
        }
    }

    fn filter(&self, end: End, script: &str) -> Result<()> {
        self.fed(end, "nft -f -", script)
    }

    fn run(&self, end: End, line: &str) -> Result<()> {
        self.fed(end, line, "")
    }

    fn fed(&self, end: End, line: &str, input: &str) -> Result<()> {
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", path(self.namespace(end))))
            .args(line.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("nsenter")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "`{line}`: {}: {}; namespaces need root, and the packages iproute2 and nftables",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

/// Where other processes find a namespace that only we hold open.
fn path(namespace: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())
}

/// A new network namespace, which lives as long as it is open.
fn namespace() -> Result<File> {
    let made = std::thread::spawn(|| -> Result<File> {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace can't be made")?;
        Ok(File::open("/proc/thread-self/ns/net")?)
    });
    made.join().map_err(|_| anyhow!("a thread panicked"))?
}
