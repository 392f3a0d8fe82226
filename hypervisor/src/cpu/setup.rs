//! The one-time setup of each CPU before EL1 runs on it: EL2 itself, then the controls that host and guests share.

use hyp_core::cpu::registers::RESET_SCTLR_EL1;

use super::gic;
use crate::arch::{self, controls};

/// Takes EL2 of this CPU from the firmware: the first step on each CPU. Returns the reason if this CPU cannot run the
/// hypervisor.
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
pub(crate) fn take_el2() -> Result<(), &'static str> {
    const E2H: u64 = 1 << 34;
    // SAFETY: each CPU calls this first at EL2 (`boot::main`, `boot::secondary::main`). Nothing runs at EL1 yet, and
    // no register whose layout depends on E2H was written before.
    unsafe {
        arch::write!("hcr_el2", controls::HCR_RW);
        arch::write!("icc_sre_el2", controls::ICC_SRE);
    }
    arch::isb();
    if arch::read!("hcr_el2") & E2H != 0 {
        return Err("this CPU has EL2 with VHE alone");
    }
    if !gic::fits() {
        return Err("this CPU has too many interrupt priorities or too few list registers");
    }
    Ok(())
}

/// Sets the controls that the host and all guests share, and invalidates stale EL1 translations in this CPU's
/// TLB.
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
pub(crate) fn init_cpu() {
    let midr = arch::read!("midr_el1");
    let physical_range = arch::physical_range();
    // SAFETY: EL1 has not run yet on this CPU, and `take_el2` left stage 2 off. The values remove rights from EL1 or
    // are reset values.
    unsafe {
        arch::write!("vtcr_el2", controls::vtcr(physical_range));
        arch::write!("hstr_el2", 0);
        arch::write!("cntvoff_el2", 0);
        arch::write!("vpidr_el2", midr);
        // The boot protocol and PSCI start the host with its MMU and caches off.
        arch::write!("sctlr_el1", RESET_SCTLR_EL1);
    }
    arch::isb();
    no_extensions();
    gic::init_cpu();
    arch::tlbi_alle1();
    arch::dsb_nsh();
    arch::isb();
}

/// Turns off extensions and their traps, whose registers the firmware may have set. ID registers and other traps
/// already make the features undefined for EL1.
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
fn no_extensions() {
    /// ID_AA64DFR0_EL1.TraceFilt. Its registers are cleared, so that no trace is taken of any party.
    const TRACE_FILTER_SHIFT: u32 = 40;
    /// ID_AA64MMFR1_EL1.HCX.
    const HCX_SHIFT: u32 = 40;
    /// ID_AA64MMFR0_EL1.FGT.
    const FGT_SHIFT: u32 = 56;
    let has = |register: u64, shift: u32| (register >> shift) & 0xf != 0;
    let (dfr0, mmfr0, mmfr1) =
        (arch::read!("id_aa64dfr0_el1"), arch::read!("id_aa64mmfr0_el1"), arch::read!("id_aa64mmfr1_el1"));
    // SAFETY: a register is written only if an ID register says that this CPU has it. EL1 has not run yet on this
    // CPU, and zero removes rights from EL1.
    unsafe {
        if has(dfr0, TRACE_FILTER_SHIFT) {
            arch::write!("s3_0_c1_c2_1", 0); // TRFCR_EL1
            arch::write!("s3_4_c1_c2_1", 0); // TRFCR_EL2
        }
        if has(mmfr1, HCX_SHIFT) {
            arch::write!("s3_4_c1_c2_2", 0); // HCRX_EL2
        }
        if has(mmfr0, FGT_SHIFT) {
            arch::write!("s3_4_c1_c1_4", 0); // HFGRTR_EL2
            arch::write!("s3_4_c1_c1_5", 0); // HFGWTR_EL2
            arch::write!("s3_4_c1_c1_6", 0); // HFGITR_EL2
            arch::write!("s3_4_c3_c1_4", 0); // HDFGRTR_EL2
            arch::write!("s3_4_c3_c1_5", 0); // HDFGWTR_EL2
        }
    }
}
