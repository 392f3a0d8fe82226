//! The calls of the host and of guests: one dispatcher for each side, and the PSCI and TRNG services that
//! both use.

pub mod guest;
pub mod host;
pub mod psci;
pub mod trng;
