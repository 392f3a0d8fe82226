//! The system registers of EL1 and the traps of EL2: whose they are at the moment.

use core::arch::asm;
use core::mem::offset_of;

use hyp_core::machine::{Space, Vmid};
use hyp_core::stage2::VTCR;
use hyp_core::vcpu::{RESET_SCTLR_EL1, SystemRegisters};

use crate::{arch, gic};

/// Bits of HCR_EL2 (Arm ARM DDI0487, D24.2.53).
mod hcr {
    pub(super) const VM: u64 = 1 << 0;
    pub(super) const SWIO: u64 = 1 << 1;
    pub(super) const PTW: u64 = 1 << 2;
    pub(super) const FMO: u64 = 1 << 3;
    pub(super) const IMO: u64 = 1 << 4;
    pub(super) const AMO: u64 = 1 << 5;
    pub(super) const FB: u64 = 1 << 9;
    pub(super) const BSU_INNER_SHAREABLE: u64 = 1 << 10;
    pub(super) const TWI: u64 = 1 << 13;
    pub(super) const TWE: u64 = 1 << 14;
    pub(super) const TID3: u64 = 1 << 18;
    pub(super) const TSC: u64 = 1 << 19;
    pub(super) const TIDCP: u64 = 1 << 20;
    pub(super) const TACR: u64 = 1 << 21;
    pub(super) const TSW: u64 = 1 << 22;
    pub(super) const RW: u64 = 1 << 31;
    pub(super) const TLOR: u64 = 1 << 35;
    pub(super) const TERR: u64 = 1 << 36;
}

/// The host: AArch64, under stage 2, its SMCs and reads of ID registers trapped. Interrupts are its own.
const HOST_HCR: u64 = hcr::VM | hcr::SWIO | hcr::TID3 | hcr::TSC | hcr::RW;

/// A guest: as the host, and interrupts, WFI, WFE and what else it has no business with come to EL2.
const GUEST_HCR: u64 = HOST_HCR
    | hcr::PTW
    | hcr::FMO
    | hcr::IMO
    | hcr::AMO
    | hcr::FB
    | hcr::BSU_INNER_SHAREABLE
    | hcr::TWI
    | hcr::TWE
    | hcr::TIDCP
    | hcr::TACR
    | hcr::TSW
    | hcr::TLOR
    | hcr::TERR;

/// Whether stage 2 is on, by a value of HCR_EL2.
pub(crate) const fn stage2_is_on(hcr: u64) -> bool {
    hcr & hcr::VM != 0
}

/// Bits of CPTR_EL2 with E2H = 0 (Arm ARM DDI0487, D24.2.35).
mod cptr {
    /// RES1, TZ and TSM among them: SVE and SME trap.
    pub(super) const RES1: u64 = 0x33ff;
    /// FP and SIMD trap.
    pub(super) const TFP: u64 = 1 << 10;
    /// Trace registers trap.
    pub(super) const TTA: u64 = 1 << 20;
    /// Activity monitors trap.
    pub(super) const TAM: u64 = 1 << 30;
}

/// Bits of MDCR_EL2 (Arm ARM DDI0487, D24.3.19).
mod mdcr {
    /// HPMN: the event counters that EL1 has. Kept as it was at reset.
    pub(super) const HPMN: u64 = 0x1f;
    /// TPMCR, TPM: the performance monitors trap.
    pub(super) const TPM: u64 = 1 << 5 | 1 << 6;
    /// TDA, TDOSA, TDRA: debug registers trap.
    pub(super) const TD: u64 = 1 << 9 | 1 << 10 | 1 << 11;
    /// TPMS: the statistical profiling extension traps.
    pub(super) const TPMS: u64 = 1 << 14;
    /// HPMD: no event is counted at EL2.
    pub(super) const HPMD: u64 = 1 << 17;
    /// TTRF: trace filter registers trap.
    pub(super) const TTRF: u64 = 1 << 19;
}

/// Bits of CNTHCTL_EL2 with E2H = 0 (Arm ARM DDI0487, D24.10.2).
mod cnthctl {
    /// The physical counter does not trap.
    pub(super) const EL1PCTEN: u64 = 1 << 0;
    /// The physical timer does not trap.
    pub(super) const EL1PCEN: u64 = 1 << 1;
}

/// ICC_SRE_EL2.SRE, DFB and DIB: system registers, no bypass (IHI 0069, section 12.2.24). Without Enable
/// EL1 does not reach ICC_SRE_EL1, which is not switched.
const ICC_SRE: u64 = 0b0111;

/// VTCR_EL2.PS.
const VTCR_PS_SHIFT: u32 = 16;

/// VTTBR_EL2.VMID.
const VMID_SHIFT: u32 = 48;

/// The VMID in a value of VTTBR_EL2.
pub(crate) const fn vmid(vttbr: u64) -> Vmid {
    Vmid((vttbr >> VMID_SHIFT) as u8)
}

/// The value of VTTBR_EL2 for a stage-2 address space.
pub(crate) const fn vttbr(space: Space) -> u64 {
    space.root.0 | ((space.vmid.0 as u64) << VMID_SHIFT)
}

/// Two registers at a time: for each pair that is stored, three instructions.
macro_rules! system_registers {
    ($($a:ident, $b:ident;)*) => {
        /// Stores the registers of whoever ran last.
        pub(crate) fn save_system(registers: &mut SystemRegisters) {
            // SAFETY: reading EL1's registers changes nothing; the fields are in `registers`.
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

        /// Loads the registers of whoever runs next.
        ///
        /// # Safety
        ///
        /// They are that host's or guest's, and EL1 does not run before its stage 2 is loaded as well.
        pub(crate) unsafe fn load_system(registers: &SystemRegisters) {
            // SAFETY: EL1's registers have no effect on EL2; the rest is the caller's promise.
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

/// The offset of the first of two fields that follow each other.
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
    cntv_ctl_el0, cntv_cval_el0;
}

/// Sets what is the same for the host and all guests; once per CPU.
pub(crate) fn init_cpu() {
    let midr = arch::read!("midr_el1");
    let physical_range = arch::physical_range();
    // SAFETY: EL1 has not run yet, and these take away from it or set known values.
    unsafe {
        arch::write!("vtcr_el2", VTCR | (physical_range << VTCR_PS_SHIFT));
        arch::write!("hstr_el2", 0);
        arch::write!("cntvoff_el2", 0);
        arch::write!("vpidr_el2", midr);
        // MMU and caches off, as the boot protocol and PSCI promise the host.
        arch::write!("sctlr_el1", RESET_SCTLR_EL1);
        arch::write!("icc_sre_el2", ICC_SRE);
    }
    arch::isb();
    gic::init_cpu();
    arch::isb();
}

/// From the next entry on the host runs: its traps, its stage 2.
///
/// # Safety
///
/// `space` is the host's.
pub(crate) unsafe fn select_host(space: Space, trap_fp: bool) {
    let mdcr = arch::read!("mdcr_el2") & mdcr::HPMN;
    let mpidr = arch::read!("mpidr_el1");
    // SAFETY: the caller's promise.
    unsafe {
        arch::write!("vttbr_el2", vttbr(space));
        arch::write!("hcr_el2", HOST_HCR);
        arch::write!(
            "cptr_el2",
            cptr::RES1 | cptr::TTA | if trap_fp { cptr::TFP } else { 0 }
        );
        // The host counts and traces nothing: guests run on its CPUs.
        arch::write!(
            "mdcr_el2",
            mdcr | mdcr::TPM | mdcr::TPMS | mdcr::TTRF | mdcr::HPMD
        );
        arch::write!("cnthctl_el2", cnthctl::EL1PCTEN | cnthctl::EL1PCEN);
        arch::write!("vmpidr_el2", mpidr);
    }
    arch::isb();
}

/// From the next entry on a guest's vCPU runs: its traps, its stage 2, its MPIDR_EL1. FP traps.
///
/// # Safety
///
/// `space` is the VM's.
pub(crate) unsafe fn select_guest(space: Space, vmpidr: u64) {
    let mdcr = arch::read!("mdcr_el2") & mdcr::HPMN;
    // SAFETY: the caller's promise.
    unsafe {
        arch::write!("vttbr_el2", vttbr(space));
        arch::write!("hcr_el2", GUEST_HCR);
        arch::write!("cptr_el2", cptr::RES1 | cptr::TFP | cptr::TTA | cptr::TAM);
        arch::write!(
            "mdcr_el2",
            mdcr | mdcr::TPM | mdcr::TD | mdcr::TPMS | mdcr::TTRF
        );
        arch::write!("cnthctl_el2", cnthctl::EL1PCTEN);
        arch::write!("vmpidr_el2", vmpidr);
    }
    arch::isb();
}

/// Lets EL1 use FP and SIMD, until the next [`select_host`] or [`select_guest`].
pub(crate) fn untrap_fp() {
    let cptr = arch::read!("cptr_el2");
    // SAFETY: the caller has loaded the registers of whoever runs, or is about to.
    unsafe { arch::write!("cptr_el2", cptr & !cptr::TFP) };
    arch::isb();
}
