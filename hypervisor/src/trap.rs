//! The calls and traps from EL1: the host's calls and faults, and a guest's exits.

/// The loop of a vCPU.
mod guest;
/// The loop of the host.
pub(crate) mod host;
/// The host's PSCI.
mod host_psci;
