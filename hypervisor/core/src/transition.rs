//! Ownership transitions of guest memory. Each checks all parties under their locks and then commits
//! to all of them; its documentation has the table of what it needs and what it makes.

pub(crate) mod populate;
pub(crate) mod reclaim;
pub(crate) mod relinquish;
pub(crate) mod share;
pub(crate) mod take;
