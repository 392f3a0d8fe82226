//! Calls that are hardly ever made, from where every instruction counts.
//!
//! A call on a way that is not taken costs the way that is: what has to outlive it must be in registers that calls
//! preserve, and those have to be stored and loaded again. A call aside preserves all registers but two.

use core::arch::naked_asm;

/// What can be called aside.
pub(crate) trait Aside {
    /// Does it.
    ///
    /// # Safety
    ///
    /// The implementation says what the arguments have to be.
    unsafe extern "C" fn run(x0: u64, x1: u64, x2: u64, x3: u64);
}

/// Calls an [`Aside`] with up to four arguments, as in `call!(Function, "x0" = 1, "x1" = 2)`; it is `unsafe` as
/// that is. (Arguments that are not given are anything.)
macro_rules! call {
    ($aside:ty $(, $register:tt = $value:expr)*) => {{
        core::hint::cold_path();
        core::arch::asm!(
            "adr x17, 2f",
            "b {trampoline}",
            "2:",
            trampoline = sym $crate::aside::trampoline::<$aside>,
            $(in($register) $value,)*
            out("x16") _, // a linker's veneer may use it
            out("x17") _,
        )
    }};
}
pub(crate) use call;

/// Calls `A` and branches to x17, with x0 to x15, x18 and x30 as they were.
///
/// # Safety
///
/// Only for [`call`], which says in x17 where to go on.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn trampoline<A: Aside>() {
    naked_asm!(
        "stp x0, x1, [sp, #-160]!",
        "stp x2, x3, [sp, #16]",
        "stp x4, x5, [sp, #32]",
        "stp x6, x7, [sp, #48]",
        "stp x8, x9, [sp, #64]",
        "stp x10, x11, [sp, #80]",
        "stp x12, x13, [sp, #96]",
        "stp x14, x15, [sp, #112]",
        "stp x17, x18, [sp, #128]",
        "str x30, [sp, #144]",
        "bl {run}",
        "ldr x30, [sp, #144]",
        "ldp x17, x18, [sp, #128]",
        "ldp x14, x15, [sp, #112]",
        "ldp x12, x13, [sp, #96]",
        "ldp x10, x11, [sp, #80]",
        "ldp x8, x9, [sp, #64]",
        "ldp x6, x7, [sp, #48]",
        "ldp x4, x5, [sp, #32]",
        "ldp x2, x3, [sp, #16]",
        "ldp x0, x1, [sp], #160",
        "br x17",
        run = sym A::run,
    )
}
