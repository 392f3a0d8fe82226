//! What every binary at EL1 needs once it runs: exceptions, stage 1, interrupts, time.
//!
//! * [`syndrome`]: ESR_EL1 decoded into an enum.
//! * [`frame`]: the registers of the interrupted code, which a handler may change.
//! * `vectors`: the vector table, generic over the binary's handlers.
//! * [`stage1`]: an identity map with W^X, from tables that need no heap.
//! * `cpu`: one instruction per function.
//! * [`fp`]: the FP and SIMD registers as a value.
//! * `heap`: the global allocator, over memory that the binary gives it.
//! * `system_register`: system registers by the number of their encoding.
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
