//! The architecture as EL2 uses it: instructions, and the values of control registers.
//!
//! This module imports nothing from the others.

/// The values of EL2's control registers.
pub(crate) mod controls;
#[cfg(target_os = "none")]
mod instructions;

#[cfg(target_os = "none")]
pub(crate) use instructions::*;
