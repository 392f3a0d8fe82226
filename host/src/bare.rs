//! The bare-metal host. What decides and computes is tested on the development machine; what touches
//! the machine exists for the target only.
//!
//! * [`platform`]: what the device tree says of the machine.
//! * [`frames`]: the bookkeeping of free page frames.
//! * `boot`: the order in which everything comes up. `boot_image`: what it was loaded with.
//! * `guest`, `scheduler`: the VM's life, and which vCPU runs where.
//! * `bench`: what the host times when it is asked to.
//! * `memory`, `heap`: the machine's frames, and the heap in some of them.
//! * `exceptions`, `tolerant`: faults, and accesses that survive them.
//! * `interrupts`, `timer`, `cpus`, `sleep_lock`: the GIC, the tick, the other CPUs, and waiting for
//!   them.
//! * `pcie`, `dma`, `devices`, `block`, `console_port`: the machine's own disk and console.
//! * `hypercall`, `power`, `console`: the way out: to EL2, to firmware, to the UART.

pub(crate) mod frames;
pub(crate) mod platform;

#[cfg(target_os = "none")]
mod bench;
#[cfg(target_os = "none")]
mod block;
#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod boot_image;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod console_port;
#[cfg(target_os = "none")]
mod cpus;
#[cfg(target_os = "none")]
mod devices;
#[cfg(target_os = "none")]
mod dma;
#[cfg(target_os = "none")]
mod exceptions;
#[cfg(target_os = "none")]
mod guest;
#[cfg(target_os = "none")]
mod hypercall;
#[cfg(target_os = "none")]
mod interrupts;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod pcie;
#[cfg(target_os = "none")]
mod power;
#[cfg(target_os = "none")]
mod scheduler;
#[cfg(target_os = "none")]
mod sleep_lock;
#[cfg(target_os = "none")]
mod timer;
#[cfg(target_os = "none")]
mod tolerant;
