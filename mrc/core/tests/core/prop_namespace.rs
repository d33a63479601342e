//! Random commands against the model: the same answers, the same tree, a consistent index.

use std::collections::BTreeMap;

use mrc_core::{Index, MemoryIndex, Overlay, apply, errno};
use proto::index::command::Op;
use proto::index::{Command, ExpireSession, Reap, SettleSize};
use proto::mrc::{self, Attr, request, response};

use crate::cluster::*;
use crate::draw::Random;
use crate::model::{Kind, Model};

/// Both worlds and where the next command comes from.
pub(crate) struct Run {
    pub(crate) random: Random,
    cluster: Cluster,
    pub(crate) model: Model,
    sessions: Vec<u64>,
    /// The newest command of each slot and its answer.
    newest: BTreeMap<(u64, u32), (Command, mrc_core::Reply)>,
    next_nonce: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let (mut cluster, first) = Cluster::new();
        let second = cluster.open_session(1);
        let root = cluster.attr(ROOT);
        Self {
            random: Random(seed),
            model: Model::new(root.mtime_ns, (OWNER.uid, OWNER.gid)),
            cluster,
            sessions: vec![first, second],
            newest: BTreeMap::new(),
            next_nonce: 1000,
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..4 => self.repeat(),
            4..7 => self.reap(),
            7 if self.random.one_in(4) => self.replace_session(),
            8 => self.change_quota(),
            _ => self.change(),
        }
    }

    fn change(&mut self) {
        let session = *self.random.pick(&self.sessions.clone());
        let slot = self.random.below(4) as u32;
        self.model.now = self.cluster.now + 1;
        let (op, expected) = self.draw(session);
        let command = self.cluster.command(session, slot, op);
        assert_eq!(command.time_ns, self.model.now);
        let answered = mrc_core::answered(&self.cluster.index, &command).unwrap();
        assert_eq!(answered, None);

        let reply = self.cluster.apply(command.clone()).reply;

        let got = errno::name(errno_of(&reply));
        match expected {
            Err(expected) => assert_eq!(got, expected, "{command:?}"),
            Ok(shown) => {
                assert_eq!(got, "OK", "{command:?}");
                if let Some(inode) = shown {
                    self.assert_shows(&attr_of(reply.clone()), inode);
                }
            }
        }
        self.newest.insert((session, slot), (command, reply));
    }

    /// A request that was answered is asked again, by whatever leader there is then.
    fn repeat(&mut self) {
        let known: Vec<_> = self.newest.values().cloned().collect();
        if known.is_empty() {
            return;
        }
        let (mut command, reply) = self.random.pick(&known).clone();
        let before = self.cluster.entries();
        command.time_ns += 1_000_000_000;
        let answered = mrc_core::answered(&self.cluster.index, &command).unwrap();
        assert_eq!(answered.as_ref(), Some(&reply));
        assert_eq!(self.cluster.apply(command).reply, reply);
        assert_eq!(self.cluster.entries(), before);
    }

    /// Allows about as many inodes as there are, or any number.
    fn change_quota(&mut self) {
        let near = self.model.used().1.saturating_sub(3) + self.random.below(10);
        let quota = if self.random.one_in(2) { near } else { 0 };
        self.cluster
            .internal(Op::VolumeSet(mrc::VolumeSet {
                name: "default".to_owned(),
                quota_files: Some(quota),
                ..mrc::VolumeSet::default()
            }))
            .reply
            .unwrap();
        self.model.quota_files = quota;
    }

    /// Reaps some inodes; of those only the collectable go.
    fn reap(&mut self) {
        let mut inodes = self.model.collectable();
        inodes.truncate(3);
        inodes.push(self.inode());
        self.cluster
            .internal(Op::Reap(Reap {
                volume: VOLUME.0,
                inodes: inodes.clone(),
            }))
            .reply
            .unwrap();
        let collectable = self.model.collectable();
        for inode in inodes {
            if collectable.contains(&inode) {
                self.model.nodes.remove(&inode);
            }
        }
    }

    /// A session expires, its files are settled, and another mount comes.
    fn replace_session(&mut self) {
        let at = self.random.below(self.sessions.len() as u64) as usize;
        let session = self.sessions[at];
        self.cluster
            .internal(Op::ExpireSession(ExpireSession { session }));
        for lost in mrc_core::janitor::lost_writers(&self.cluster.index, None)
            .unwrap()
            .found
        {
            assert_eq!(lost.session.0, session);
            assert!(self.model.writers.remove(&(lost.inode.0, session)));
            let op = Op::SettleSize(SettleSize {
                volume: VOLUME.0,
                inode: lost.inode.0,
                session,
                size_at_least_bytes: 7,
                truncate_epoch: self.cluster.attr(lost.inode.0).truncate_epoch,
            });
            self.cluster.internal(op).reply.unwrap();
            let now = self.cluster.now;
            let node = self.model.nodes.get_mut(&lost.inode.0).unwrap();
            if let Kind::File { size } = &mut node.kind
                && *size < 7
            {
                *size = 7;
                (node.mtime, node.ctime) = (now, now);
            }
        }
        self.cluster
            .internal(Op::ForgetSession(forget(session)))
            .reply
            .unwrap();
        assert!(
            self.model
                .writers
                .iter()
                .all(|(_, writer)| *writer != session)
        );
        self.newest.retain(|(of, _), _| *of != session);
        self.next_nonce += 1;
        self.sessions[at] = self.cluster.open_session(self.next_nonce);
    }

    fn assert_shows(&self, attr: &Attr, inode: u64) {
        let node = &self.model.nodes[&inode];
        let expected = Attr {
            inode,
            mode: node.mode(),
            uid: node.uid,
            gid: node.gid,
            nlink: self.model.nlink(inode),
            size_bytes: node.size(),
            atime_ns: node.atime,
            mtime_ns: node.mtime,
            ctime_ns: node.ctime,
            rdev: node.rdev(),
            // Only grows; how far is the core's affair.
            data_version: attr.data_version,
            truncate_epoch: node.truncations,
        };
        assert_eq!(*attr, expected);
    }

    /// Compares everything there is, through the queries.
    fn compare(&self) {
        let counters = mrc_core::query::counters(&self.cluster.index, VOLUME);
        let counters = counters.unwrap().unwrap();
        assert_eq!(counters.inode_count, self.model.nodes.len() as u64);
        let used = mrc_core::Use::of(&counters);
        assert_eq!((used.bytes, used.files), self.model.used());
        for (inode, node) in &self.model.nodes {
            self.assert_shows(&self.cluster.attr(*inode), *inode);
            match &node.kind {
                Kind::Directory {
                    entries, parent, ..
                } => {
                    let listed: BTreeMap<Vec<u8>, u64> = self
                        .cluster
                        .list(*inode, false)
                        .into_iter()
                        .map(|entry| (entry.name.to_vec(), entry.inode))
                        .collect();
                    assert_eq!(listed, *entries, "entries of {inode}");
                    let up = attr_of(self.cluster.ask(&lookup(*inode, "..")));
                    assert_eq!(up.inode, *parent);
                }
                Kind::Symlink { target } => {
                    let op = request::Op::ReadLink(mrc::ReadLink { inode: *inode });
                    let bytes = mrc::Bytes {
                        bytes: name(target),
                    };
                    assert_eq!(
                        self.cluster.ask(&op).unwrap().reply,
                        Some(response::Reply::Bytes(bytes))
                    );
                }
                Kind::File { .. } | Kind::Special { .. } => {}
            }
            let op = request::Op::ListXattr(mrc::ListXattr { inode: *inode });
            let names = mrc::Names {
                names: node.xattrs.keys().map(name).collect(),
            };
            assert_eq!(
                self.cluster.ask(&op).unwrap().reply,
                Some(response::Reply::Names(names))
            );
            for (text, value) in &node.xattrs {
                let op = request::Op::GetXattr(mrc::GetXattr {
                    inode: *inode,
                    name: name(text),
                });
                let bytes = mrc::Bytes { bytes: name(value) };
                assert_eq!(
                    self.cluster.ask(&op).unwrap().reply,
                    Some(response::Reply::Bytes(bytes))
                );
            }
        }
        self.cluster.assert_consistent();
    }
}

/// A cluster after some random commands, with one session that goes on.
pub(crate) fn random_cluster(seed: u64, steps: u32) -> (Cluster, u64) {
    let mut run = Run::new(seed);
    for _ in 0..steps {
        run.step();
    }
    let session = run.cluster.open_session(4_242);
    (run.cluster, session)
}

/// Replays a log with `batch` commands per batch of the engine.
fn replay(log: &[Command], batch: usize) -> MemoryIndex {
    let index = MemoryIndex::new();
    for commands in log.chunks(batch) {
        let mut overlay = Overlay::new();
        for command in commands {
            apply(&index, &mut overlay, command).unwrap();
        }
        index.apply(overlay.into_batch()).unwrap();
    }
    index
}

#[test]
fn prop_random_commands_do_what_the_model_does() {
    for seed in 0..60 {
        // The seed is in the output of a failure.
        println!("seed {seed}");
        compare_with_the_model(seed);
    }
}

pub(crate) fn compare_with_the_model(seed: u64) {
    let mut run = Run::new(seed);
    for step in 0..600 {
        run.step();
        if step % 100 == 99 {
            run.compare();
        }
    }
    let collectable: usize = run.model.collectable().len();
    let found = mrc_core::janitor::orphans(&run.cluster.index, None).unwrap();
    assert!(found.len() >= collectable);
}

/// Invariant C-1, and that the borders of batches do not matter.
#[test]
fn prop_replaying_a_log_gives_the_same_bytes_in_any_batches() {
    for seed in 100..110 {
        println!("seed {seed}");
        let mut run = Run::new(seed);
        for _ in 0..400 {
            run.step();
        }

        let expected = run.cluster.entries();

        for batch in [1, 7, 64, usize::MAX] {
            assert_eq!(
                entries(&replay(&run.cluster.log, batch)),
                expected,
                "batches of {batch}"
            );
        }
    }
}
