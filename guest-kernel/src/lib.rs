//! A unikernel for protected VMs: a payload is one function over this library.
//!
//! It speaks public interfaces only (the KVM/pKVM vendor hypercalls, PSCI, the TRNG service, virtio
//! and the device tree), so that the same binary runs under Cloister, under other VMMs on pKVM, and
//! on plain QEMU, where nothing needs to be shared.
//!
//! The host made the machine that the payload finds, and is not trusted with anything:
//!
//! * [`machine`] checks the device tree before a range of it is used.
//! * [`hyp`] makes typed hypercalls, and only those that the hypervisor offers.
//! * [`shared`] is the memory that the host can reach, as a type of its own.
//! * `virtio` drives block and console devices through buffers in shared memory; what the device
//!   says about lengths, indices and tokens is never believed.
//! * [`plan`] is the table by which the `demo` payload verifies a disk; the tool writes it.
//!
//! The rest exists on the bare-metal target only: `boot` brings all of this up and calls the
//! payload's function with a `Guest`; `console`, `exceptions`, `interrupts`, `time` and `power` are
//! what their names say. A payload starts with [`payload!`]; `docs/writing-a-payload.md` shows how.

#![cfg_attr(target_os = "none", no_std)]
#![expect(unsafe_code, reason = "registers, the heap, and memory that the host can change")]

extern crate alloc;

pub mod hyp;
pub mod machine;
pub mod plan;
pub mod shared;

#[cfg(target_os = "none")]
pub mod boot;
#[cfg(target_os = "none")]
pub mod conduit;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
mod exceptions;
#[cfg(target_os = "none")]
mod interrupts;
#[cfg(target_os = "none")]
pub mod power;
#[cfg(target_os = "none")]
pub mod time;
#[cfg(test)]
#[path = "time/fake.rs"]
mod time;
#[cfg(any(target_os = "none", test))]
pub mod virtio;

#[cfg(target_os = "none")]
pub use boot::{Failure, Guest};

/// Makes a binary a payload: its function `fn(&mut Guest) -> Result<(), Failure>` runs once the
/// machine is up. When it returns the VM is turned off; an error is printed and resets the VM, so that
/// whoever runs it sees the failure.
///
/// The function is for the bare-metal target only. For the development machine, where the workspace is
/// built as well, the binary is a `main` that says so.
#[macro_export]
macro_rules! payload {
    ($run:path) => {
        #[cfg(target_os = "none")]
        const _: () = {
            fn enter(device_tree: u64) -> ! {
                $crate::boot::start(device_tree, $run)
            }
            $crate::image_main!(enter, stack_bytes = 64 * 1024);
        };

        #[cfg(not(target_os = "none"))]
        fn main() {
            eprintln!("this is a payload: it runs on bare metal only");
        }
    };
}

#[doc(hidden)]
pub use bare_rt::image_main;
