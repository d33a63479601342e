//! The reference tree: what each name is, and what each change of it must have answered.

use std::collections::{BTreeMap, BTreeSet};

use proto::index::command::Op;
use proto::mrc::response::Reply;

/// What a change answered, as far as it matters: an inode (0: none), or an errno.
pub(crate) type Told = Result<u64, i32>;

const ENOENT: i32 = 2;
const EAGAIN: i32 = 11;
const EEXIST: i32 = 17;
const EPROTO: i32 = 71;
const ESTALE: i32 = super::shell::ESTALE;

/// The tree.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) names: BTreeMap<Vec<u8>, u64>,
    /// Files that are not removed; orphans are among them.
    pub(crate) files: BTreeSet<u64>,
    pub(crate) removed: BTreeSet<u64>,
    /// What was answered when each change was done first.
    done: BTreeMap<u64, Told>,
}

pub(crate) fn told(reply: &mrc_core::Reply) -> Told {
    match reply {
        Err(fault) => Err(fault.errno),
        Ok(response) => match &response.reply {
            Some(Reply::Opened(opened)) => Ok(opened.attr.map_or(0, |attr| attr.inode)),
            Some(Reply::Entry(entry)) => Ok(entry.attr.map_or(0, |attr| attr.inode)),
            _ => Ok(0),
        },
    }
}

impl Names {
    pub(crate) fn is_linked(&self, inode: u64) -> bool {
        self.names.values().any(|linked| *linked == inode)
    }

    /// A change of the log was applied. Checks the answer, and that nothing is done twice.
    pub(crate) fn applied(
        &mut self,
        change: u64,
        op: &Op,
        reply: &mrc_core::Reply,
    ) -> Result<(), String> {
        // A mount finds the session it opened, unless that has ended since.
        if matches!(op, Op::OpenSession(_)) {
            return Ok(());
        }
        let told = told(reply);
        if let Some(first) = self.done.get(&change) {
            // EPROTO: a copy so late that its slot has gone on; nobody waits for its answer.
            return match *first == told || told == Err(EPROTO) {
                true => Ok(()),
                false => Err(format!(
                    "change {change} was answered {first:?}, and repeated {told:?}: {op:?}"
                )),
            };
        }
        let right = self.change(op, told);
        self.done.insert(change, told);
        match right == told {
            true => Ok(()),
            false => Err(format!("{op:?} answers {told:?} instead of {right:?}")),
        }
    }

    /// A mount was answered. It must be what the log did.
    pub(crate) fn answered(&self, change: u64, reply: &mrc_core::Reply) -> Result<(), String> {
        let told = told(reply);
        match self.done.get(&change) {
            Some(done) if *done == told => Ok(()),
            done => Err(format!(
                "change {change} is answered {told:?}, but the log did {done:?}"
            )),
        }
    }

    fn change(&mut self, op: &Op, told: Told) -> Told {
        let known = |files: &BTreeSet<u64>, inode: u64| match files.contains(&inode) {
            true => Ok(inode),
            false => Err(ESTALE),
        };
        match op {
            Op::Create(op) => {
                if self.names.contains_key(&op.name[..]) {
                    return Err(EEXIST);
                }
                // Its number is the core's choice, but a new one.
                let inode = told.unwrap_or(0);
                if inode == 0 || self.files.contains(&inode) || self.removed.contains(&inode) {
                    return Err(0);
                }
                self.names.insert(op.name.to_vec(), inode);
                self.files.insert(inode);
                Ok(inode)
            }
            Op::Unlink(op) => match self.names.remove(&op.name[..]) {
                Some(_) => Ok(0),
                None => Err(ENOENT),
            },
            Op::Rename(op) => {
                let Some(inode) = self.names.get(&op.name[..]).copied() else {
                    return Err(ENOENT);
                };
                self.names.remove(&op.name[..]);
                self.names.insert(op.new_name.to_vec(), inode);
                Ok(0)
            }
            Op::OpenWrite(op) => known(&self.files, op.inode),
            // The core's choice: the file was truncated meanwhile.
            Op::Written(op) if self.files.contains(&op.inode) && told == Err(EAGAIN) => told,
            Op::Written(op) => known(&self.files, op.inode),
            Op::SetAttr(op) => known(&self.files, op.inode),
            _ => told,
        }
    }

    /// Inodes that are no more.
    pub(crate) fn reaped(&mut self, inode: u64) -> Result<(), String> {
        if self.is_linked(inode) {
            return Err(format!("inode {inode} is removed though it has a name"));
        }
        self.files.remove(&inode);
        self.removed.insert(inode);
        Ok(())
    }
}
