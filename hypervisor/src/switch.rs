//! Entering EL1 and coming back: one function, for the host and for guests.
//!
//! [`enter`] loads the general registers, PC and PSTATE and returns when an exception has brought the
//! CPU back to EL2, with the registers stored again. System registers are [`crate::state`]'s.

use core::arch::naked_asm;
use core::mem::offset_of;

use hyp_core::vcpu::VcpuContext;

/// General registers, PC and PSTATE: what a [`VcpuContext`] starts with.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Registers {
    /// x0 to x30.
    pub(crate) x: [u64; 31],
    /// ELR_EL2.
    pub(crate) pc: u64,
    /// SPSR_EL2.
    pub(crate) pstate: u64,
}

const _: () = {
    assert!(offset_of!(VcpuContext, x) == offset_of!(Registers, x));
    assert!(offset_of!(VcpuContext, pc) == offset_of!(Registers, pc));
    assert!(offset_of!(VcpuContext, pstate) == offset_of!(Registers, pstate));
};

/// What brought the CPU back: the vector that it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Vector {
    /// A synchronous exception: ESR_EL2 says more.
    Synchronous = 0,
    /// A physical IRQ or FIQ, which the host is to take.
    Interrupt = 1,
    /// An SError interrupt.
    SError = 2,
}

/// Runs EL1 from `registers` until it comes back.
///
/// # Safety
///
/// `registers` points to a [`Registers`] (or a [`VcpuContext`], which starts with one) that nobody else
/// uses; PSTATE in it is one of EL1 or EL0; the system registers are those of that host or guest.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn enter(registers: *mut Registers) -> Vector {
    naked_asm!(
        "stp x29, x30, [sp, #-112]!",
        "stp x19, x20, [sp, #16]",
        "stp x21, x22, [sp, #32]",
        "stp x23, x24, [sp, #48]",
        "stp x25, x26, [sp, #64]",
        "stp x27, x28, [sp, #80]",
        "str x0, [sp, #96]",
        "ldp x2, x3, [x0, #{pc}]",
        "msr elr_el2, x2",
        "msr spsr_el2, x3",
        "ldp x2, x3, [x0, #16]",
        "ldp x4, x5, [x0, #32]",
        "ldp x6, x7, [x0, #48]",
        "ldp x8, x9, [x0, #64]",
        "ldp x10, x11, [x0, #80]",
        "ldp x12, x13, [x0, #96]",
        "ldp x14, x15, [x0, #112]",
        "ldp x16, x17, [x0, #128]",
        "ldp x18, x19, [x0, #144]",
        "ldp x20, x21, [x0, #160]",
        "ldp x22, x23, [x0, #176]",
        "ldp x24, x25, [x0, #192]",
        "ldp x26, x27, [x0, #208]",
        "ldp x28, x29, [x0, #224]",
        "ldr x30, [x0, #240]",
        "ldp x0, x1, [x0]",
        "eret",
        // No speculation past the return (Arm ARM DDI0487, C6.2.118).
        "dsb nsh",
        "isb",
        pc = const offset_of!(Registers, pc),
    )
}

/// Where the vectors for exceptions from a lower level go on, with x0 and x1 of the interrupted
/// context on the stack and the [`Vector`] in x1: the second half of [`enter`].
///
/// # Safety
///
/// Only for the vectors to branch to.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn leave() -> ! {
    naked_asm!(
        "ldr x0, [sp, #{registers}]",
        "stp x2, x3, [x0, #16]",
        "stp x4, x5, [x0, #32]",
        "stp x6, x7, [x0, #48]",
        "stp x8, x9, [x0, #64]",
        "stp x10, x11, [x0, #80]",
        "stp x12, x13, [x0, #96]",
        "stp x14, x15, [x0, #112]",
        "stp x16, x17, [x0, #128]",
        "stp x18, x19, [x0, #144]",
        "stp x20, x21, [x0, #160]",
        "stp x22, x23, [x0, #176]",
        "stp x24, x25, [x0, #192]",
        "stp x26, x27, [x0, #208]",
        "stp x28, x29, [x0, #224]",
        "str x30, [x0, #240]",
        "ldp x2, x3, [sp], #16",
        "stp x2, x3, [x0]",
        "mrs x2, elr_el2",
        "mrs x3, spsr_el2",
        "stp x2, x3, [x0, #{pc}]",
        "mov x0, x1",
        "ldp x19, x20, [sp, #16]",
        "ldp x21, x22, [sp, #32]",
        "ldp x23, x24, [sp, #48]",
        "ldp x25, x26, [sp, #64]",
        "ldp x27, x28, [sp, #80]",
        "ldp x29, x30, [sp], #112",
        "ret",
        pc = const offset_of!(Registers, pc),
        registers = const 16 + 96,
    )
}
