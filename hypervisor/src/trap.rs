//! What EL1 comes to EL2 for: the host's calls and faults, and a guest's exits.

/// Running a vCPU.
mod guest;
/// Running the host.
pub(crate) mod host;
/// Power for the host.
mod host_psci;
