//! Accesses to memory that may be taken away at any moment: they end early instead of faulting.
//!
//! The hypervisor answers a forbidden access with a synchronous external abort at the instruction.
//! All such accesses are made by the functions below, whose code lies between two labels; the
//! exception handler sends an abort that it finds there to the end of it ([`recover`]), where the
//! function returns failure.

use core::arch::global_asm;

use bare_rt::el1::frame::Frame;
use bare_rt::el1::syndrome::{Fault as Status, Syndrome};
use host::memory::{Fault, HostMemory};
use shared_abi::addr::Pa;

global_asm!(
    ".pushsection .text.tolerant, \"ax\"",
    // x0 = to, x1 = from, x2 = bytes. Returns 0, or not 0 if a part could not be copied.
    // Naturally aligned fields of 2, 4 and 8 bytes are copied by one access each, so that no torn
    // value is read; the CPU takes unaligned accesses to Normal memory as well.
    ".balign 4",
    "tolerant_copy:",
    "2:",
    "cmp x2, #8",
    "b.lo 3f",
    "ldr x3, [x1]",
    "str x3, [x0]",
    "add x0, x0, #8",
    "add x1, x1, #8",
    "sub x2, x2, #8",
    "b 2b",
    "3:",
    "tbz x2, #2, 4f",
    "ldr w3, [x1]",
    "str w3, [x0]",
    "add x0, x0, #4",
    "add x1, x1, #4",
    "4:",
    "tbz x2, #1, 5f",
    "ldrh w3, [x1]",
    "strh w3, [x0]",
    "add x0, x0, #2",
    "add x1, x1, #2",
    "5:",
    "tbz x2, #0, 6f",
    "ldrb w3, [x1]",
    "strb w3, [x0]",
    "6:",
    "mov x0, #0",
    "ret",
    "tolerant_fixup:",
    "mov x0, #1",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    fn tolerant_copy(to: *mut u8, from: *const u8, bytes: usize) -> u64;
    static tolerant_fixup: u8;
}

/// Lets an access of this module end with failure, if the exception is one of an access of its own.
pub(crate) fn recover(frame: &mut Frame) -> bool {
    let start = tolerant_copy as *const () as u64;
    let fixup = (&raw const tolerant_fixup).addr() as u64;
    let forbidden = match frame.syndrome() {
        Syndrome::DataAbort(abort) => {
            matches!(abort.fault, Status::External | Status::Translation(_))
        }
        _ => false,
    };
    let ours = forbidden && (start..fixup).contains(&frame.elr);
    if ours {
        frame.elr = fixup;
    }
    ours
}

/// Physical memory, mapped one to one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TolerantMemory;

impl HostMemory for TolerantMemory {
    fn read(&self, from: Pa, into: &mut [u8]) -> Result<(), Fault> {
        let source = core::ptr::with_exposed_provenance(from.0 as usize);
        // SAFETY: `into` is a borrowed buffer of that length. `tolerant_copy` reads the source by plain
        // loads, makes no reference to it, and returns failure if a load is forbidden (`recover`).
        match unsafe { tolerant_copy(into.as_mut_ptr(), source, into.len()) } {
            0 => Ok(()),
            _ => Err(Fault(from)),
        }
    }

    fn write(&self, to: Pa, from: &[u8]) -> Result<(), Fault> {
        let target = core::ptr::with_exposed_provenance_mut(to.0 as usize);
        // SAFETY: the VMM library writes only to frames that it has from the allocator or that a guest
        // shares, none of which holds a Rust value; the stores may fail.
        match unsafe { tolerant_copy(target, from.as_ptr(), from.len()) } {
            0 => Ok(()),
            _ => Err(Fault(to)),
        }
    }
}
