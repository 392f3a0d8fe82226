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
        pub(crate) mod block;
        pub(crate) mod boot;
        pub(crate) mod boot_image;
        pub(crate) mod console;
        pub(crate) mod console_port;
        pub(crate) mod cpus;
        pub(crate) mod devices;
        mod dma;
        mod exceptions;
        pub(crate) mod guest;
        pub(crate) mod hypercall;
        pub(crate) mod interrupts;
        pub(crate) mod memory;
        mod pcie;
        pub(crate) mod power;
        pub(crate) mod scheduler;
        pub(crate) mod sleep_lock;
        pub(crate) mod timer;
        pub(crate) mod tolerant;
    }
}
