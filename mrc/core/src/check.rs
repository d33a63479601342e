//! Whether an index is consistent.
