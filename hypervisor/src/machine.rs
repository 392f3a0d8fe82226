//! The machine that all CPUs share: memory, EL2's own map of it, the console and power.

/// The hypervisor's console, which the tool reads.
pub(crate) mod console;
/// The core's `Machine` on metal.
pub(crate) mod el2;
/// Cache and TLB maintenance.
pub(crate) mod maintenance;
/// Power-off, and the report before it.
pub(crate) mod power;
/// EL2's own stage 1.
pub(crate) mod stage1;
/// The trace: each CPU's events.
#[cfg(feature = "trace")]
pub(crate) mod trace;
