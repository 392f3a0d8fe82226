//! The machine that all CPUs share: memory, EL2's own map of it, console and power.

/// The console that the tool reads.
pub(crate) mod console;
/// `Machine` on metal, as the core drives it.
pub(crate) mod el2;
/// Cache and TLB maintenance.
pub(crate) mod maintenance;
/// Power-off, and what is reported before it.
pub(crate) mod power;
/// EL2's own translation.
pub(crate) mod stage1;
/// What each CPU did.
#[cfg(feature = "trace")]
pub(crate) mod trace;
