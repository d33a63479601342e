//! A promise that was broken, with what shows it.

use serde::Serialize;

use crate::operation::Record;

/// What was found wrong.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Violation {
    /// The promise, in a word or two.
    pub(crate) kind: &'static str,
    /// Which file or server, and what is wrong with it.
    pub(crate) what: String,
    /// The operations that show it, as few as could be found.
    pub(crate) evidence: Vec<Record>,
}

impl Violation {
    /// A violation without operations to show.
    pub(crate) fn new(kind: &'static str, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            evidence: Vec::new(),
        }
    }

    /// Adds the operations that show it.
    pub(crate) fn shown_by<'a>(mut self, records: impl IntoIterator<Item = &'a Record>) -> Self {
        self.evidence.extend(records.into_iter().cloned());
        self
    }
}
