//! The interfaces across Cloister's trust boundaries, and nothing else.
//!
//! * [`addr`]: physical and guest-physical addresses and page numbers, each a distinct type.
//! * [`host_call`]: the host's calls to the hypervisor, decoded from and encoded into registers.
//! * [`guest_call`]: a guest's calls to the hypervisor, decoded and encoded in the same way.
//! * [`vcpu`]: the host's input when it enters a vCPU, and its output when the vCPU exits.
//! * [`kvm`]: the public vendor-hypervisor interface of KVM and pKVM that guests use.
//! * [`error`]: the error codes of host calls.
//! * [`record`]: the lines by which hypervisor, host and guest report to the tool.
//! * [`mod@bench`]: the operations that a benchmark measures, and the party that reports each.
//! * [`sweep`]: the plan of a register sweep, and the lines that report its results.
//!
//! Parsing checks only that a value is well formed. The hypervisor must check that the caller may use it.

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
