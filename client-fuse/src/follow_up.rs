//! Attributes the kernel asks for again at once.
//!
//! Walking a path, the kernel asks for names and then, because it may keep nothing, for the
//! attributes of what it has just found, to check permissions. A question for attributes that the
//! same thread was told no longer than [`AGE_MAX`] ago, with nothing but such questions in between,
//! belongs to the same call of the program, or to one that follows it at once: what was true then
//! answers it.

use std::time::{Duration, Instant};

use dashmap::DashMap;
use proto::mrc::Attr;

/// 300 us: the kernel takes some ten microseconds for the step to its next question; a thread that
/// was not scheduled asks anew. No change of another mount is committed and heard of that fast.
const AGE_MAX: Duration = Duration::from_micros(300);

/// Inodes remembered per thread. 4: both directories of a rename and what they name.
const INODES_MAX: usize = 4;

/// Threads remembered. 4,096, some 2 MiB; those that ended are forgotten all together.
const THREADS_MAX: usize = 4_096;

/// What each thread was told last.
#[derive(Debug, Default)]
pub(crate) struct FollowUps {
    told: DashMap<u32, Vec<(Attr, Instant)>>,
}

impl FollowUps {
    /// `thread` is about to be told these attributes.
    pub(crate) fn told(&self, thread: u32, attr: Attr) {
        if self.told.len() >= THREADS_MAX {
            self.told.clear();
        }
        let mut told = self.told.entry(thread).or_default();
        told.retain(|(other, _)| other.inode != attr.inode);
        if told.len() >= INODES_MAX {
            told.remove(0);
        }
        told.push((attr, Instant::now()));
    }

    /// `thread` asks for attributes; returns them if they were among what it was just told.
    pub(crate) fn asks(&self, thread: u32, inode: u64) -> Option<Attr> {
        let told = self.told.get(&thread)?;
        told.iter()
            .find(|(attr, when)| attr.inode == inode && when.elapsed() <= AGE_MAX)
            .map(|(attr, _)| *attr)
    }

    /// `thread` does something else, after which attributes may be others.
    pub(crate) fn forget(&self, thread: u32) {
        if let Some(mut told) = self.told.get_mut(&thread) {
            told.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(inode: u64) -> Attr {
        Attr {
            inode,
            ..Attr::default()
        }
    }

    #[test]
    fn threads_are_not_told_what_others_asked() {
        let follow_ups = FollowUps::default();
        follow_ups.told(1, attr(10));

        assert_eq!(follow_ups.asks(2, 10), None);
        assert_eq!(follow_ups.asks(1, 11), None);
    }

    #[test]
    fn nothing_is_repeated_after_something_else_was_done() {
        let follow_ups = FollowUps::default();
        follow_ups.told(1, attr(10));

        follow_ups.forget(1);

        assert_eq!(follow_ups.asks(1, 10), None);
    }

    #[test]
    fn memory_of_threads_and_inodes_is_bounded() {
        let follow_ups = FollowUps::default();

        for thread in 0..3 * THREADS_MAX as u32 {
            follow_ups.told(thread, attr(1));
        }
        for inode in 0..100 {
            follow_ups.told(7, attr(inode));
        }

        assert!(follow_ups.told.len() <= THREADS_MAX);
        assert_eq!(
            follow_ups.told.get(&7).map(|told| told.len()),
            Some(INODES_MAX)
        );
    }
}
