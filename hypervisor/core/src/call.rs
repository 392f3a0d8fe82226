//! The calls of the host and of guests: one dispatcher for each side, and the services that both lead to.

pub mod guest;
pub mod host;
pub mod psci;
pub mod trng;
