//! What a scrub decides: which copy of a block is right, how fast it may read, and what it remembers.
//!
//! A server judges its own copies only. It asks the others what they have and repairs what is wrong here, so
//! two servers never work on one copy, and none has to trust another's opinion.

mod judge;
mod ledger;
mod rate;

pub use judge::{Answer, Copy, Mine, Verdict, judge};
pub use ledger::{Found, Ledger, LedgerError, Passed};
pub use rate::Rate;
