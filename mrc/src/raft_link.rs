//! Raft's messages over links: the calling side.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use proto::raft::request::Op;
use proto::raft::{
    Append, CheckpointBegin, CheckpointEnd, CheckpointPart, PreVote, Request, Response,
    TransferLeader,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shell::link::{CallError, Identity, Link, LinkOptions, Payload, ServiceKind};
use tokio::sync::oneshot;

use crate::checkpoint;
use crate::config::{
    APPEND_TIMEOUT, APPENDS_IN_FLIGHT_MAX, CHECKPOINT_INSTALL_TIMEOUT, CHECKPOINT_PART_TIMEOUT,
};
use crate::consensus::{CheckpointMeta, LogId, Member, TypeConfig, Vote};
use crate::log_writer::lock;
use crate::slowness::APPEND_LATELY;
use crate::state_machine::{Checkpoint, Snapshot};

type Rpc = RPCError<TypeConfig>;

/// Links to the other members, one per address.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    identity: Identity,
    /// Where members were found that are not where the membership says, by number.
    moved: Arc<Mutex<BTreeMap<u64, String>>>,
    links: Arc<Mutex<BTreeMap<String, Arc<Link>>>>,
    /// When each member last answered that it has stored entries, and how long that took, by number.
    appends: Arc<Mutex<BTreeMap<u64, (Instant, Duration)>>>,
}

impl Peers {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            moved: Arc::default(),
            links: Arc::default(),
            appends: Arc::default(),
        }
    }

    /// Where a member is reached.
    pub(crate) fn address(&self, number: u64, member: &Member) -> String {
        let moved = lock(&self.moved).get(&number).cloned();
        moved.unwrap_or_else(|| member.address.clone())
    }

    /// A member was found here.
    pub(crate) fn reached(&self, number: u64, address: &str) {
        lock(&self.moved).insert(number, address.to_owned());
    }

    /// A member took this long to store entries; `None` if it did not.
    fn appended(&self, number: u64, took: Option<Duration>) {
        let mut appends = lock(&self.appends);
        match took {
            Some(took) => appends.insert(number, (Instant::now(), took)),
            None => appends.remove(&number),
        };
    }

    /// How long a member took to store the newest entries it was sent, if it did lately.
    pub(crate) fn append_time(&self, number: u64) -> Option<Duration> {
        let (at, took) = lock(&self.appends).get(&number).copied()?;
        (at.elapsed() < APPEND_LATELY).then_some(took)
    }

    /// Lets go of links to addresses that are no member's any more, and not configured.
    pub(crate) fn keep<'a>(
        &self,
        members: impl Iterator<Item = (u64, &'a Member)>,
        configured: impl Iterator<Item = &'a String>,
    ) {
        let members: BTreeMap<u64, &Member> = members.collect();
        lock(&self.moved).retain(|number, _| members.contains_key(number));
        lock(&self.appends).retain(|number, _| members.contains_key(number));
        let mut used: BTreeSet<String> = configured.cloned().collect();
        for (number, member) in members {
            used.insert(member.address.clone());
            used.insert(self.address(number, member));
        }
        lock(&self.links).retain(|address, _| used.contains(address));
    }

    /// The link to an address. Those of nobody are let go of by [`keep`](Self::keep).
    pub(crate) fn link(&self, address: &str) -> Arc<Link> {
        let mut links = lock(&self.links);
        let link = links.entry(address.to_owned()).or_insert_with(|| {
            Link::open(
                self.identity.clone(),
                ServiceKind::Raft,
                address.to_owned(),
                LinkOptions::default(),
            )
        });
        Arc::clone(link)
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Member) -> Peer {
        Peer {
            target,
            member: node.clone(),
            peers: self.clone(),
        }
    }
}

/// One other member.
#[derive(Debug)]
pub(crate) struct Peer {
    target: u64,
    member: Member,
    peers: Peers,
}

impl Peer {
    fn link(&self) -> Arc<Link> {
        let address = self.peers.address(self.target, &self.member);
        self.peers.link(&address)
    }

    async fn call<A: DeserializeOwned>(
        &self,
        op: Op,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<A, Rpc> {
        let payload = encode(body)?;
        let request = Request {
            target: self.target,
            op: Some(op),
        };
        let answer: Result<(Response, Payload), CallError> =
            self.link().call(&request, payload, timeout).await;
        decode(answer.map_err(|error| refused(&error))?.1)
    }

    fn send_append(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
    ) -> Result<oneshot::Receiver<Result<Bytes, Rpc>>, Rpc> {
        let payload = encode(request)?;
        let (answer, answered) = oneshot::channel();
        let message = Request {
            target: self.target,
            op: Some(Op::Append(Append {})),
        };
        let stored = (!request.entries.is_empty()).then(|| (self.peers.clone(), Instant::now()));
        let target = self.target;
        self.link()
            .send(&message, payload, APPEND_TIMEOUT, move |outcome| {
                if let Some((peers, sent)) = stored {
                    peers.appended(target, outcome.is_ok().then(|| sent.elapsed()));
                }
                let outcome = match outcome {
                    Ok((_, payload)) => payload.verified().map_err(|fault| broken(&fault.message)),
                    Err(error) => Err(refused(&error)),
                };
                let _gone = answer.send(outcome);
            });
        Ok(answered)
    }

    async fn send_checkpoint(
        &self,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<TypeConfig>, Rpc> {
        let entries = match snapshot.snapshot {
            Checkpoint::Live(entries) => entries,
            Checkpoint::Received(received) => {
                Box::new(checkpoint::read(&received).map_err(|error| broken(&error.to_string()))?)
            }
        };
        let transfer = crate::draw();
        let begin = Op::CheckpointBegin(CheckpointBegin { transfer });
        let head: (Vote, CheckpointMeta) = (vote, snapshot.meta);
        let _ready: () = self.call(begin, &head, CHECKPOINT_PART_TIMEOUT).await?;
        let mut next = checkpoint::parts(entries);
        let (mut parts, mut crc32c) = (0, 0);
        loop {
            // Reading a part may wait for the disk.
            let read = tokio::task::spawn_blocking(move || (next(), next));
            let (part, rest) = read
                .await
                .map_err(|_| broken("the index engine panicked"))?;
            next = rest;
            let Some(part) = part.map_err(|error| broken(&error.to_string()))? else {
                break;
            };
            crc32c = crc32c::crc32c_append(crc32c, &part);
            let request = Request {
                target: self.target,
                op: Some(Op::CheckpointPart(CheckpointPart {
                    transfer,
                    number: parts,
                })),
            };
            let sent: Result<(Response, Payload), CallError> = self
                .link()
                .call(&request, Payload::of(part), CHECKPOINT_PART_TIMEOUT)
                .await;
            sent.map_err(|error| refused(&error))?;
            parts += 1;
        }
        let end = Op::CheckpointEnd(CheckpointEnd {
            transfer,
            parts,
            crc32c,
        });
        self.call(end, &(), CHECKPOINT_INSTALL_TIMEOUT).await
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Checkpoint;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Rpc> {
        self.call(Op::Append(Append {}), &rpc, APPEND_TIMEOUT).await
    }

    /// Several requests at once: a link keeps their order, and the member handles them in order.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> futures::future::BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, Rpc>>, Rpc>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let pipeline = Pipeline {
            peer: self,
            input: Some(input),
            waiting: VecDeque::new(),
        };
        let answers = stream::unfold(Some(pipeline), |pipeline| async {
            let mut pipeline = pipeline?;
            let answer = pipeline.next().await?;
            let goes_on = matches!(answer, Ok((_, true)));
            Some((
                answer.map(|(result, _)| result),
                goes_on.then_some(pipeline),
            ))
        });
        async move { Ok(answers.boxed()) }.boxed()
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Rpc> {
        self.call(Op::Vote(proto::raft::Vote {}), &rpc, option.soft_ttl())
            .await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Rpc> {
        self.call(Op::PreVote(PreVote {}), &rpc, option.soft_ttl())
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_checkpoint(vote, snapshot) => Ok(sent.map_err(|error| match error {
                RPCError::Timeout(error) => StreamingError::Timeout(error),
                RPCError::Unreachable(error) => StreamingError::Unreachable(error),
                RPCError::Network(error) => StreamingError::Network(error),
                RPCError::RemoteError(error) => {
                    StreamingError::Network(NetworkError::from_string(error))
                }
            })?),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Rpc> {
        self.call(
            Op::TransferLeader(TransferLeader {}),
            &req,
            option.soft_ttl(),
        )
        .await
    }
}

/// Requests of one stream that wait for answers, oldest first.
struct Pipeline<'a, S> {
    peer: &'a Peer,
    /// `None`: it has ended.
    input: Option<S>,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    previous: Option<LogId>,
    last: Option<LogId>,
    answer: oneshot::Receiver<Result<Bytes, Rpc>>,
}

impl<S> Pipeline<'_, S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    /// The next answer and whether the stream goes on after it; `None` at its end.
    async fn next(&mut self) -> Option<Result<(StreamAppendResult<TypeConfig>, bool), Rpc>> {
        loop {
            let room = self.waiting.len() < APPENDS_IN_FLIGHT_MAX;
            let input = self.input.as_mut().filter(|_| room);
            let request = match (input, self.waiting.front_mut()) {
                (None, None) => return None,
                (Some(input), None) => input.next().await,
                (None, Some(waiting)) => {
                    let answer = (&mut waiting.answer).await;
                    return self.answered(answer);
                }
                (Some(input), Some(waiting)) => tokio::select! {
                    biased;
                    answer = &mut waiting.answer => return self.answered(answer),
                    request = input.next() => request,
                },
            };
            let Some(request) = request else {
                self.input = None;
                continue;
            };
            let previous = request.prev_log_id;
            let last = request
                .entries
                .last()
                .map(|entry| entry.log_id)
                .or(previous);
            match self.peer.send_append(&request) {
                Ok(answer) => self.waiting.push_back(Waiting {
                    previous,
                    last,
                    answer,
                }),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn answered(
        &mut self,
        answer: Result<Result<Bytes, Rpc>, oneshot::error::RecvError>,
    ) -> Option<Result<(StreamAppendResult<TypeConfig>, bool), Rpc>> {
        let waiting = self.waiting.pop_front()?;
        let response = answer
            .unwrap_or_else(|_| Err(broken("the link was closed")))
            .and_then(|bytes| parse::<AppendEntriesResponse<TypeConfig>>(&bytes));
        Some(response.map(|response| {
            let goes_on = match &response {
                AppendEntriesResponse::Success => true,
                // The member took only the first of the entries; those behind them must be resent.
                AppendEntriesResponse::PartialSuccess(upto) => *upto == waiting.last,
                AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => false,
            };
            (
                response.into_stream_result(waiting.previous, waiting.last),
                goes_on,
            )
        }))
    }
}

pub(crate) fn encode(body: &impl Serialize) -> Result<Payload, Rpc> {
    match postcard::to_stdvec(body) {
        Ok(bytes) => Ok(Payload::of(bytes.into())),
        Err(error) => Err(broken(&error.to_string())),
    }
}

fn decode<A: DeserializeOwned>(payload: Payload) -> Result<A, Rpc> {
    let bytes = payload.verified().map_err(|fault| broken(&fault.message))?;
    parse(&bytes)
}

fn parse<A: DeserializeOwned>(bytes: &[u8]) -> Result<A, Rpc> {
    postcard::from_bytes(bytes).map_err(|error| broken(&error.to_string()))
}

/// The member is not there: Raft waits before it tries again.
fn refused(error: &CallError) -> Rpc {
    match error {
        CallError::Disconnected(_) | CallError::Refused(_) | CallError::Fault(_) => {
            RPCError::Unreachable(Unreachable::from_string(error))
        }
        // Busy or frozen; also what a later variant most likely means.
        _ => RPCError::Network(NetworkError::from_string(error)),
    }
}

fn broken(reason: &str) -> Rpc {
    RPCError::Network(NetworkError::from_string(reason))
}
