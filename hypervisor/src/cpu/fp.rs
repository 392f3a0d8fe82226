//! FP and SIMD registers, switched lazily. The first use of FP traps, and the trap loads the registers of the running
//! party.
//!
//! Invariant: while a party can use FP, the CPU holds that party's registers. EL2 itself is compiled without FP.

use core::arch::naked_asm;
use core::mem::offset_of;

use hyp_core::cpu::registers::{FpRegisters, VcpuContext};

use super::select::untrap_fp;

/// The host's FP registers while the CPU does not hold them.
#[derive(Debug)]
pub(crate) struct HostFp {
    registers: FpRegisters,
    /// True if `registers` holds them; then FP traps in the host.
    saved: bool,
}

impl HostFp {
    /// Returns registers that are all zero and not loaded. The CPU may still hold the firmware's values, so
    /// the host's first use of FP must load the zeroes.
    pub(crate) fn new() -> Self {
        Self { registers: FpRegisters::default(), saved: true }
    }

    /// Returns true if FP traps in the host.
    pub(crate) const fn traps(&self) -> bool {
        self.saved
    }

    /// Loads the host's registers after its first use of FP.
    pub(crate) fn give_to_host(&mut self) {
        // SAFETY: the host runs next. The CPU holds its registers, or the lines below load them.
        unsafe { untrap_fp() };
        if self.saved {
            // SAFETY: `untrap_fp` has just untrapped FP. `registers` is the host's: `give_to_guest` stored it, or
            // `new` zeroed it.
            unsafe { load(&raw const self.registers) };
            self.saved = false;
        }
    }

    /// Stores the host's registers and loads the guest's, after the guest's first use of FP.
    pub(crate) fn give_to_guest(&mut self, context: &mut VcpuContext) {
        // SAFETY: the guest of `context`, which trapped, runs next, and the lines below load its registers.
        unsafe { untrap_fp() };
        if !self.saved {
            // SAFETY: `untrap_fp` has just untrapped FP, and `registers` is borrowed mutably.
            unsafe { save(&raw mut self.registers) };
            self.saved = true;
        }
        // SAFETY: `untrap_fp` has just untrapped FP. `context` is that of the guest that trapped, which runs next.
        unsafe { load(&raw const context.fp) };
        context.fp_live = 1;
    }

    /// Stores the registers of the guest that leaves the CPU, if the CPU holds them.
    pub(crate) fn take_from_guest(context: &mut VcpuContext) {
        if context.fp_live != 0 {
            // SAFETY: `give_to_guest`, which sets `fp_live`, has untrapped FP, and only the next `select_host` traps
            // it again. `context` is borrowed mutably.
            unsafe { save(&raw mut context.fp) };
            context.fp_live = 0;
        }
    }
}

/// Applies an instruction to each of q0 to q31 and its place in [`FpRegisters`].
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
/// `registers` is valid for writes, and FP does not trap at EL2.
#[unsafe(naked)]
unsafe extern "C" fn save(registers: *mut FpRegisters) {
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
/// `registers` is valid for reads and belongs to the party that runs next, and FP does not trap at EL2.
#[unsafe(naked)]
unsafe extern "C" fn load(registers: *const FpRegisters) {
    naked_asm!(
        all_q!("ldr"),
        "add x0, x0, #{control}\nldp x1, x2, [x0]\nmsr fpcr, x1\nmsr fpsr, x2\nret",
        control = const offset_of!(FpRegisters, fpcr),
    )
}
