//! The decisions of Cloister's hypervisor: which party owns each page, which parties reach it, and how each
//! call of the host and of a guest changes that. The crate has no unsafe code, no assembly and no heap.
//!
//! Five rules hold throughout:
//!
//! 1. **The page state is authoritative.** [`ownership::page_state`] records the owner of each page and the
//!    other parties that reach it. The core derives the stage-2 tables ([`memory::stage2`]) from the page
//!    states and never decides about access by reading a table.
//! 2. **Check, then commit.** A transition first checks every party, under their locks. The commit that
//!    follows cannot fail. A refused call changes nothing.
//! 3. **Host input is untrusted** until the core has checked it under the lock that protects the state it
//!    names.
//! 4. **The machine is a trait** ([`machine::Machine`]). The same code runs at EL2 and, on a recording fake,
//!    under `cargo test`.
//! 5. **The host pays for a VM's memory.** A VM has a fixed slot. All further memory comes from pages that
//!    the host donates for that VM; they return to the host wiped.
//!
//! The entry point is [`hypervisor::Hypervisor`].

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

// `std` serves tests and checks on the development machine; the bare-metal target has none.
#[cfg(not(target_os = "none"))]
extern crate std;

// `seeded` comes first because all later modules use its macro.
#[macro_use]
pub mod seeded;

pub mod boot;
pub mod call;
pub mod cpu;
pub mod hypervisor;
mod lifecycle;
pub mod limits;
pub mod machine;
pub mod memory;
pub mod ownership;
#[cfg(test)]
mod tests;
pub mod transition;
pub mod trap;
pub mod vcpu;
#[cfg(feature = "verify")]
pub mod verify;
pub mod vm;
