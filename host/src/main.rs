//! Cloister's untrusted host on bare metal, at EL1: the machine below the VMM library.
//!
//! `bare` is entered with the MMU off and brings up stage 1, the heap, the interrupt
//! controller, all CPUs and the PCIe devices; then it builds the VM that the boot image asks for with
//! the library, runs it, and powers off.

#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(
    target_os = "none",
    expect(
        unsafe_code,
        reason = "device registers, page frames and faulting accesses have no safe interface"
    )
)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(any(test, target_os = "none"))]
mod bare;

#[cfg(target_os = "none")]
bare::boot::host!(bare::guest::run, bare::scheduler::work);

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is a bare-metal binary: run it with `cargo run` from the workspace");
}
