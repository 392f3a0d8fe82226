//! Trap handlers: one for the host's traps, one for a guest's.

pub mod guest;
pub mod host;
