//! FP and SIMD registers, switched lazily: the first touch traps, and loads the registers of the party that
//! runs.
//!
//! A party's registers are never in the CPU while another party can use FP. EL2 itself is compiled without
//! them.

use core::arch::naked_asm;
use core::mem::offset_of;

use hyp_core::cpu::registers::{FpRegisters, VcpuContext};

use super::select::untrap_fp;

/// The host's FP registers while they are not in the CPU.
#[derive(Debug)]
pub(crate) struct HostFp {
    registers: FpRegisters,
    /// They are in `registers`, and FP traps in the host.
    saved: bool,
}

impl HostFp {
    /// All zero, and not in the CPU: the CPU's registers may hold what the firmware left there, so that the
    /// host's first touch loads these.
    pub(crate) fn new() -> Self {
        Self { registers: FpRegisters::default(), saved: true }
    }

    /// Whether FP traps in the host.
    pub(crate) const fn traps(&self) -> bool {
        self.saved
    }

    /// Loads the host's registers, after its first touch.
    pub(crate) fn give_to_host(&mut self) {
        // SAFETY: the host runs next, and its registers are in the CPU, or the lines below load them.
        unsafe { untrap_fp() };
        if self.saved {
            // SAFETY: `untrap_fp` has just untrapped FP, and `registers` is the host's: `give_to_guest`
            // stored it, or `new` zeroed it.
            unsafe { load(&raw const self.registers) };
            self.saved = false;
        }
    }

    /// Stores the host's registers and loads the guest's, after the guest's first touch.
    pub(crate) fn give_to_guest(&mut self, context: &mut VcpuContext) {
        // SAFETY: the guest of `context`, which trapped, runs next, and the lines below load its registers.
        unsafe { untrap_fp() };
        if !self.saved {
            // SAFETY: `untrap_fp` has just untrapped FP, and `registers` is borrowed mutably.
            unsafe { save(&raw mut self.registers) };
            self.saved = true;
        }
        // SAFETY: `untrap_fp` has just untrapped FP, and `context` is that of the guest that trapped, which
        // runs next.
        unsafe { load(&raw const context.fp) };
        context.fp_live = 1;
    }

    /// Stores the registers of the guest that leaves the CPU, if they are in it.
    pub(crate) fn take_from_guest(context: &mut VcpuContext) {
        if context.fp_live != 0 {
            // SAFETY: `give_to_guest`, which sets `fp_live`, has untrapped FP, and it traps again only with
            // the next `select_host`; `context` is borrowed mutably.
            unsafe { save(&raw mut context.fp) };
            context.fp_live = 0;
        }
    }
}

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
/// `registers` is valid for reads and belongs to the party that runs next; FP does not trap at EL2.
#[unsafe(naked)]
unsafe extern "C" fn load(registers: *const FpRegisters) {
    naked_asm!(
        all_q!("ldr"),
        "add x0, x0, #{control}\nldp x1, x2, [x0]\nmsr fpcr, x1\nmsr fpsr, x2\nret",
        control = const offset_of!(FpRegisters, fpcr),
    )
}
