//! One CPU's registers and the pure functions on them: trap decoding, exception entry, and the emulation of
//! system registers and device accesses. This module knows neither VMs nor memory.

pub mod exception;
pub mod mmio;
pub mod registers;
pub mod syndrome;
pub mod sysreg;
