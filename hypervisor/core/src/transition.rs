//! Ownership transitions. Each checks all parties under their locks and then commits to all of them; its
//! documentation has the table of what it needs and what it makes.

pub(crate) mod donate;
pub(crate) mod populate;
pub(crate) mod reclaim;
pub(crate) mod relinquish;
pub(crate) mod share;

/// Why a guest's share or unshare was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u64)] // as wide as a count of pages: a result of either is returned in registers
pub enum ShareError {
    /// The first page is not there yet: the host has to populate it, then the call runs again.
    #[error("the page is absent")]
    Absent,
    /// No page of the guest's, or not in the state that the call needs.
    #[error("not the guest's, or not in that state")]
    Denied,
}
