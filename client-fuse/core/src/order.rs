//! What a mount says of files that are open for reading counts in the order in which it says it.

use proto::mrc::Request;
use proto::mrc::request::Op;

/// Whether each sending of the request needs a new number, because it says that a file is open for
/// reading, or is no more. (A list of open files has one of its own: a second sending says nothing new.)
#[must_use]
pub const fn is_ordered(request: &Request) -> bool {
    match &request.op {
        Some(Op::Open(open)) => !open.renew_write,
        Some(Op::Release(_)) => true,
        Some(Op::Create(create)) => !create.write,
        Some(Op::Written(written)) => written.stays_open,
        _ => false,
    }
}
