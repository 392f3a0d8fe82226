//! Support for binaries that run at EL1: exceptions, stage 1, interrupts, time.
//!
//! * [`syndrome`]: decodes ESR_EL1 into an enum.
//! * [`frame`]: the registers of the interrupted code, which a handler may change.
//! * `vectors`: the vector table, generic over the binary's handlers.
//! * [`stage1`]: an identity map with W^X, from tables that need no heap.
//! * `cpu`: one instruction per function.
//! * [`fp`]: the FP and SIMD registers as a value.
//! * `heap`: the global allocator, over memory that the binary gives it.
//! * `system_register`: access to system registers by their encoding's number.
//! * [`lock`]: a spin lock that masks interrupts while it is held.

#[cfg(target_os = "none")]
pub mod cpu;
pub mod fp;
pub mod frame;
#[cfg(target_os = "none")]
pub mod heap;
pub mod lock;
pub mod stage1;
pub mod syndrome;
#[cfg(target_os = "none")]
pub mod system_register;
#[cfg(target_os = "none")]
pub mod vectors;
