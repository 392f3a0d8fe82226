//! The system registers of EL1 and the traps of EL2: whose they are at the moment.

use core::arch::asm;
use core::mem::offset_of;

use hyp_core::machine::{Space, Vmid};
use hyp_core::stage2::VTCR;
use hyp_core::syndrome::SyndromeRegisters;
use hyp_core::vcpu::{RESET_SCTLR_EL1, SystemRegisters};

use crate::{arch, gic};

/// A value that has these bits set.
const fn bits(positions: &[u32]) -> u64 {
    let (mut value, mut index) = (0, 0);
    while index < positions.len() {
        value |= 1 << positions[index];
        index += 1;
    }
    value
}

/// HCR_EL2.VM: stage 2 is on (Arm ARM DDI0487, D24.2.53).
const HCR_VM: u64 = bits(&[0]);

/// HCR_EL2 of the host: AArch64 (RW, 31), under stage 2 (VM; SWIO, 1). Its SMCs (TSC, 19) and reads of ID
/// registers (TID3, 18) trap, and so do implementation-defined registers (TIDCP, 20), ACTLR (TACR, 21) and
/// error records (TERR, 36). Interrupts are its own.
const HOST_HCR: u64 = HCR_VM | bits(&[1, 18, 19, 20, 21, 31, 36]);

/// HCR_EL2 of a guest: as the host's; interrupts (FMO, IMO, AMO: 3 to 5), WFI and WFE (TWI, TWE: 13, 14),
/// and what else it has no business with come to EL2: cache maintenance by set and way (TSW, 22) and
/// limited ordering regions (TLOR, 35). Its maintenance reaches all CPUs (FB, 9; BSU, 10), and its table walks
/// touch no device (PTW, 2).
const GUEST_HCR: u64 = HOST_HCR | bits(&[2, 3, 4, 5, 9, 10, 13, 14, 22, 35]);

/// Whether stage 2 is on, by a value of HCR_EL2.
pub(crate) const fn stage2_is_on(hcr: u64) -> bool {
    hcr & HCR_VM != 0
}

/// CPTR_EL2 with E2H = 0 (Arm ARM DDI0487, D24.2.35): RES1, with SVE and SME trapping (TZ and TSM among
/// it), trace registers (TTA, 20) and activity monitors (TAM, 30).
const CPTR: u64 = 0x33ff | bits(&[20, 30]);
/// CPTR_EL2.TFP: FP and SIMD trap.
const CPTR_TFP_SHIFT: u32 = 10;

/// MDCR_EL2.HPMN, the event counters that EL1 has: kept as it was at reset (Arm ARM DDI0487, D24.3.19).
const MDCR_HPMN: u64 = 0x1f;
/// MDCR_EL2: performance monitors (TPMCR and TPM: 5, 6), statistical profiling (TPMS, 14) and trace
/// filters (TTRF, 19) trap.
const MDCR: u64 = bits(&[5, 6, 14, 19]);
/// MDCR_EL2.HPMD: no event is counted at EL2.
const MDCR_HPMD: u64 = bits(&[17]);
/// MDCR_EL2.TDA, TDOSA, TDRA: debug registers trap.
const MDCR_TD: u64 = bits(&[9, 10, 11]);

/// CNTHCTL_EL2.EL1PCTEN with E2H = 0: the physical counter does not trap (Arm ARM DDI0487, D24.10.2).
const CNTHCTL_COUNTER: u64 = bits(&[0]);
/// CNTHCTL_EL2.EL1PCEN: the physical timer does not trap.
const CNTHCTL_TIMER: u64 = bits(&[1]);

/// ICC_SRE_EL2.SRE, DFB and DIB: system registers, no bypass (IHI 0069, section 12.2.24). Without Enable
/// EL1 does not reach ICC_SRE_EL1, which is not switched.
pub(crate) const ICC_SRE: u64 = 0b0111;

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
        #[inline(always)]
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
        #[inline(always)]
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
    cntv_cval_el0, cntv_ctl_el0;
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
    }
    arch::isb();
    no_extensions();
    gic::init_cpu();
    arch::isb();
}

/// Turns off what newer CPUs have, traps included, as firmware may have left it: what is not there for
/// EL1 is undefined by ID registers and other traps already.
fn no_extensions() {
    /// ID_AA64DFR0_EL1.TraceFilt: no trace of any world.
    const TRACE_FILTER_SHIFT: u32 = 40;
    /// ID_AA64MMFR1_EL1.HCX.
    const HCX_SHIFT: u32 = 40;
    /// ID_AA64MMFR0_EL1.FGT.
    const FGT_SHIFT: u32 = 56;
    let has = |register: u64, shift: u32| (register >> shift) & 0xf != 0;
    let (dfr0, mmfr0, mmfr1) =
        (arch::read!("id_aa64dfr0_el1"), arch::read!("id_aa64mmfr0_el1"), arch::read!("id_aa64mmfr1_el1"));
    // SAFETY: all of them take away from EL1, which has not run yet.
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

/// Why EL1 came to EL2.
pub(crate) fn syndrome() -> SyndromeRegisters {
    SyndromeRegisters {
        esr: arch::read!("esr_el2"),
        far: arch::read!("far_el2"),
        hpfar: arch::read!("hpfar_el2"),
    }
}

/// What is a CPU's own of what changes between its host and its guests.
#[derive(Debug)]
pub(crate) struct OwnTraps {
    vttbr: u64,
    /// MDCR_EL2, as far as it is the same for host and guests.
    mdcr: u64,
    mpidr: u64,
}

impl OwnTraps {
    /// Those of the CPU that this runs on; `space` is the host's.
    pub(crate) fn new(space: Space) -> Self {
        Self {
            vttbr: vttbr(space),
            mdcr: arch::read!("mdcr_el2") & MDCR_HPMN | MDCR,
            mpidr: arch::read!("mpidr_el1"),
        }
    }
}

/// From the next entry on the host runs: its traps, its stage 2.
///
/// # Safety
///
/// `own` is this CPU's.
#[inline(always)]
pub(crate) unsafe fn select_host(own: &OwnTraps, trap_fp: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        arch::write!("vttbr_el2", own.vttbr);
        arch::write!("hcr_el2", HOST_HCR);
        arch::write!("cptr_el2", CPTR | (u64::from(trap_fp) << CPTR_TFP_SHIFT));
        // The host counts and traces nothing: guests run on its CPUs.
        arch::write!("mdcr_el2", own.mdcr | MDCR_HPMD);
        arch::write!("cnthctl_el2", CNTHCTL_COUNTER | CNTHCTL_TIMER);
        arch::write!("vmpidr_el2", own.mpidr);
    }
    arch::isb();
}

/// From the next entry on a guest's vCPU runs: its traps, its stage 2, its MPIDR_EL1. FP traps.
///
/// # Safety
///
/// `own` is this CPU's, `space` the VM's.
#[inline(always)]
pub(crate) unsafe fn select_guest(own: &OwnTraps, space: Space, vmpidr: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        arch::write!("vttbr_el2", vttbr(space));
        arch::write!("hcr_el2", GUEST_HCR);
        arch::write!("cptr_el2", CPTR | (1 << CPTR_TFP_SHIFT));
        arch::write!("mdcr_el2", own.mdcr | MDCR_TD);
        arch::write!("cnthctl_el2", CNTHCTL_COUNTER);
        arch::write!("vmpidr_el2", vmpidr);
    }
    arch::isb();
}

/// Lets EL1 use FP and SIMD, until the next [`select_host`] or [`select_guest`].
pub(crate) fn untrap_fp() {
    let cptr = arch::read!("cptr_el2");
    // SAFETY: the caller has loaded the registers of whoever runs, or is about to.
    unsafe { arch::write!("cptr_el2", cptr & !(1 << CPTR_TFP_SHIFT)) };
    arch::isb();
}
