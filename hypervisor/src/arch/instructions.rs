//! Instructions for system registers, barriers, caches and TLBs, one per function.
//!
//! A function has the effect of its instruction only. The caller is responsible for the order.

use core::arch::asm;

/// Reads a system register by its name in the Arm ARM.
macro_rules! read {
    ($register:expr) => {{
        let value: u64;
        // SAFETY: the register exists at EL2: `cpu::setup::take_el2` refuses a CPU without the registers that the
        // callers name. The read changes neither memory nor the CPU.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $register), out(reg) value, options(nomem, nostack));
        }
        value
    }};
}

/// Writes a system register by its name in the Arm ARM.
///
/// The caller provides the `unsafe` block, and says there why the value is right: a register may change how memory is
/// mapped and which party can reach it.
macro_rules! write {
    ($register:expr, $value:expr) => {{
        let value: u64 = $value;
        core::arch::asm!(concat!("msr ", $register, ", {}"), in(reg) value, options(nostack));
    }};
}

pub(crate) use {read, write};

macro_rules! instructions {
    ($($(#[$doc:meta])* $name:ident: $instruction:literal,)*) => {
        $(
            $(#[$doc])*
            pub(crate) fn $name() {
                // SAFETY: the list below has only barriers, hints and invalidations. The architecture lets EL2
                // execute them at any time, and none changes memory or a register.
                unsafe { asm!($instruction, options(nostack, preserves_flags)) }
            }
        )*
    };
}

instructions! {
    /// DSB ISHST: earlier stores are visible to the table walkers of all CPUs.
    dsb_ishst: "dsb ishst",
    /// DSB ISH: earlier accesses and TLB maintenance are complete on all CPUs.
    dsb_ish: "dsb ish",
    /// DSB NSH: earlier accesses and TLB maintenance are complete on this CPU.
    dsb_nsh: "dsb nsh",
    /// ISB: later instructions are fetched again, under the present system registers.
    isb: "isb",
    /// WFE: waits for an event. It may return without one.
    wfe: "wfe",
    /// WFI: waits for an interrupt, even if it is masked.
    wfi: "wfi",
    /// TLBI VMALLE1IS: all stage-1 (and combined) translations of the VMID in VTTBR_EL2, on all CPUs.
    tlbi_vmalle1is: "tlbi vmalle1is",
    /// TLBI VMALLS12E1IS: all translations of both stages of the VMID in VTTBR_EL2, on all CPUs.
    tlbi_vmalls12e1is: "tlbi vmalls12e1is",
    /// TLBI VMALLE1: as [`tlbi_vmalle1is`], on this CPU only.
    tlbi_vmalle1: "tlbi vmalle1",
    /// TLBI ALLE1: all EL1 and EL0 translations of every VMID, on this CPU.
    tlbi_alle1: "tlbi alle1",
    /// TLBI ALLE2: all EL2 translations, on this CPU.
    tlbi_alle2: "tlbi alle2",
    /// IC IALLU: invalidates this CPU's instruction cache.
    ic_iallu: "ic iallu",
    /// IC IALLUIS: invalidates the instruction caches of all CPUs.
    ic_ialluis: "ic ialluis",
}

/// TLBI IPAS2E1IS: the stage-2 translations of one IPA page of the VMID in VTTBR_EL2, on all CPUs.
pub(crate) fn tlbi_ipas2e1is(page: u64) {
    // SAFETY: for any operand the instruction only makes CPUs walk the tables again, which the core keeps valid. It
    // changes no memory.
    unsafe { asm!("tlbi ipas2e1is, {}", in(reg) page, options(nostack, preserves_flags)) }
}

/// Returns the PS for stage 1 and stage 2: ID_AA64MMFR0_EL1.PARange, limited to 48 bits.
pub(crate) fn physical_range() -> u64 {
    const PA_48_BITS: u64 = 5;
    (read!("id_aa64mmfr0_el1") & 0xf).min(PA_48_BITS)
}

/// Returns the affinity fields of this CPU's MPIDR_EL1, by which the device tree and PSCI name the CPU.
pub(crate) fn affinity() -> u64 {
    /// Aff3, Aff2, Aff1, Aff0 (Arm ARM DDI0487, D24.2.129).
    const AFFINITY: u64 = 0xff_00ff_ffff;
    read!("mpidr_el1") & AFFINITY
}
