//! FP and SIMD registers: loaded when they are first touched, never left for the next to read.
//!
//! EL2 itself is compiled without them. Whoever enters EL1 after a guest has used them traps on the
//! first touch.

use core::arch::naked_asm;
use core::mem::offset_of;

use hyp_core::vcpu::FpRegisters;

macro_rules! all_q {
    ($instruction:literal, $last:literal) => {
        concat!(
            ".arch_extension fp\n.arch_extension simd\n",
            $instruction,
            " q0, q1, [x0, #0]\n",
            $instruction,
            " q2, q3, [x0, #32]\n",
            $instruction,
            " q4, q5, [x0, #64]\n",
            $instruction,
            " q6, q7, [x0, #96]\n",
            $instruction,
            " q8, q9, [x0, #128]\n",
            $instruction,
            " q10, q11, [x0, #160]\n",
            $instruction,
            " q12, q13, [x0, #192]\n",
            $instruction,
            " q14, q15, [x0, #224]\n",
            $instruction,
            " q16, q17, [x0, #256]\n",
            $instruction,
            " q18, q19, [x0, #288]\n",
            $instruction,
            " q20, q21, [x0, #320]\n",
            $instruction,
            " q22, q23, [x0, #352]\n",
            $instruction,
            " q24, q25, [x0, #384]\n",
            $instruction,
            " q26, q27, [x0, #416]\n",
            $instruction,
            " q28, q29, [x0, #448]\n",
            $instruction,
            " q30, q31, [x0, #480]\n",
            $last
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
        all_q!("stp", "mrs x1, fpcr\nmrs x2, fpsr\nadd x0, x0, #{control}\nstp x1, x2, [x0]\nret"),
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
        all_q!("ldp", "add x0, x0, #{control}\nldp x1, x2, [x0]\nmsr fpcr, x1\nmsr fpsr, x2\nret"),
        control = const offset_of!(FpRegisters, fpcr),
    )
}
