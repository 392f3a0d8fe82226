//! The benchmark payload: what a guest pays for a hypercall, a shared page, a first touch, an exit.
//!
//! It reports raw counts of CNTVCT_EL0 as records (`shared_abi::bench`), all of them after the last
//! measurement. On a machine whose counter ticks once per instruction they are exact;
//! `docs/measuring.md` has the method.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "what is timed is single instructions"))]

guest_kernel::payload!(primitives::run);

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod primitives;
#[cfg(target_os = "none")]
mod stopwatch;
