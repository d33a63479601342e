//! What programs are told when something fails.

use std::fmt;

use types::{Fault, Remedy};

/// A Linux error number, greater than 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Errno(pub i32);

impl Errno {
    /// What a program sees of a fault that retrying does not cure.
    #[must_use]
    pub fn of(fault: &Fault) -> Self {
        match fault.remedy {
            Remedy::Surface if fault.errno > 0 => Self(fault.errno),
            Remedy::Refresh => Self(libc::ESTALE),
            Remedy::Surface | Remedy::Retry | Remedy::Redirect => Self(libc::EIO),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

impl From<Errno> for fuser::Errno {
    fn from(errno: Errno) -> Self {
        Self::from_i32(errno.0)
    }
}
