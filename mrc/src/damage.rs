//! That this server's own files are not what it wrote: found by whoever reads them, told to the one
//! who ends the server.

use std::sync::Arc;

use tokio::sync::watch;

/// The first damage that was found; clones are handles of the same one.
#[derive(Clone, Debug)]
pub(crate) struct Damage(Arc<watch::Sender<Option<String>>>);

impl Default for Damage {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Damage {
    /// Remembers a sentence that names file and place; later ones follow from the first.
    pub(crate) fn found(&self, what: &str) {
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(what.to_owned());
            }
            is_first
        });
    }

    /// What was found.
    pub(crate) fn first(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Becomes `Some` when something was found; the server must stop then.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<String>> {
        self.0.subscribe()
    }
}
