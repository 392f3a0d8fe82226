//! Ownership transitions. Each checks all parties under their locks and then commits to all of them. The
//! table in its documentation gives the page states before and after.

pub(crate) mod donate;
pub(crate) mod populate;
pub(crate) mod reclaim;
pub(crate) mod relinquish;
pub(crate) mod share;

/// The reason why a guest's share or unshare was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u64)] // as wide as a count of pages: a result of either is returned in registers
pub enum ShareError {
    /// The first page is absent. The host has to populate it; then the guest's call runs again.
    #[error("the page is absent")]
    Absent,
    /// The guest has no page there, or the page is in the wrong state for the call.
    #[error("the page is not the guest's or is in the wrong state")]
    Denied,
}
