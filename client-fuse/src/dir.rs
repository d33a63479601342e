//! Open directories: listings read page by page, with offsets that stay valid.
//!
//! An offset is an entry's number in the order of the listing: 0 is ".", 1 is "..", the others
//! follow by name. Pages are remembered by the name they begin after, so seeking back reads the
//! page again instead of keeping all of it.

use std::sync::Arc;

use bytes::Bytes;
use proto::mrc;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;

use crate::config::LIST_PAGE;
use crate::errno::Errno;
use crate::names::MISFIT;
use crate::oxfs::OxFs;

/// An entry of a listing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DirItem {
    /// Its name.
    pub name: Bytes,
    /// Its inode.
    pub inode: u64,
    /// Type bits of its mode.
    pub kind: u32,
    /// Offset at which the listing continues after it.
    pub next_offset: u64,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Dir {
    inode: u64,
    listing: tokio::sync::Mutex<Listing>,
}

#[derive(Debug, Default)]
struct Listing {
    /// Number of the first entry of each page known and the name it begins after.
    pages: Vec<(u64, Bytes)>,
    current: Option<Page>,
    parent: u64,
}

#[derive(Debug)]
struct Page {
    first: u64,
    entries: Vec<mrc::DirEntry>,
    end: bool,
}

/// "." and "..".
const DOTS: u64 = 2;

impl OxFs {
    /// Opens a directory for listing.
    #[must_use]
    pub fn opendir(&self, inode: u64) -> u64 {
        let handle = self.new_handle();
        let dir = Dir {
            inode,
            listing: tokio::sync::Mutex::default(),
        };
        self.inner.dirs.insert(handle, Arc::new(dir));
        handle
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: u64) {
        self.inner.dirs.remove(&handle);
    }

    /// Hands the entries from `offset` on to `sink` until it says false or there are no more.
    /// Offset 0 begins a new listing.
    ///
    /// # Errors
    ///
    /// EBADF for a handle that is not open; ENOENT if the directory is gone.
    pub async fn readdir(
        &self,
        handle: u64,
        offset: u64,
        mut sink: impl FnMut(DirItem) -> bool + Send,
    ) -> Result<(), Errno> {
        let found = self.inner.dirs.get(&handle).map(|dir| dir.clone());
        let dir = found.ok_or(Errno(libc::EBADF))?;
        let mut listing = dir.listing.lock().await;
        if offset == 0 {
            *listing = Listing::default();
        }
        let mut at = offset;
        if at < DOTS || listing.pages.is_empty() {
            self.load(&dir, &mut listing, DOTS).await?;
        }
        while at < DOTS {
            let (name, inode) = match at {
                0 => (".", dir.inode),
                _ => ("..", listing.parent),
            };
            let item = DirItem {
                name: Bytes::from_static(name.as_bytes()),
                inode,
                kind: libc::S_IFDIR,
                next_offset: at + 1,
            };
            if !sink(item) {
                return Ok(());
            }
            at += 1;
        }
        loop {
            if !listing.current.as_ref().is_some_and(|page| page.holds(at)) {
                self.load(&dir, &mut listing, at).await?;
            }
            let Some(page) = &listing.current else {
                return Ok(());
            };
            let from = usize::try_from(at.saturating_sub(page.first)).unwrap_or(usize::MAX);
            for entry in page.entries.iter().skip(from) {
                let item = DirItem {
                    name: entry.name.clone(),
                    inode: entry.inode,
                    kind: entry.kind,
                    next_offset: at + 1,
                };
                if !sink(item) {
                    return Ok(());
                }
                at += 1;
            }
            if page.end {
                return Ok(());
            }
        }
    }

    /// Reads the page that has entry `number`, or the next one not known.
    async fn load(&self, dir: &Dir, listing: &mut Listing, number: u64) -> Result<(), Errno> {
        loop {
            let start = match listing.pages.iter().rfind(|page| page.0 <= number) {
                Some(page) => page.clone(),
                None => (DOTS, Bytes::new()),
            };
            let op = Op::ReadDir(mrc::ReadDir {
                inode: dir.inode,
                after: start.1.clone(),
                limit: LIST_PAGE,
                plus: false,
            });
            let Reply::DirPage(page) = self.ask(op).await? else {
                return Err(MISFIT);
            };
            listing.parent = page.parent;
            if listing.pages.is_empty() {
                listing.pages.push(start.clone());
            }
            let next = start.0 + page.entries.len() as u64;
            let end = page.end || page.entries.is_empty();
            if let Some(last) = page.entries.last()
                && listing.pages.last().is_some_and(|known| known.0 < next)
            {
                listing.pages.push((next, last.name.clone()));
            }
            listing.current = Some(Page {
                first: start.0,
                entries: page.entries,
                end,
            });
            if number < next || end {
                return Ok(());
            }
        }
    }
}

impl Page {
    fn holds(&self, number: u64) -> bool {
        let past = self.first + self.entries.len() as u64;
        (self.first..past).contains(&number) || (self.end && number >= self.first)
    }
}
