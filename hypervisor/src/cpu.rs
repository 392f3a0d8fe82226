//! One physical CPU: its entries to EL1 and exits from it, and the registers that are switched between host and
//! guests.

/// The system registers of EL1.
pub(crate) mod el1_registers;
/// FP and SIMD registers.
pub(crate) mod fp;
/// The virtual GIC CPU interface.
pub(crate) mod gic;
/// The ID registers that the core reads.
mod id_registers;
/// The data of each CPU.
mod per_cpu;
/// The firmware's PSCI.
pub(crate) mod psci;
/// The traps, stage 2 and identity that EL1 runs under.
pub(crate) mod select;
/// The one-time setup of each CPU.
pub(crate) mod setup;
/// The world switch.
pub(crate) mod switch;
/// The exception vectors.
pub(crate) mod vectors;

pub(crate) use per_cpu::Cpu;
