//! This server's part in Raft: proposing, knowing whether it may answer reads, who leads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mrc_core::Reply;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::ClientWriteError;
use openraft::raft::ReadPolicy;
use openraft::{Instant as _, Raft, ServerState, SnapshotPolicy};
use prost::Message as _;
use proto::index::Command;
use proto::index::command::Op;
use shell::metrics::{self, Metric};
use tokio::sync::watch;
use types::{Fault, Remedy, UnixNanos};

use crate::config::{Config, PROPOSAL_BYTES_MAX, PROPOSALS_IN_FLIGHT_MAX, READ_INDEX_TIMEOUT};
use crate::consensus::{Answer, LeaderId, Member, Proposal, TypeConfig};
use crate::index_buffer::BufferedIndex;
use crate::log_store::LogStore;
use crate::log_writer::lock;
use crate::raft_link::Peers;
use crate::slowness::Slowness;
use crate::state_machine::StateMachine;

/// Raft over this server's log and index.
pub(crate) type MrcRaft = Raft<TypeConfig, StateMachine>;

/// How Raft works.
pub(crate) fn raft_config(config: &Config) -> Result<openraft::Config, openraft::ConfigError> {
    openraft::Config {
        cluster_name: config.cluster.clone(),
        heartbeat_interval: config.heartbeat_ms,
        // A follower stands for election when the lease and then this time have passed.
        election_timeout_min: config.election_ms / 2,
        election_timeout_max: config.election_ms,
        enable_pre_vote: Some(true),
        // A leader that restarts would go on in the same term, with an index that lacks what it had
        // applied and answered before: a new term shows when all of that is applied again.
        enable_leader_restore: Some(false),
        // Elections begin when a lease from before a restart has certainly ended.
        enable_elect: false,
        max_payload_entries: 4096,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.checkpoint_entries),
        max_in_snapshot_log_to_keep: config.log_keep_entries,
        purge_batch_size: (config.log_keep_entries / 8).max(1),
        // A follower gets a checkpoint when the entries it needs are gone, not before.
        replication_lag_threshold: u64::MAX,
        install_snapshot_timeout: 60_000,
        backoff: "20ms 50ms 100ms ..500ms".to_owned(),
        ..openraft::Config::default()
    }
    .validate()
}

/// What the rest of the server asks of Raft.
pub(crate) struct Node {
    pub raft: MrcRaft,
    pub log: LogStore,
    pub machine: StateMachine,
    pub peers: Peers,
    pub me: Member,
    lease: Duration,
    in_flight: Arc<AtomicUsize>,
    /// Proposals that were refused because too many waited.
    refused: AtomicU64,
    last_time: AtomicI64,
    sleep: Sleep,
    /// A membership change is in progress.
    pub admitting: Arc<AtomicBool>,
    /// Names the log with which this server was a voter.
    voter_file: PathBuf,
    voted: AtomicBool,
    /// Why this server is no member any more: it was removed or replaced.
    pub removed: watch::Sender<Option<String>>,
    /// The leadership that this server has begun to hand over: from then on others may be elected
    /// although they promised a lease. And to whom it was offered last.
    handed_over: Mutex<Option<(LeaderId, u64)>>,
    /// The newest leadership of this server, and since when it was seen.
    leads: Mutex<Option<(LeaderId, Instant)>>,
    /// How slow this server's disk is.
    pub slowness: Mutex<Slowness>,
    /// How often this server gave up the lead because of its disk.
    pub leads_given_up: AtomicU64,
}

/// Counts one proposal until it is answered or dropped.
struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a read can't be answered at once.
#[derive(Debug)]
pub(crate) enum NotNow {
    /// Leader, but its lease must be proved first: [`Node::prove`].
    Unproved,
    /// Someone else leads.
    Elsewhere(Fault),
}

impl Node {
    /// Puts them together.
    pub(crate) fn new(
        raft: MrcRaft,
        log: LogStore,
        machine: StateMachine,
        peers: Peers,
        config: &Config,
    ) -> Arc<Self> {
        let voter_file = config.dir.join("voter");
        let noted = std::fs::read(&voter_file).unwrap_or_default();
        let voted = noted == voter_number(log.number()).as_bytes();
        let addresses = config.addresses();
        let address = addresses.get(&config.id).cloned();
        let address = address.unwrap_or_else(|| config.listen.to_string());
        Arc::new(Self {
            log,
            machine,
            me: Member {
                id: config.id,
                address,
            },
            lease: config.lease(),
            in_flight: Arc::default(),
            refused: AtomicU64::new(0),
            last_time: AtomicI64::new(0),
            admitting: Arc::default(),
            removed: watch::Sender::new(None),
            voted: AtomicBool::new(voted),
            voter_file,
            handed_over: Mutex::new(None),
            leads: Mutex::new(None),
            slowness: Mutex::default(),
            leads_given_up: AtomicU64::new(0),
            sleep: Sleep::new(),
            peers,
            raft,
        })
    }

    pub(crate) fn index(&self) -> &Arc<BufferedIndex> {
        self.machine.index()
    }

    /// How long the leader's lease lasts.
    pub(crate) const fn lease(&self) -> Duration {
        self.lease
    }

    /// The wall clock, but never the same or an earlier time than before.
    pub(crate) fn now(&self) -> UnixNanos {
        let wall = shell::clock::wall().0;
        let before = self.last_time.fetch_max(wall, Ordering::Relaxed);
        if before < wall {
            return UnixNanos(wall);
        }
        UnixNanos(self.last_time.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// The leadership under which this server may answer reads now, without asking anybody.
    ///
    /// A follower refuses to vote for another leader for the length of the lease after it heard
    /// from this one, so while a majority was heard from less than a lease ago nobody else has
    /// been elected. Everything committed before this leadership is applied once an entry of this
    /// leadership is.
    pub(crate) fn leading(&self) -> Result<LeaderId, NotNow> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.vote.leader_id;
        if metrics.state != ServerState::Leader || leader.node_id != metrics.id {
            let current = metrics.current_leader.and_then(|number| {
                let membership = metrics.membership_config.membership();
                membership.get_node(&number).map(|member| (number, member))
            });
            return Err(NotNow::Elsewhere(match current {
                Some((number, member)) if number != metrics.id => {
                    redirect(&self.peers.address(number, member))
                }
                _ => no_leader(),
            }));
        }
        // While it hands over the lead it takes no changes any more, and when another leads it may hear of
        // that late: to note a vote it needs its disk, which may be why.
        let offered = lock(&self.handed_over).filter(|(given_up, _)| *given_up == leader);
        if let Some((_, to)) = offered {
            let membership = metrics.membership_config.membership();
            let successor = membership.get_node(&to);
            return Err(NotNow::Elsewhere(match successor {
                Some(member) => redirect(&self.peers.address(to, member)),
                None => no_leader(),
            }));
        }
        let mut voters = metrics
            .membership_config
            .membership()
            .get_joint_config()
            .iter();
        let alone = voters.all(|voters| voters.len() == 1);
        // A tenth less than the followers grant, for clocks that differ in rate.
        let fresh = metrics
            .last_quorum_acked
            .is_some_and(|acked| acked.elapsed() < self.lease.mul_f64(0.9));
        drop(metrics);
        let trusted = alone || (fresh && !self.sleep.happened_within(self.lease));
        if !trusted || self.machine.applied().map(|id| id.leader_id) != Some(leader) {
            return Err(NotNow::Unproved);
        }
        Ok(leader)
    }

    /// Asks a majority whether this server still leads, and waits until everything is applied.
    pub(crate) async fn prove(&self) -> Result<LeaderId, Fault> {
        let proved = async {
            let linearizer = self
                .raft
                .get_read_linearizer(ReadPolicy::ReadIndex)
                .await
                .map_err(|_| no_leader())?;
            linearizer
                .await_ready(&self.raft)
                .await
                .map_err(|_| no_leader())?;
            // An entry of this leadership is applied now, the newest of all.
            self.machine
                .applied()
                .map(|id| id.leader_id)
                .ok_or_else(no_leader)
        };
        tokio::time::timeout(READ_INDEX_TIMEOUT, proved)
            .await
            .unwrap_or_else(|_| Err(no_leader()))
    }

    /// Proposes a command; `on_reply` runs where it is applied, once, or never if Raft stops.
    pub(crate) fn propose(&self, command: &Command, on_reply: impl FnOnce(Reply) + Send + 'static) {
        let counted = InFlight(Arc::clone(&self.in_flight));
        let earlier = self.in_flight.fetch_add(1, Ordering::Relaxed);
        if earlier >= PROPOSALS_IN_FLIGHT_MAX {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return on_reply(Err(Fault::retry(format!(
                "{earlier} changes wait to be logged; the metadata server is overloaded"
            ))));
        }
        let bytes = Bytes::from(command.encode_to_vec());
        if bytes.len() > PROPOSAL_BYTES_MAX {
            return on_reply(Err(Fault::surface(
                libc::E2BIG,
                format!("a request of {} bytes is too long", bytes.len()),
            )));
        }
        let peers = self.peers.clone();
        let answer = Answer::new(
            move |result: openraft::raft::ClientWriteResult<TypeConfig>| {
                drop(counted);
                on_reply(match result {
                    Ok(written) => written.data.0,
                    Err(ClientWriteError::ForwardToLeader(forward)) => {
                        Err(match (forward.leader_id, &forward.leader_node) {
                            (Some(number), Some(member)) => {
                                redirect(&peers.address(number, member))
                            }
                            _ => no_leader(),
                        })
                    }
                    Err(error) => Err(Fault::retry(error.to_string())),
                });
            },
        );
        let raft = self.raft.clone();
        start(async move {
            // Fails only when Raft has ended.
            let _stopped = raft.client_write_ff(Proposal(bytes), Some(answer)).await;
        });
    }

    /// The queue of proposals, for collectors.
    pub(crate) fn proposals(&self) -> [Metric; 3] {
        let waiting = self.in_flight.load(Ordering::Relaxed) as u64;
        let refused = self.refused.load(Ordering::Relaxed);
        metrics::queue(
            "proposals",
            waiting,
            PROPOSALS_IN_FLIGHT_MAX as u64,
            refused,
        )
    }

    /// Proposes what no session asked and waits for the answer.
    pub(crate) async fn propose_internal(&self, op: Op) -> Reply {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.propose(&mrc_core::internal(op, self.now()), move |reply| {
            let _gone = answer.send(reply);
        });
        answered.await.unwrap_or_else(|_| Err(no_leader()))
    }

    /// leader, follower, learner, candidate. A server is a follower when majorities are counted
    /// with it and no longer with the one it replaces: then another may fail.
    pub(crate) fn state(&self) -> &'static str {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.committed_membership_config.membership();
        let mut configs = membership.get_joint_config().iter();
        let leader = metrics.vote.leader_id;
        let gave_up = lock(&self.handed_over).is_some_and(|(given_up, _)| given_up == leader);
        match metrics.state {
            // It may not have heard yet of the one that does.
            ServerState::Leader if gave_up => "follower",
            ServerState::Leader => "leader",
            ServerState::Candidate => "candidate",
            ServerState::Follower if configs.all(|config| config.contains(&metrics.id)) => {
                "follower"
            }
            ServerState::Follower | ServerState::Learner | ServerState::Shutdown => "learner",
        }
    }

    /// Number and address of the member that leads, as far as this server knows.
    pub(crate) fn leader(&self) -> Option<(Member, String)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let number = metrics.current_leader?;
        let member = membership.get_node(&number)?;
        Some((member.clone(), self.peers.address(number, member)))
    }

    /// Voters and learners by number, as this server's log has them.
    pub(crate) fn members(&self) -> BTreeMap<u64, Member> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.membership().nodes();
        nodes.map(|(number, it)| (*number, it.clone())).collect()
    }

    /// Where each server is reached that can lead, in order.
    pub(crate) fn voter_addresses(&self) -> Vec<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let addresses = membership.voter_ids().filter_map(|number| {
            let member = membership.get_node(&number)?;
            Some(self.peers.address(number, member))
        });
        let addresses: BTreeSet<String> = addresses.collect();
        addresses.into_iter().collect()
    }

    /// This server is a voter as far as its log goes.
    pub(crate) fn is_voter(&self) -> bool {
        let number = self.log.number();
        self.raft.voter_ids().any(|voter| voter == number)
    }

    /// This server has never been a voter: it may become a member although its log is not empty.
    pub(crate) fn is_fresh(&self) -> bool {
        !self.voted.load(Ordering::Relaxed) && !self.is_voter()
    }

    /// Remembers for good that this server is a voter.
    pub(crate) fn note_voter(&self) -> std::io::Result<()> {
        if !self.voted.load(Ordering::Relaxed) {
            let number = voter_number(self.log.number());
            shell::statedir::replace_file(&self.voter_file, number.as_bytes())?;
            self.voted.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// For how long this server has been seen to lead.
    pub(crate) fn leads_for(&self, leader: LeaderId) -> Duration {
        let mut leads = lock(&self.leads);
        match *leads {
            Some((id, since)) if id == leader => since.elapsed(),
            _ => leads.insert((leader, Instant::now())).1.elapsed(),
        }
    }

    /// Has another voter lead. From before that on this server's lease counts for nothing: those who
    /// gave it are told that they may elect the other.
    pub(crate) async fn hand_over(&self, leader: LeaderId, to: u64) -> Result<(), Fault> {
        *lock(&self.handed_over) = Some((leader, to));
        let handed = self.raft.trigger().transfer_leader(to).await;
        handed.map_err(|error| Fault::retry(error.to_string()))
    }
}

fn voter_number(number: u64) -> String {
    format!("{number:016x}\n")
}

/// Starts work that begins by putting something into a queue, which there is room for but for a
/// moment: it is in the queue when this returns, and a task only waits for the rest, if any.
pub(crate) fn start(work: impl Future<Output = ()> + Send + 'static) {
    // Else the runtime could ask for a pause in front of the queue.
    let mut work = Box::pin(tokio::task::unconstrained(work));
    let mut nobody = Context::from_waker(Waker::noop());
    if work.as_mut().poll(&mut nobody).is_pending() {
        tokio::spawn(work);
    }
}

/// The caller should ask the leader.
pub(crate) fn redirect(address: &str) -> Fault {
    Fault {
        hint: Some(address.to_owned()),
        ..Fault::new(
            Remedy::Redirect,
            libc::EAGAIN,
            format!("another metadata server leads: {address}"),
        )
    }
}

pub(crate) fn no_leader() -> Fault {
    Fault::retry("the metadata servers are electing a leader")
}

/// When a member that restarts may vote and stand for election: what it promised a leader before
/// it went down lasts no longer than a lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    until: Instant,
}

impl Silence {
    pub(crate) fn after_restart(lease: Duration) -> Self {
        // A tenth more, for clocks that differ in rate.
        Self {
            until: Instant::now() + lease.mul_f64(1.1),
        }
    }

    pub(crate) fn none() -> Self {
        Self {
            until: Instant::now(),
        }
    }

    pub(crate) fn is_over(self) -> bool {
        Instant::now() >= self.until
    }

    pub(crate) async fn over(self) {
        tokio::time::sleep_until(self.until.into()).await;
    }
}

/// Notices that the machine was suspended: Raft's clock stood still then, the others' did not.
#[derive(Debug)]
struct Sleep {
    started: Instant,
    /// By how many nanoseconds the clock that counts suspension is ahead of the other.
    ahead: AtomicU64,
    /// When it was last seen to jump, in nanoseconds since `started`; 0 for never.
    jumped: AtomicU64,
}

/// Less than this between the two clocks is the time between reading them.
const JUMP_NANOS: u64 = 20_000_000;

impl Sleep {
    fn new() -> Self {
        let started = Instant::now();
        Self {
            started,
            ahead: AtomicU64::new(shell::clock::boottime().as_nanos()),
            jumped: AtomicU64::new(0),
        }
    }

    fn happened_within(&self, time: Duration) -> bool {
        let boottime = shell::clock::boottime().as_nanos();
        let running = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.look(boottime.saturating_sub(running), running, time)
    }

    fn look(&self, ahead: u64, running: u64, time: Duration) -> bool {
        let before = self.ahead.fetch_max(ahead, Ordering::Relaxed);
        if ahead > before.saturating_add(JUMP_NANOS) {
            self.jumped.store(running.max(1), Ordering::Relaxed);
        }
        match self.jumped.load(Ordering::Relaxed) {
            0 => false,
            jumped => u128::from(running.saturating_sub(jumped)) < time.as_nanos(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspension_is_noticed_for_the_length_of_a_lease_and_drift_is_not() {
        let lease = Duration::from_nanos(500);
        let sleep = Sleep {
            started: Instant::now(),
            ahead: AtomicU64::new(1_000),
            jumped: AtomicU64::new(0),
        };

        assert!(!sleep.look(1_000 + JUMP_NANOS / 2, 10, lease));
        assert!(!sleep.look(1_000 + JUMP_NANOS, 20, lease));
        assert!(sleep.look(1_001 + 3 * JUMP_NANOS, 30, lease));
        assert!(sleep.look(1_001 + 3 * JUMP_NANOS, 529, lease));
        assert!(!sleep.look(1_001 + 3 * JUMP_NANOS, 530, lease));
    }

    #[test]
    fn clocks_of_this_machine_run_together() {
        assert!(!Sleep::new().happened_within(Duration::from_secs(3600)));
    }
}
