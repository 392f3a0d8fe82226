//! Every decision of Cloister's hypervisor: who owns which page, who may reach it, what a call of the
//! host or of a guest does. No unsafe code, no instruction, no heap.
//!
//! Five ideas carry the crate:
//!
//! 1. **One record is the truth.** [`ownership::page_state`] says who owns a page and who else reaches it; the stage-2
//!    tables ([`memory::stage2`]) are made from the records and are never asked.
//! 2. **Check, then commit.** A transition checks every party first, under their locks; what follows
//!    can't fail. A refused call changed nothing.
//! 3. **What the host says proves nothing** until it has been checked under the lock that protects
//!    what it is about.
//! 4. **The machine is a trait** ([`machine::Machine`]): the same code runs at EL2 and, on a recording
//!    fake, under `cargo test`.
//! 5. **Memory is paid for by who wants it**: what a VM needs beyond its slot comes from pages that the
//!    host donated for it, and goes back wiped.
//!
//! The way in is [`hypervisor::Hypervisor`].

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

// For tests and checks on the development machine; metal has none.
#[cfg(not(target_os = "none"))]
extern crate std;

// First, as its macro is used in all that follows.
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
