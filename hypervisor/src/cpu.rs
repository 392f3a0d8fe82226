//! One physical CPU: how it enters EL1 and comes back, and the registers that change hands between host and
//! guests.

/// The system registers of EL1.
pub(crate) mod el1_registers;
/// FP and SIMD registers.
pub(crate) mod fp;
/// The virtual GIC CPU interface.
pub(crate) mod gic;
/// ID registers, as the core reads them.
mod id_registers;
/// The data of each CPU.
mod per_cpu;
/// The firmware's PSCI.
pub(crate) mod psci;
/// The traps and the stage 2 that EL1 runs under.
pub(crate) mod select;
/// What each CPU sets up once.
pub(crate) mod setup;
/// The world switch.
pub(crate) mod switch;
/// The exception vectors.
pub(crate) mod vectors;

pub(crate) use per_cpu::Cpu;
