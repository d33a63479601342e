//! Random commands against the model: the same answers, the same tree, a consistent index.

use std::collections::BTreeMap;

use mrc_core::{Index, MemoryIndex, Overlay, S_IFCHR, S_IFIFO, S_IFSOCK, apply, errno};
use proto::index::command::Op;
use proto::index::{Command, ExpireSession, ForgetSession, Reap, SettleSize};
use proto::mrc::{self, Attr, request, response};

use crate::cluster::*;
use crate::model::{Answer, Kind, Model};

/// SplitMix64: small, and its output is fixed for all times, so a seed stays a test case.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

/// Both worlds and where the next command comes from.
struct Run {
    random: Random,
    cluster: Cluster,
    model: Model,
    sessions: Vec<u64>,
    /// The newest command of each slot and its answer.
    newest: BTreeMap<(u64, u32), (Command, mrc_core::Reply)>,
    next_nonce: u64,
}

/// What the model says: an errno, or the inode whose attributes the reply must show.
type Expected = Answer<Option<u64>>;

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

    fn name(&mut self) -> Vec<u8> {
        if self.random.one_in(40) {
            let odd: [&[u8]; 6] = [b"", b".", b"..", b"a/b", b"\0", &[b'n'; 256]];
            return self.random.pick(&odd).to_vec();
        }
        // Few names, so that most commands meet something.
        self.random
            .pick(&[&b"a"[..], b"b", b"c", b"d", b"\xff"])
            .to_vec()
    }

    /// An inode: mostly a live one, now and then one that never was.
    fn inode(&mut self) -> u64 {
        if self.random.one_in(50) {
            return 1_000_000;
        }
        let ids: Vec<u64> = self.model.nodes.keys().copied().collect();
        *self.random.pick(&ids)
    }

    fn directory(&mut self) -> u64 {
        let directories: Vec<u64> = self
            .model
            .nodes
            .iter()
            .filter(|(_, node)| node.is_directory())
            .map(|(id, _)| *id)
            .collect();
        if self.random.one_in(15) {
            return self.inode();
        }
        *self.random.pick(&directories)
    }

    /// Draws a change, with what the model says to it at time `now`.
    fn draw(&mut self, session: u64) -> (Op, Expected) {
        match self.random.below(100) {
            0..20 => self.draw_create(session),
            20..38 => self.draw_make(),
            38..44 => self.draw_link(),
            44..62 => self.draw_remove(),
            62..80 => self.draw_rename(),
            80..88 => self.draw_attributes(),
            88..94 => self.draw_xattr(),
            _ => self.draw_writer(session),
        }
    }

    fn draw_create(&mut self, session: u64) -> (Op, Expected) {
        let (parent, text) = (self.directory(), self.name());
        let (exclusive, write) = (self.random.one_in(2), self.random.one_in(2));
        let writer = write.then_some(session);
        let owner = (OWNER.uid, OWNER.gid);
        let made = self.model.create(parent, &text, exclusive, writer, owner);
        let op = Op::Create(mrc::Create {
            parent,
            name: name(&text),
            mode: 0o640,
            owner: Some(OWNER),
            exclusive,
            write,
        });
        (op, made.map(|(id, _)| Some(id)))
    }

    fn draw_make(&mut self) -> (Op, Expected) {
        let (parent, text) = (self.directory(), self.name());
        let owner = (OWNER.uid, OWNER.gid);
        let (op, kind, mode) = match self.random.below(6) {
            0 => {
                let length = *self.random.pick(&[0, 1, 20, 4095, 4096]);
                let target = vec![b't'; length];
                let op = Op::Symlink(mrc::Symlink {
                    parent,
                    name: name(&text),
                    target: name(&target),
                    owner: Some(OWNER),
                });
                (op, Kind::Symlink { target }, 0o777)
            }
            1 => {
                let kind = *self.random.pick(&[S_IFIFO, S_IFSOCK, S_IFCHR]);
                let op = Op::MkNod(mrc::MkNod {
                    parent,
                    name: name(&text),
                    mode: kind | 0o600,
                    rdev: 77,
                    owner: Some(OWNER),
                });
                let rdev = if kind == S_IFCHR { 77 } else { 0 };
                (op, Kind::Special { kind, rdev }, 0o600)
            }
            _ => {
                let op = Op::MkDir(mrc::MkDir {
                    parent,
                    name: name(&text),
                    mode: 0o750,
                    owner: Some(OWNER),
                });
                let kind = Kind::Directory {
                    entries: BTreeMap::new(),
                    parent,
                    removed: false,
                };
                (op, kind, 0o750)
            }
        };
        let made = self.model.make(parent, &text, kind, mode, owner);
        (op, made.map(Some))
    }

    fn draw_link(&mut self) -> (Op, Expected) {
        let (inode, parent, text) = (self.inode(), self.directory(), self.name());
        let op = Op::Link(mrc::Link {
            inode,
            parent,
            name: name(&text),
        });
        (
            op,
            self.model.link(inode, parent, &text).map(|()| Some(inode)),
        )
    }

    fn draw_remove(&mut self) -> (Op, Expected) {
        let (parent, text) = (self.directory(), self.name());
        let directory = self.random.one_in(2);
        let expected = self.model.remove(parent, &text, directory);
        let name = name(&text);
        let op = if directory {
            Op::RmDir(mrc::RmDir { parent, name })
        } else {
            Op::Unlink(mrc::Unlink { parent, name })
        };
        (op, expected.map(|()| None))
    }

    fn draw_rename(&mut self) -> (Op, Expected) {
        let (from, to) = (
            (self.directory(), self.name()),
            (self.directory(), self.name()),
        );
        let (no_replace, exchange) = (self.random.one_in(5), self.random.one_in(4));
        let expected = self
            .model
            .rename((from.0, &from.1), (to.0, &to.1), no_replace, exchange);
        let op = Op::Rename(mrc::Rename {
            parent: from.0,
            name: name(&from.1),
            new_parent: to.0,
            new_name: name(&to.1),
            no_replace,
            exchange,
        });
        (op, expected.map(|()| None))
    }

    fn draw_attributes(&mut self) -> (Op, Expected) {
        let inode = self.inode();
        let mut op = mrc::SetAttr {
            inode,
            ..mrc::SetAttr::default()
        };
        let expected = match self.random.below(4) {
            0 => {
                let mode = *self.random.pick(&[0o2777, 0o6711, 0o4640, 0o644]);
                op.mode = Some(mode);
                self.model.chmod(inode, mode)
            }
            1 => {
                op.uid = self.random.one_in(2).then_some(5);
                op.gid = Some(6);
                self.model.chown(inode, op.uid, op.gid)
            }
            2 => {
                let length = *self.random.pick(&[0, 10, 1 << 62, 1 << 63]);
                op.size_bytes = Some(length);
                self.model.truncate(inode, length)
            }
            _ => {
                op.atime_ns = Some(-5);
                op.mtime_ns = self.random.one_in(2).then_some(5);
                op.mtime_now = op.mtime_ns.is_none();
                self.model.utimes(inode, -5, op.mtime_ns)
            }
        };
        (Op::SetAttr(op), expected.map(|()| Some(inode)))
    }

    fn draw_xattr(&mut self) -> (Op, Expected) {
        let inode = self.inode();
        let text = *self.random.pick(&["user.a", "user.b", "trusted.c"]);
        if self.random.one_in(3) {
            let op = Op::RemoveXattr(mrc::RemoveXattr {
                inode,
                name: name(text),
            });
            let expected = self.model.remove_xattr(inode, text.as_bytes());
            return (op, expected.map(|()| None));
        }
        let value = vec![b'v'; self.random.below(30) as usize];
        let (create, replace) = (self.random.one_in(4), self.random.one_in(4));
        let op = Op::SetXattr(mrc::SetXattr {
            create,
            replace,
            ..set_xattr(inode, text, &value)
        });
        let expected = self
            .model
            .set_xattr(inode, text.as_bytes(), &value, create, replace);
        (op, expected.map(|()| None))
    }

    fn draw_writer(&mut self, session: u64) -> (Op, Expected) {
        let inode = self.inode();
        if self.random.one_in(2) {
            let op = Op::OpenWrite(mrc::OpenWrite { inode });
            let expected = self.model.open_write(inode, session);
            return (op, expected.map(|()| Some(inode)));
        }
        let end = self.random.below(10_000);
        let mtime_ns = self.random.one_in(2).then_some(12_345);
        let close = self.random.one_in(2);
        let expected = self
            .model
            .written(inode, end, mtime_ns, close.then_some(session));
        let op = Op::Written(mrc::Written {
            inode,
            size_at_least_bytes: end,
            mtime_ns,
            close,
        });
        (op, expected.map(|()| Some(inode)))
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..4 => self.repeat(),
            4..7 => self.reap(),
            7 if self.random.one_in(4) => self.replace_session(),
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
        assert_eq!(self.cluster.apply(command).reply, reply);
        assert_eq!(self.cluster.entries(), before);
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
            .internal(Op::ForgetSession(ForgetSession { session }))
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
        };
        assert_eq!(*attr, expected);
    }

    /// Compares everything there is, through the queries.
    fn compare(&self) {
        let counters = mrc_core::query::counters(&self.cluster.index, VOLUME);
        let inode_count = counters.unwrap().unwrap().inode_count;
        assert_eq!(inode_count, self.model.nodes.len() as u64);
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
