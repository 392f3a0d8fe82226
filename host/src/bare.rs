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

cfg_if::cfg_if! {
    if #[cfg(target_os = "none")] {
        mod bench;
        mod block;
        mod boot;
        mod boot_image;
        mod console;
        mod console_port;
        mod cpus;
        mod devices;
        mod dma;
        mod exceptions;
        mod guest;
        mod hypercall;
        mod interrupts;
        mod memory;
        mod pcie;
        mod power;
        mod scheduler;
        mod sleep_lock;
        mod timer;
        mod tolerant;
    }
}
