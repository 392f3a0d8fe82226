//! The VMM: everything that the untrusted host does for a VM, without a line that is tied to a machine.
//!
//! A front end (the bare-metal host of this package is the first) brings a machine as four small
//! traits: [`hypervisor::HostCalls`] makes calls, [`memory::HostMemory`] copies to and from physical
//! memory and survives the faults that the hypervisor injects, [`memory::FrameAllocator`] hands out
//! pages, [`virtio::block::BlockBackend`] is a disk. The library decides the rest:
//!
//! * [`config`]: what to run, as the text that comes with the boot image.
//! * [`payload`], [`machine`], [`layout`]: what the guest finds in its memory. Pure, so that the tool
//!   can compute the launch measurement from the same code.
//! * [`vm`]: the life of a VM: pages donated, populated, returned and looked at.
//! * [`vgic`], [`pl011`], [`virtio`]: the devices that the guest sees.
//! * [`vmm`]: what to do about each exit.
//! * [`platform`]: the four traits as one.
//! * [`attack`]: the demo's attack on a private page, which must fail.
//!
//! The VMM trusts no guest: what it reads from guest memory is read once, checked, and then used.

#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod attack;
mod bits;
pub mod config;
pub mod hypervisor;
pub mod layout;
pub mod machine;
pub mod memory;
pub mod payload;
pub mod pl011;
pub mod platform;
#[cfg(test)]
mod testing;
pub mod vgic;
pub mod virtio;
pub mod vm;
pub mod vmm;
