//! The sixteen exception vectors of EL2 (Arm ARM DDI0487, D1.4.1).

use core::arch::global_asm;

use super::switch::{self, Vector};
use crate::arch;
use crate::machine::power;

global_asm!(
    // From a lower level: free x0 and x1, put the vector's number into x1, and continue in `leave`.
    ".macro lower vector",
    ".balign 0x80",
    "stp x0, x1, [sp, #{frame}]",
    "mov x1, #\\vector",
    "b {leave}",
    ".endm",
    // From EL2 itself: a bug of the hypervisor.
    ".macro own",
    ".balign 0x80",
    "mrs x0, esr_el2",
    "mrs x1, elr_el2",
    "mrs x2, far_el2",
    "b {fault}",
    ".endm",
    ".section .text.vectors, \"ax\"",
    ".balign 0x800",
    "hypervisor_vectors:",
    ".rept 8", // current level, SP_EL0 and SP_ELx
    "own",
    ".endr",
    ".balign 0x80", // lower level, AArch64
    "stp x0, x1, [sp, #{frame}]",
    "b {synchronous_64}",
    "lower {interrupt}",
    "lower {interrupt}", // FIQ, which the host takes too
    "lower {serror}",
    "lower {synchronous}", // lower level, AArch32: an HVC is no hypercall
    "lower {interrupt}",
    "lower {interrupt}",
    "lower {serror}",
    ".balign 0x80",
    frame = const switch::FRAME_X0,
    synchronous_64 = sym switch::synchronous,
    leave = sym switch::leave,
    fault = sym own_fault,
    synchronous = const Vector::Synchronous as u64,
    interrupt = const Vector::Interrupt as u64,
    serror = const Vector::SError as u64,
);

/// Reports an exception that EL2 took from itself, which is a bug of the hypervisor.
extern "C" fn own_fault(esr: u64, elr: u64, far: u64) -> ! {
    power::panicked(format_args!("exception in EL2: ESR {esr:#x}, ELR {elr:#x}, FAR {far:#x}"))
}

/// Points VBAR_EL2 of this CPU to the vectors.
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
pub(crate) fn install() {
    unsafe extern "C" {
        safe static hypervisor_vectors: u8;
    }
    let vectors = (&raw const hypervisor_vectors).addr() as u64;
    // SAFETY: the assembly above aligns the sixteen vectors to 2 KiB and puts them into `.text`, which EL2's identity
    // map (`machine::stage1`) makes executable.
    unsafe { arch::write!("vbar_el2", vectors) };
    arch::isb();
}
