//! Dumps under way: the index as it was at one position of the log, handed out page by page.
//!
//! Only the server that began a dump can go on with it, whoever leads by then: what it hands out does
//! not change any more. A dump that nobody asks about for a while is given up, because until its end the engine
//! keeps every page of the index as it was.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use mrc_core::{Entries, IndexError, Reply, dump};
use openraft::async_runtime::WatchReceiver as _;
use prost::Message as _;
use proto::mrc::{DumpBegun, DumpNext, DumpPage, Response, response};
use types::Fault;

use crate::config::{DUMP_IDLE, DUMP_PAGE_BYTES, DUMPS_MAX};
use crate::door::{Service, index_fault};
use crate::log_writer::lock;

/// All of this server.
#[derive(Default)]
pub(crate) struct Dumps(Mutex<BTreeMap<u64, Dump>>);

struct Dump {
    asked: Instant,
    pages: Arc<Mutex<Pages>>,
}

/// What is left, and the page that was handed out last.
struct Pages {
    entries: Entries<'static>,
    next: u64,
    last: DumpPage,
}

/// Begins a dump of what is applied now.
pub(crate) async fn begin(service: &Arc<Service>) -> Reply {
    let restored = mrc_core::query::restored(&**service.node.index());
    let restored = restored.map_err(|error| index_fault(&error))?;
    if restored.restored && !restored.finished {
        let text = "a dump is being restored here; dump it when that is finished";
        return Err(Fault::surface(libc::EBUSY, text));
    }
    let frozen = service.node.machine.freeze().await;
    let (applied, entries) = frozen.map_err(|error| {
        tracing::error!(%error, "the index can't be dumped");
        Fault::retry(format!("this metadata server ends: {error}"))
    })?;
    let id = service.dumps.add(entries)?;
    let forgetful = Arc::clone(service);
    tokio::spawn(async move {
        while forgetful.dumps.is_asked_for(id) {
            tokio::time::sleep(DUMP_IDLE / 4).await;
        }
    });
    let term = service.node.raft.metrics().borrow_watched().current_term;
    tracing::info!(log_index = applied, term, "dumping the metadata");
    Ok(Response {
        reply: Some(response::Reply::DumpBegun(DumpBegun {
            dump: id,
            address: service.node.me.address.clone(),
            cluster: service.cluster.to_string(),
            log_index: applied,
            time_ns: service.node.now().0,
        })),
    })
}

/// The page asked for: the next one, or the last one again.
pub(crate) async fn next(service: &Arc<Service>, next: DumpNext) -> Reply {
    let pages = service.dumps.find(next.dump)?;
    let read = tokio::task::spawn_blocking(move || lock(&pages).page(next.page));
    let page = match read.await {
        Ok(page) => page.map_err(|error| index_fault(&error))?,
        Err(error) => return Err(Fault::surface(libc::EIO, error.to_string())),
    };
    let page = page.ok_or_else(|| {
        Fault::surface(
            libc::EINVAL,
            format!(
                "page {} of the dump is not its next one; dump again",
                next.page
            ),
        )
    })?;
    if page.end {
        service.dumps.end(next.dump);
    }
    Ok(Response {
        reply: Some(response::Reply::DumpPage(page)),
    })
}

impl Dumps {
    fn add(&self, entries: Entries<'static>) -> Result<u64, Fault> {
        let mut dumps = lock(&self.0);
        if dumps.len() >= DUMPS_MAX {
            return Err(Fault::surface(
                libc::EBUSY,
                format!(
                    "{DUMPS_MAX} dumps are under way; one that nobody goes on with ends after {} s",
                    DUMP_IDLE.as_secs()
                ),
            ));
        }
        let pages = Pages {
            entries,
            next: 0,
            last: DumpPage::default(),
        };
        let dump = Dump {
            asked: Instant::now(),
            pages: Arc::new(Mutex::new(pages)),
        };
        let id = crate::draw();
        dumps.insert(id, dump);
        Ok(id)
    }

    fn find(&self, id: u64) -> Result<Arc<Mutex<Pages>>, Fault> {
        let mut dumps = lock(&self.0);
        let dump = dumps.get_mut(&id).ok_or_else(|| {
            let text = "this metadata server does not know the dump any more; dump again";
            Fault::surface(libc::ENOENT, text)
        })?;
        dump.asked = Instant::now();
        Ok(Arc::clone(&dump.pages))
    }

    /// Whether there is still such a dump; one that was not asked for is given up.
    fn is_asked_for(&self, id: u64) -> bool {
        let mut dumps = lock(&self.0);
        if dumps
            .get(&id)
            .is_some_and(|it| it.asked.elapsed() >= DUMP_IDLE)
        {
            tracing::warn!("nobody goes on with a dump of the metadata; it is given up");
            dumps.remove(&id);
        }
        dumps.contains_key(&id)
    }

    fn end(&self, id: u64) {
        lock(&self.0).remove(&id);
    }
}

impl Pages {
    /// `None`: neither the next page nor the last.
    fn page(&mut self, number: u64) -> Result<Option<DumpPage>, IndexError> {
        if number == self.next {
            self.last = self.read()?;
            self.next += 1;
        } else if self.next.checked_sub(1) != Some(number) {
            return Ok(None);
        }
        Ok(Some(self.last.clone()))
    }

    fn read(&mut self) -> Result<DumpPage, IndexError> {
        let mut page = DumpPage::default();
        let mut bytes = 0;
        while bytes < DUMP_PAGE_BYTES {
            let Some(entry) = self.entries.next() else {
                page.end = true;
                break;
            };
            let (key, value) = entry?;
            // Entries without a record are skipped, but looked at all the same.
            bytes += key.len();
            if let Some(record) = dump::record(&key, &value)? {
                bytes += record.encoded_len();
                page.records.push(record);
            }
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mrc_core::keys;
    use types::{Inode, OsdId, VolumeId};

    use super::*;

    fn dumps_of(entries: Vec<(Vec<u8>, Bytes)>) -> (Dumps, u64) {
        let entries = entries
            .into_iter()
            .map(|(key, value)| Ok((Bytes::from(key), value)));
        let entries: Vec<_> = entries.collect();
        let dumps = Dumps::default();
        let id = dumps.add(Box::new(entries.into_iter())).unwrap();
        (dumps, id)
    }

    #[test]
    fn pages_hold_everything_once_and_the_last_one_may_be_asked_for_again() {
        let xattr = |n: u64| {
            let key = keys::xattr(VolumeId(1), Inode(n), b"user.x");
            (key, Bytes::from(vec![7; DUMP_PAGE_BYTES / 3]))
        };
        let mut entries: Vec<_> = (0..7).map(xattr).collect();
        // Nothing for a dump.
        entries.insert(3, (keys::garbage(OsdId(1), 4), Bytes::from_static(b"\xff")));
        let (dumps, id) = dumps_of(entries);
        let pages = dumps.find(id).unwrap();
        let page = |number| lock(&pages).page(number).unwrap();

        let (mut found, mut number) = (0, 0);
        loop {
            let now = page(number).unwrap();
            assert_eq!(page(number).unwrap(), now);
            assert_eq!(page(number + 2), None);
            found += now.records.len();
            number += 1;
            if now.end {
                break;
            }
        }

        assert!(number > 2, "{number} pages");
        assert_eq!(found, 7);
    }

    #[test]
    fn damaged_entry_ends_the_dump_with_an_error() {
        let (dumps, id) = dumps_of(vec![(b"z?".to_vec(), Bytes::new())]);
        let pages = dumps.find(id).unwrap();
        assert!(lock(&pages).page(0).is_err());
    }

    #[test]
    fn dumps_are_few_and_are_forgotten_at_their_end() {
        let (dumps, first) = dumps_of(Vec::new());
        for _ in 1..DUMPS_MAX {
            dumps.add(Box::new(std::iter::empty())).unwrap();
        }
        assert!(dumps.add(Box::new(std::iter::empty())).is_err());

        dumps.end(first);

        assert!(dumps.find(first).is_err() && !dumps.is_asked_for(first));
        assert!(dumps.add(Box::new(std::iter::empty())).is_ok());
    }
}
