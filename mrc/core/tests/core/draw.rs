//! Drawing random changes, together with what the model says to them.

use std::collections::BTreeMap;

use mrc_core::{S_IFCHR, S_IFIFO, S_IFSOCK};
use proto::index::command::Op;
use proto::mrc;

use crate::cluster::*;
use crate::model::{Answer, Kind};
use crate::prop_namespace::Run;

/// SplitMix64: small, and its output is fixed for all times, so a seed stays a test case.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

/// What the model says: an errno, or the inode whose attributes the reply must show.
pub(crate) type Expected = Answer<Option<u64>>;

impl Run {
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
    pub(crate) fn inode(&mut self) -> u64 {
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
    pub(crate) fn draw(&mut self, session: u64) -> (Op, Expected) {
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
                let length =
                    *self
                        .random
                        .pick(&[0, 10, types::FILE_BYTES_MAX, types::FILE_BYTES_MAX + 1]);
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
        let known = self.model.nodes.get(&inode);
        let known = known.map_or(0, |node| node.truncations);
        // Sometimes from before a truncation.
        let truncate_epoch = known.saturating_sub(u64::from(self.random.one_in(4)));
        let expected = self.model.written(
            inode,
            (end, truncate_epoch),
            mtime_ns,
            close.then_some(session),
        );
        let op = Op::Written(mrc::Written {
            inode,
            size_at_least_bytes: end,
            mtime_ns,
            close,
            stays_open: false,
            truncate_epoch,
        });
        (op, expected.map(|()| Some(inode)))
    }
}
