//! The vector table of EL1.
//!
//! A binary implements [`Handlers`] and calls [`install`] on each CPU. Every entry saves the whole [`Frame`] on the
//! current stack (SP_EL1), calls the handler, and returns to the frame as the handler left it. FP and SIMD registers
//! are not saved, because these binaries are compiled for a target without them.

use core::arch::{asm, naked_asm};
use core::mem::offset_of;

use super::frame::{Frame, Vector};

/// A binary's exception handlers. Interrupts are masked while a handler runs.
pub trait Handlers {
    /// Handles a synchronous exception from EL1 itself.
    fn synchronous(frame: &mut Frame);
    /// Handles an IRQ that interrupted EL1.
    fn irq(frame: &mut Frame);
    /// Handles any other exception: FIQ, SError, and exceptions from exception levels that the binary does not use.
    fn other(frame: &mut Frame, vector: Vector);
}

/// Points VBAR_EL1 of this CPU to a vector table that calls `H`.
pub fn install<H: Handlers>() {
    let table = table::<H>();
    // SAFETY: `table` is the address of a complete vector table in this binary's text, which `table` aligns to 2 KiB
    // and which stays mapped.
    unsafe {
        asm!("msr vbar_el1, {}", "isb", in(reg) table, options(nostack, preserves_flags));
    }
}

extern "C" fn dispatch<H: Handlers>(frame: &mut Frame, vector: u64) {
    /// "Current exception level with SP_ELx, synchronous".
    const SYNCHRONOUS: u8 = 4;
    /// "Current exception level with SP_ELx, IRQ".
    const IRQ: u8 = 5;
    match vector as u8 {
        SYNCHRONOUS => H::synchronous(frame),
        IRQ => H::irq(frame),
        other => H::other(frame, Vector(other)),
    }
}

/// One entry: makes room for the frame, saves two registers, and puts the entry's number into x1.
macro_rules! entry {
    ($number:literal) => {
        concat!(
            ".balign 0x80\n",
            "sub sp, sp, #{size}\n",
            "stp x0, x1, [sp]\n",
            "mov x1, #",
            $number,
            "\n",
            "b 3f\n",
        )
    };
}

/// Returns the address of the vector table that follows this function's first two instructions.
#[unsafe(naked)]
extern "C" fn table<H: Handlers>() -> u64 {
    naked_asm!(
        "adr x0, 2f",
        "ret",
        ".balign 0x800",
        "2:",
        entry!(0),
        entry!(1),
        entry!(2),
        entry!(3),
        entry!(4),
        entry!(5),
        entry!(6),
        entry!(7),
        entry!(8),
        entry!(9),
        entry!(10),
        entry!(11),
        entry!(12),
        entry!(13),
        entry!(14),
        entry!(15),
        ".balign 0x80",
        "3:",
        "stp x2, x3, [sp, #2 * 8]",
        "stp x4, x5, [sp, #4 * 8]",
        "stp x6, x7, [sp, #6 * 8]",
        "stp x8, x9, [sp, #8 * 8]",
        "stp x10, x11, [sp, #10 * 8]",
        "stp x12, x13, [sp, #12 * 8]",
        "stp x14, x15, [sp, #14 * 8]",
        "stp x16, x17, [sp, #16 * 8]",
        "stp x18, x19, [sp, #18 * 8]",
        "stp x20, x21, [sp, #20 * 8]",
        "stp x22, x23, [sp, #22 * 8]",
        "stp x24, x25, [sp, #24 * 8]",
        "stp x26, x27, [sp, #26 * 8]",
        "stp x28, x29, [sp, #28 * 8]",
        "add x2, sp, #{size}",
        "stp x30, x2, [sp, #{lr}]", // and the interrupted stack pointer
        "mrs x2, elr_el1",
        "mrs x3, spsr_el1",
        "stp x2, x3, [sp, #{elr}]",
        "mrs x2, esr_el1",
        "mrs x3, far_el1",
        "stp x2, x3, [sp, #{esr}]",
        "mov x0, sp",
        "bl {dispatch}",
        "ldp x2, x3, [sp, #{elr}]",
        "msr elr_el1, x2",
        "msr spsr_el1, x3",
        "ldp x2, x3, [sp, #2 * 8]",
        "ldp x4, x5, [sp, #4 * 8]",
        "ldp x6, x7, [sp, #6 * 8]",
        "ldp x8, x9, [sp, #8 * 8]",
        "ldp x10, x11, [sp, #10 * 8]",
        "ldp x12, x13, [sp, #12 * 8]",
        "ldp x14, x15, [sp, #14 * 8]",
        "ldp x16, x17, [sp, #16 * 8]",
        "ldp x18, x19, [sp, #18 * 8]",
        "ldp x20, x21, [sp, #20 * 8]",
        "ldp x22, x23, [sp, #22 * 8]",
        "ldp x24, x25, [sp, #24 * 8]",
        "ldp x26, x27, [sp, #26 * 8]",
        "ldp x28, x29, [sp, #28 * 8]",
        "ldr x30, [sp, #{lr}]",
        "ldp x0, x1, [sp]",
        "add sp, sp, #{size}",
        "eret",
        size = const size_of::<Frame>(),
        lr = const offset_of!(Frame, x) + 30 * size_of::<u64>(),
        elr = const offset_of!(Frame, elr),
        esr = const offset_of!(Frame, esr),
        dispatch = sym dispatch::<H>,
    )
}

// The register pairs above assume this layout: x0 at the frame's start, sp after x30, SPSR after ELR, FAR after ESR.
const _: () = assert!(offset_of!(Frame, x) == 0);
const _: () = assert!(offset_of!(Frame, sp) == offset_of!(Frame, x) + 31 * size_of::<u64>());
const _: () = assert!(offset_of!(Frame, spsr) == offset_of!(Frame, elr) + size_of::<u64>());
const _: () = assert!(offset_of!(Frame, far) == offset_of!(Frame, esr) + size_of::<u64>());
