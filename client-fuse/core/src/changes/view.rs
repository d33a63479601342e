//! What the rest of a mount must know of changes that are not settled.

use bytes::Bytes;

use super::{Change, Changes};
use crate::gather::Gather;

/// The content of a file as this mount has made it. Bytes that were asked for at one version are the
/// file's, as far as this mount is concerned, while the version is the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Version(u64);

impl Changes {
    /// The version of the content that the primary has, if every change of this mount is there: none
    /// while one is gathered or under way. It is another one after each change that was taken, and
    /// another one after the change settled.
    #[must_use]
    pub fn settled_version(&self) -> Option<Version> {
        let settled = self.gather.is_none() && !self.pending.iter().any(|p| p.change.alters());
        settled.then_some(Version(self.version))
    }

    /// Whether nothing was ever changed.
    #[must_use]
    pub const fn is_untouched(&self) -> bool {
        self.version == 0
    }

    /// All changes with smaller tokens are settled.
    #[must_use]
    pub fn settled_below(&self) -> u64 {
        self.pending.front().map_or(self.next_token, |p| p.token)
    }

    /// Bytes held here.
    #[must_use]
    pub fn buffered_bytes(&self) -> u64 {
        self.pending_bytes + self.gather.as_ref().map_or(0, Gather::len)
    }

    /// Whether a writer has to wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.pending_bytes >= self.limits.in_flight_bytes_max
    }

    /// Whether nothing is gathered or pending.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.gather.is_none() && self.pending.is_empty()
    }

    /// End of the furthest write that is not settled and that nobody waits for; 0 if there is none.
    #[must_use]
    pub fn pending_end(&self) -> u64 {
        let sent = self
            .pending
            .iter()
            .filter(|p| !p.awaited)
            .filter_map(|p| p.change.range())
            .map(|r| r.1)
            .max();
        sent.unwrap_or(0)
            .max(self.gather.as_ref().map_or(0, Gather::end))
    }

    /// Whether the range depends on something that is not settled.
    #[must_use]
    pub fn concerns(&self, offset: u64, length: u64) -> bool {
        let end = offset.saturating_add(length);
        let gathered = self
            .gather
            .as_ref()
            .is_some_and(|g| g.offset < end && offset < g.end());
        gathered
            || self
                .pending
                .iter()
                .any(|p| match (p.change.range(), &p.change) {
                    (Some(range), _) => range.0 < end && offset < range.1,
                    (None, Change::Sync) => false,
                    (None, _) => true,
                })
    }

    /// The bytes of a range, if they are all in the newest write that touches it and nobody waits for
    /// its outcome.
    #[must_use]
    pub fn peek(&self, offset: u64, length: u64) -> Option<Bytes> {
        let end = offset.checked_add(length)?;
        let within = |start: u64, bytes: &[u8]| {
            let from = usize::try_from(offset.checked_sub(start)?).ok()?;
            let to = usize::try_from(end.checked_sub(start)?).ok()?;
            bytes.get(from..to).map(|_| from..to)
        };
        if let Some(gather) = self.gather.as_ref()
            && gather.offset < end
            && offset < gather.end()
        {
            let range = within(gather.offset, gather.as_slice())?;
            return gather.as_slice().get(range).map(Bytes::copy_from_slice);
        }
        for pending in self.pending.iter().rev() {
            match &pending.change {
                Change::Write {
                    offset: start,
                    bytes,
                } => {
                    if *start < end && offset < start + bytes.len() as u64 {
                        if pending.awaited {
                            return None;
                        }
                        return within(*start, bytes).map(|range| bytes.slice(range));
                    }
                }
                Change::Sync => {}
                Change::Append { .. } | Change::Truncate { .. } => return None,
            }
        }
        None
    }
}
