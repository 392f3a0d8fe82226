//! The system registers of EL1: stored for the party that ran last, loaded for the party that runs next.

use core::arch::asm;
use core::mem::offset_of;

use hyp_core::cpu::registers::SystemRegisters;
use hyp_core::cpu::syndrome::SyndromeRegisters;

use crate::arch;

/// Defines the save and the load of all fields of [`SystemRegisters`] in pairs: a pair takes three instructions.
macro_rules! system_registers {
    ($($a:ident, $b:ident;)*) => {
        /// Stores the registers of the party that ran last.
        // symbol: tests/tests/metal reads its instructions.
        #[inline(never)]
        pub(crate) fn save_system(registers: &mut SystemRegisters) {
            // SAFETY: a read of EL1's registers has no side effect. Each store is to two fields of `registers`, which
            // is borrowed mutably; `pair` has checked that the two are adjacent.
            $(unsafe {
                asm!(
                    concat!("mrs {a}, ", stringify!($a)),
                    concat!("mrs {b}, ", stringify!($b)),
                    "stp {a}, {b}, [{registers}, #{offset}]",
                    a = out(reg) _,
                    b = out(reg) _,
                    registers = in(reg) &raw mut *registers,
                    offset = const pair(offset_of!(SystemRegisters, $a), offset_of!(SystemRegisters, $b)),
                    options(nostack, preserves_flags),
                );
            })*
        }

        /// Loads the registers of the party that runs next.
        ///
        /// # Safety
        ///
        /// The caller gives the registers of that party, and selects its stage 2 before EL1 runs.
        // symbol: tests/tests/metal reads its instructions.
        #[inline(never)]
        pub(crate) unsafe fn load_system(registers: &SystemRegisters) {
            // SAFETY: these registers have no effect on EL2. The caller gives those of the party that runs next, and
            // selects its stage 2 before EL1 runs. Each load is from two fields of `registers`, which `pair` has
            // checked to be adjacent.
            $(unsafe {
                asm!(
                    "ldp {a}, {b}, [{registers}, #{offset}]",
                    concat!("msr ", stringify!($a), ", {a}"),
                    concat!("msr ", stringify!($b), ", {b}"),
                    a = out(reg) _,
                    b = out(reg) _,
                    registers = in(reg) &raw const *registers,
                    offset = const pair(offset_of!(SystemRegisters, $a), offset_of!(SystemRegisters, $b)),
                    options(nostack, preserves_flags),
                );
            })*
        }
    };
}

/// Returns the offset of the first of two adjacent fields. Compilation fails if they are not adjacent.
const fn pair(first: usize, second: usize) -> usize {
    assert!(second == first + size_of::<u64>());
    first
}

system_registers! {
    sp_el0, sp_el1;
    elr_el1, spsr_el1;
    sctlr_el1, cpacr_el1;
    ttbr0_el1, ttbr1_el1;
    tcr_el1, esr_el1;
    afsr0_el1, afsr1_el1;
    far_el1, mair_el1;
    amair_el1, vbar_el1;
    contextidr_el1, tpidr_el0;
    tpidrro_el0, tpidr_el1;
    cntkctl_el1, par_el1;
    mdscr_el1, csselr_el1;
    cntv_cval_el0, cntv_ctl_el0;
}

/// Returns the registers that describe the last exception to EL2.
pub(crate) fn syndrome() -> SyndromeRegisters {
    SyndromeRegisters {
        esr: arch::read!("esr_el2"),
        far: arch::read!("far_el2"),
        hpfar: arch::read!("hpfar_el2"),
    }
}
