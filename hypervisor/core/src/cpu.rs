//! One CPU's registers, and the pure functions of them: what a trap says, what an exception does, what a trapped
//! register or device access comes to. Nothing here knows of VMs or of memory.

pub mod exception;
pub mod mmio;
pub mod registers;
pub mod syndrome;
pub mod sysreg;
