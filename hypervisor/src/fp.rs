//! FP and SIMD registers: loaded when they are first touched, never left for the next to read.
//!
//! EL2 itself is compiled without them. Whoever enters EL1 after a guest has used them traps on the
//! first touch.

use core::arch::naked_asm;
use core::mem::offset_of;

use hyp_core::cpu::registers::FpRegisters;

/// An instruction for each of q0 to q31 and its place in [`FpRegisters`].
macro_rules! all_q {
    ($instruction:literal) => {
        concat!(
            ".arch_extension fp\n.arch_extension simd\n",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n",
            $instruction,
            " q\\n, [x0, #16 * \\n]\n.endr"
        )
    };
}

/// Stores the CPU's FP and SIMD registers.
///
/// # Safety
///
/// `registers` is valid for writes; FP does not trap at EL2.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn save(registers: *mut FpRegisters) {
    naked_asm!(
        all_q!("str"),
        "mrs x1, fpcr\nmrs x2, fpsr\nadd x0, x0, #{control}\nstp x1, x2, [x0]\nret",
        control = const offset_of!(FpRegisters, fpcr),
    )
}

/// Loads the CPU's FP and SIMD registers.
///
/// # Safety
///
/// `registers` is valid for reads and belongs to whoever runs next; FP does not trap at EL2.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn load(registers: *const FpRegisters) {
    naked_asm!(
        all_q!("ldr"),
        "add x0, x0, #{control}\nldp x1, x2, [x0]\nmsr fpcr, x1\nmsr fpsr, x2\nret",
        control = const offset_of!(FpRegisters, fpcr),
    )
}
