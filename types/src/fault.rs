//! How a request that was not done is reported between processes.

use std::fmt;

use crate::ids::OsdId;

/// The caller's next move.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Remedy {
    /// The same request to the same server may succeed later.
    Retry,
    /// Another server can do it; [`Fault::hint`] or [`Fault::osd_hint`] may say which.
    Redirect,
    /// What the caller holds (capability, view, session, epoch) is out of date: fetch it anew first.
    Refresh,
    /// Tell the program: repeating changes nothing.
    Surface,
}

/// A request that was not done: what to tell a program, what to tell a person, what to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Next move of the caller.
    pub remedy: Remedy,
    /// Linux errno for the program, if it comes to that (`libc::EIO`, ...).
    pub errno: i32,
    /// One sentence that names the value and the remedy.
    pub message: String,
    /// Address of the server to ask instead, with [`Remedy::Redirect`].
    pub hint: Option<String>,
    /// Object server to ask instead, with [`Remedy::Redirect`].
    pub osd_hint: Option<OsdId>,
}

impl Fault {
    /// A fault without hints.
    #[must_use]
    pub fn new(remedy: Remedy, errno: i32, message: impl Into<String>) -> Self {
        Self {
            remedy,
            errno,
            message: message.into(),
            hint: None,
            osd_hint: None,
        }
    }

    /// A final answer for the program.
    #[must_use]
    pub fn surface(errno: i32, message: impl Into<String>) -> Self {
        Self::new(Remedy::Surface, errno, message)
    }

    /// Something that passes by itself.
    #[must_use]
    pub fn retry(message: impl Into<String>) -> Self {
        // 11: EAGAIN. This crate has no libc; programs never see it, because callers retry.
        Self::new(Remedy::Retry, 11, message)
    }

    /// The caller's knowledge is out of date.
    #[must_use]
    pub fn refresh(message: impl Into<String>) -> Self {
        // 116: ESTALE, what a program sees if refreshing does not help.
        Self::new(Remedy::Refresh, 116, message)
    }
}

/// Linux's EILSEQ. Object servers use it for one thing only; programs never see it.
const OUT_OF_ORDER: i32 = 84;

/// Linux's ENOTRECOVERABLE. Object servers use it for one thing only; programs are told EIO.
const CHANGES_LOST: i32 = 131;

impl Fault {
    /// Acknowledged changes of the caller are gone: told instead of an answer that would hide it.
    #[must_use]
    pub fn changes_lost() -> Self {
        Self::surface(
            CHANGES_LOST,
            "acknowledged changes were lost with the replicas' power; restore the file from what \
             wrote it",
        )
    }

    /// A change of the caller that was sent before this one is missing.
    #[must_use]
    pub fn out_of_order() -> Self {
        Self::new(
            Remedy::Retry,
            OUT_OF_ORDER,
            "a change that was sent before this one has not arrived; repeat both, oldest first",
        )
    }

    /// Whether it is [`Fault::out_of_order`].
    #[must_use]
    pub fn is_out_of_order(&self) -> bool {
        self.remedy == Remedy::Retry && self.errno == OUT_OF_ORDER
    }

    /// Whether it is [`Fault::changes_lost`].
    #[must_use]
    pub fn is_changes_lost(&self) -> bool {
        self.remedy == Remedy::Surface && self.errno == CHANGES_LOST
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
