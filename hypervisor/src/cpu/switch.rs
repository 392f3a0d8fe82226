//! The world switch: one function enters EL1 and returns from it, for the host and for guests.
//!
//! [`enter`] loads the general registers, PC and PSTATE. It returns after an exception to EL2, when the registers are
//! stored again. Its callers switch the system registers ([`super::el1_registers`]).
//!
//! A hypercall takes a fast path. Under AAPCS64 every function preserves x19 to x29, so the vector stores only x0 to
//! x18 and x30. It calls the handler that [`enter`] was given, on the same stack, and returns to EL1 when the handler
//! returns. If the handler returns [`AfterHypercall::Return`], the vector stores the other registers too and
//! [`enter`] returns.

use core::arch::naked_asm;
use core::mem::offset_of;

use hyp_core::cpu::registers::Registers;
use hyp_core::cpu::syndrome::class;

/// The vector that ended a run of EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Vector {
    /// A synchronous exception other than an HVC from AArch64. ESR_EL2 has the class.
    Synchronous = 0,
    /// A physical IRQ or FIQ, which the host takes.
    Interrupt = 1,
    /// An SError interrupt.
    SError = 2,
    /// A hypercall whose handler returned [`AfterHypercall::Return`].
    Hypercall = 3,
}

/// The vector's next step, after a hypercall's handler has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum AfterHypercall {
    /// [`enter`] returns [`Vector::Hypercall`].
    Return = 0,
    /// The vector enters EL1 again.
    Resume = 1,
}

/// Handles a hypercall. `owner` is the pointer that [`enter`] was given. In the stored registers, x19 to x29 are
/// stale.
pub(crate) type Handler = unsafe extern "C" fn(owner: *mut ()) -> AfterHypercall;

/// The stack frame of [`enter`] while EL1 runs.
#[repr(C, align(16))]
struct Frame {
    /// x29, x30, and x19 to x28 of [`enter`]'s caller.
    preserved: [u64; 12],
    registers: *mut Registers,
    owner: *mut (),
    handler: Handler,
    /// x0 and x1 of EL1, from the vector's first instruction on.
    x0: u64,
    x1: u64,
    _pad: u64,
}

/// The offset in the frame at which a vector stores x0 and x1.
pub(crate) const FRAME_X0: usize = offset_of!(Frame, x0);

/// Stores EL1's registers to the [`Registers`] at x0: x2 to x18, x30, PC and PSTATE, and x0 and x1 from the frame.
/// Changes x2 and x3.
macro_rules! store_caller_saved {
    () => {
        "stp x2, x3, [x0, #16]
         stp x4, x5, [x0, #32]
         stp x6, x7, [x0, #48]
         stp x8, x9, [x0, #64]
         stp x10, x11, [x0, #80]
         stp x12, x13, [x0, #96]
         stp x14, x15, [x0, #112]
         stp x16, x17, [x0, #128]
         str x18, [x0, #144]
         str x30, [x0, #240]
         ldp x2, x3, [sp, #{x0}]
         stp x2, x3, [x0]
         mrs x2, elr_el2
         mrs x3, spsr_el2
         stp x2, x3, [x0, #{pc}]"
    };
}

/// Loads x0 to x18, x30, PC and PSTATE from the [`Registers`] at x0, and enters EL1.
macro_rules! load_caller_saved_and_go {
    () => {
        "ldp x2, x3, [x0, #{pc}]
         msr elr_el2, x2
         msr spsr_el2, x3
         ldp x2, x3, [x0, #16]
         ldp x4, x5, [x0, #32]
         ldp x6, x7, [x0, #48]
         ldp x8, x9, [x0, #64]
         ldp x10, x11, [x0, #80]
         ldp x12, x13, [x0, #96]
         ldp x14, x15, [x0, #112]
         ldp x16, x17, [x0, #128]
         ldr x18, [x0, #144]
         ldr x30, [x0, #240]
         ldp x0, x1, [x0]
         eret
         // No speculation past the return (Arm ARM DDI0487, C6.2.118).
         dsb nsh
         isb"
    };
}

/// Stores x19 to x29 of EL1 to the [`Registers`] at x0, and returns x1 to the caller of [`enter`].
macro_rules! store_preserved_and_return {
    () => {
        "stp x19, x20, [x0, #152]
         stp x21, x22, [x0, #168]
         stp x23, x24, [x0, #184]
         stp x25, x26, [x0, #200]
         stp x27, x28, [x0, #216]
         str x29, [x0, #232]
         mov x0, x1
         ldp x19, x20, [sp, #16]
         ldp x21, x22, [sp, #32]
         ldp x23, x24, [sp, #48]
         ldp x25, x26, [sp, #64]
         ldp x27, x28, [sp, #80]
         ldp x29, x30, [sp], #{frame}
         ret"
    };
}

/// Runs EL1 from `registers` until an exception other than a hypercall, or until `handler` returns
/// [`AfterHypercall::Return`].
///
/// # Safety
///
/// * `registers` points to [`Registers`] that only `handler` uses until this returns. Their PSTATE is one of EL1 or
///   EL0.
/// * The CPU holds the system registers of the same host or guest, now and whenever `handler` returns.
/// * `owner` is valid for `handler`.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn enter(registers: *mut Registers, owner: *mut (), handler: Handler) -> Vector {
    naked_asm!(
        "stp x29, x30, [sp, #-{frame}]!",
        "stp x19, x20, [sp, #16]",
        "stp x21, x22, [sp, #32]",
        "stp x23, x24, [sp, #48]",
        "stp x25, x26, [sp, #64]",
        "stp x27, x28, [sp, #80]",
        "stp x0, x1, [sp, #{registers}]",
        "str x2, [sp, #{handler}]",
        "ldp x19, x20, [x0, #152]",
        "ldp x21, x22, [x0, #168]",
        "ldp x23, x24, [x0, #184]",
        "ldp x25, x26, [x0, #200]",
        "ldp x27, x28, [x0, #216]",
        "ldr x29, [x0, #232]",
        load_caller_saved_and_go!(),
        pc = const offset_of!(Registers, pc),
        frame = const size_of::<Frame>(),
        registers = const offset_of!(Frame, registers),
        handler = const offset_of!(Frame, handler),
    )
}

/// The second half of [`enter`]. The vectors for exceptions from a lower level branch here, with x0 and x1 of EL1 in
/// the frame and the [`Vector`] in x1.
///
/// # Safety
///
/// Only the exception vectors may branch here.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn leave() -> ! {
    naked_asm!(
        "ldr x0, [sp, #{registers}]",
        store_caller_saved!(),
        store_preserved_and_return!(),
        x0 = const FRAME_X0,
        pc = const offset_of!(Registers, pc),
        frame = const size_of::<Frame>(),
        registers = const offset_of!(Frame, registers),
    )
}

/// The vector for synchronous exceptions from AArch64 branches here, with x0 and x1 of EL1 in the frame.
///
/// # Safety
///
/// Only the vectors branch here.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn synchronous() -> ! {
    naked_asm!(
        "mrs x0, esr_el2",
        "lsr x0, x0, #{class}",
        "cmp x0, #{hvc}",
        "b.ne 3f",
        "ldr x0, [sp, #{registers}]",
        store_caller_saved!(),
        "ldp x0, x1, [sp, #{owner}]",
        "blr x1",
        "cbz x0, 2f",
        "ldr x0, [sp, #{registers}]",
        load_caller_saved_and_go!(),
        "2: ldr x0, [sp, #{registers}]",
        "mov x1, #{hypercall}",
        store_preserved_and_return!(),
        "3: mov x1, #{synchronous}",
        "b {leave}",
        class = const class::SHIFT,
        hvc = const class::HVC64,
        synchronous = const Vector::Synchronous as u64,
        hypercall = const Vector::Hypercall as u64,
        leave = sym leave,
        x0 = const FRAME_X0,
        pc = const offset_of!(Registers, pc),
        frame = const size_of::<Frame>(),
        registers = const offset_of!(Frame, registers),
        owner = const offset_of!(Frame, owner),
    )
}
