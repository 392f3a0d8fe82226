//! Everything that crosses a trust boundary of Cloister, and nothing else.
//!
//! * [`addr`]: physical and guest-physical addresses and page numbers, as types that do not mix.
//! * [`host_call`]: what the host may ask of the hypervisor, parsed from and emitted to registers.
//! * [`guest_call`]: what a guest may ask of the hypervisor, likewise.
//! * [`vcpu`]: what the host may say when it enters a vCPU and what it is told when it exits.
//! * [`kvm`]: the public KVM/pKVM vendor-hypervisor interface that guests speak.
//! * [`error`]: the error codes of both.
//! * [`record`]: the lines by which hypervisor, host and guest report to the tool.
//! * [`mod@bench`]: what a benchmark measures, and who reports it.
//! * [`sweep`]: the plan of a register sweep, and the lines that report it.
//!
//! A value that was parsed here has the right shape, no more: whether the caller may say it is the
//! hypervisor's to check.

#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod bench;
pub mod error;
pub mod guest_call;
pub mod host_call;
pub mod kvm;
mod list_register;
pub mod record;
pub mod sweep;
pub mod vcpu;
