//! What a client asks a lease server for, and the answer: messages on the object servers' door.

/// Take the lease.
pub(crate) const ACQUIRE: u32 = 1;
/// Give it back.
pub(crate) const RELEASE: u32 = 2;

/// A client's request.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Ask {
    #[prost(fixed64, tag = "1")]
    pub(crate) cell_high: u64,
    #[prost(fixed64, tag = "2")]
    pub(crate) cell_low: u64,
    #[prost(uint32, tag = "3")]
    pub(crate) verb: u32,
    /// Nothing of the cell exists: a file was just created.
    #[prost(bool, tag = "4")]
    pub(crate) newborn: bool,
}

/// The answer.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Answer {
    /// The lease is held (or given back).
    #[prost(bool, tag = "1")]
    pub(crate) done: bool,
    #[prost(uint64, tag = "2")]
    pub(crate) epoch: u64,
}

/// Cells that clients ask for: apart from those that members ask for themselves.
pub(crate) const CLIENT_CELLS: u64 = 1 << 63;
