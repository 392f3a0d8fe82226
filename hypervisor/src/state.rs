//! The system registers of EL1 and the traps of EL2: whose they are at the moment.

use core::arch::asm;
use core::mem::offset_of;

use hyp_core::cpu::registers::{RESET_SCTLR_EL1, SystemRegisters};
use hyp_core::cpu::syndrome::SyndromeRegisters;
use hyp_core::machine::{Stage2Id, Vmid};

use crate::{arch, controls, gic};

/// VTTBR_EL2.VMID.
const VMID_SHIFT: u32 = 48;

/// The VMID in a value of VTTBR_EL2.
pub(crate) const fn vmid(vttbr: u64) -> Vmid {
    Vmid((vttbr >> VMID_SHIFT) as u8)
}

/// The value of VTTBR_EL2 for a stage-2 address space.
pub(crate) const fn vttbr(stage2_id: Stage2Id) -> u64 {
    stage2_id.root.0 | ((stage2_id.vmid.0 as u64) << VMID_SHIFT)
}

/// Two registers at a time: for each pair that is stored, three instructions.
macro_rules! system_registers {
    ($($a:ident, $b:ident;)*) => {
        /// Stores the registers of whoever ran last.
        #[inline(never)]
        pub(crate) fn save_system(registers: &mut SystemRegisters) {
            // SAFETY: a read of EL1's registers changes nothing, and each store is to two fields of `registers`, which
            // is borrowed mutably: `pair` has checked that they follow each other.
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
        #[inline(never)]
        pub(crate) unsafe fn load_system(registers: &SystemRegisters) {
            // SAFETY: these registers have no effect on EL2. The caller gives those of the party that runs next at EL1,
            // and selects its stage 2 before it does. Each load is of two fields of `registers`, by `pair`.
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

/// Sets what is the same for the host and all guests, and forgets what TLBs hold of EL1 from before; once per
/// CPU.
#[inline(never)]
pub(crate) fn init_cpu() {
    let midr = arch::read!("midr_el1");
    let physical_range = arch::physical_range();
    // SAFETY: EL1 has not run yet on this CPU, stage 2 is still off (`take_el2`), and the values take from EL1 or are
    // those of a reset.
    unsafe {
        arch::write!("vtcr_el2", controls::vtcr(physical_range));
        arch::write!("hstr_el2", 0);
        arch::write!("cntvoff_el2", 0);
        arch::write!("vpidr_el2", midr);
        // MMU and caches off, as the boot protocol and PSCI promise the host.
        arch::write!("sctlr_el1", RESET_SCTLR_EL1);
    }
    arch::isb();
    no_extensions();
    gic::init_cpu();
    arch::tlbi_alle1();
    arch::dsb_nsh();
    arch::isb();
}

/// Turns off what newer CPUs have, traps included, as firmware may have left it: what is not there for
/// EL1 is undefined by ID registers and other traps already.
#[inline(never)]
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
    // SAFETY: ID registers have just said that each of these exists; EL1 has not run yet on this CPU, and zero takes
    // from it.
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
    /// MDCR_EL2 as the firmware left it.
    mdcr: u64,
    mpidr: u64,
}

impl OwnTraps {
    /// Those of the CPU that this runs on; `stage2_id` is the host's.
    pub(crate) fn new(stage2_id: Stage2Id) -> Self {
        Self { vttbr: vttbr(stage2_id), mdcr: arch::read!("mdcr_el2"), mpidr: arch::read!("mpidr_el1") }
    }
}

/// From the next entry on the host runs: its traps, its stage 2.
///
/// # Safety
///
/// `own` is this CPU's.
#[inline(never)]
pub(crate) unsafe fn select_host(own: &OwnTraps, trap_fp: bool) {
    // SAFETY: the caller gives this CPU's `own`: the host's stage 2, made at boot, and this CPU's identity. The
    // values of `controls` leave the host nothing that is not its own.
    unsafe {
        arch::write!("vttbr_el2", own.vttbr);
        arch::write!("hcr_el2", controls::HOST_HCR);
        arch::write!("cptr_el2", controls::cptr(trap_fp));
        arch::write!("mdcr_el2", controls::host_mdcr(own.mdcr));
        arch::write!("cnthctl_el2", controls::HOST_CNTHCTL);
        arch::write!("vmpidr_el2", own.mpidr);
    }
    arch::isb();
}

/// From the next entry on a guest's vCPU runs: its traps, its stage 2, its MPIDR_EL1. FP traps.
///
/// # Safety
///
/// `own` is this CPU's, `stage2_id` the VM's.
#[inline(never)]
pub(crate) unsafe fn select_guest(own: &OwnTraps, stage2_id: Stage2Id, vmpidr: u64) {
    // SAFETY: the caller gives the stage 2 of the VM whose vCPU runs next, and this CPU's `own`. The values of
    // `controls` leave a guest nothing that is not its own.
    unsafe {
        arch::write!("vttbr_el2", vttbr(stage2_id));
        arch::write!("hcr_el2", controls::GUEST_HCR);
        arch::write!("cptr_el2", controls::cptr(true));
        arch::write!("mdcr_el2", controls::guest_mdcr(own.mdcr));
        arch::write!("cnthctl_el2", controls::GUEST_CNTHCTL);
        arch::write!("vmpidr_el2", vmpidr);
    }
    arch::isb();
}

/// Lets EL1 use FP and SIMD, until the next [`select_host`] or [`select_guest`].
#[inline(never)]
pub(crate) fn untrap_fp() {
    let cptr = arch::read!("cptr_el2");
    // SAFETY: `HostFp` alone calls this, and loads the FP registers of the party that runs next before it does;
    // EL2 is compiled without FP.
    unsafe { arch::write!("cptr_el2", cptr & !controls::CPTR_TFP) };
    arch::isb();
}
