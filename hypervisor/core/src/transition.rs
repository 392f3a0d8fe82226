//! Ownership transitions of guest memory. Each checks all parties under their locks and then commits
//! to all of them; its documentation has the table of what it needs and what it makes.

pub(crate) mod populate;
pub(crate) mod punch;
pub(crate) mod relinquish;
pub(crate) mod share;
pub(crate) mod take;

/// The most pages that one call populates, shares, takes back or looks at. What it does is done under
/// the VM's lock, wiping included: other calls about this VM wait so long, those about others do not.
pub(crate) const MAX_PAGES_PER_CALL: u64 = 512;
