//! One instruction a function: system registers, barriers, caches, TLBs.
//!
//! A function has the effect of its instruction and no other. The callers choose the order.

use core::arch::asm;

/// Reads a system register by its name in the Arm ARM.
macro_rules! read {
    ($register:expr) => {{
        let value: u64;
        // SAFETY: the register exists at EL2: `cpu::setup::take_el2` accepts no CPU without those that the
        // callers name. The read changes neither memory nor the CPU.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $register), out(reg) value, options(nomem, nostack));
        }
        value
    }};
}

/// Writes a system register by its name in the Arm ARM.
///
/// The caller has the `unsafe` block, and says there why the value is right: a register may change what
/// memory is and which party may reach it.
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
                // SAFETY: the list below has barriers, hints and invalidations alone. The architecture lets
                // EL2 execute them at any time; none changes memory or a register.
                unsafe { asm!($instruction, options(nostack, preserves_flags)) }
            }
        )*
    };
}

instructions! {
    /// DSB ISHST: earlier stores are visible to all CPUs' table walkers.
    dsb_ishst: "dsb ishst",
    /// DSB ISH: earlier accesses and TLB maintenance are complete on all CPUs.
    dsb_ish: "dsb ish",
    /// DSB NSH: earlier accesses and TLB maintenance are complete on this CPU.
    dsb_nsh: "dsb nsh",
    /// ISB: what follows is fetched anew, under the system registers as they are now.
    isb: "isb",
    /// WFE: waits for an event; there may be none.
    wfe: "wfe",
    /// WFI: waits for an interrupt, masked or not.
    wfi: "wfi",
    /// TLBI VMALLE1IS: all stage-1 (and combined) translations for the VMID in VTTBR_EL2, on all CPUs.
    tlbi_vmalle1is: "tlbi vmalle1is",
    /// TLBI VMALLS12E1IS: all translations of both stages for the VMID in VTTBR_EL2, on all CPUs.
    tlbi_vmalls12e1is: "tlbi vmalls12e1is",
    /// TLBI VMALLE1: as [`tlbi_vmalle1is`], on this CPU alone.
    tlbi_vmalle1: "tlbi vmalle1",
    /// TLBI ALLE1: all EL1 and EL0 translations of every VMID, on this CPU.
    tlbi_alle1: "tlbi alle1",
    /// TLBI ALLE2: all EL2 translations, on this CPU.
    tlbi_alle2: "tlbi alle2",
    /// IC IALLU: this CPU's instruction cache.
    ic_iallu: "ic iallu",
    /// IC IALLUIS: the instruction caches of all CPUs.
    ic_ialluis: "ic ialluis",
}

/// TLBI IPAS2E1IS: the stage-2 translations of one IPA page, for the VMID in VTTBR_EL2, on all CPUs.
pub(crate) fn tlbi_ipas2e1is(page: u64) {
    // SAFETY: for any operand the instruction only makes CPUs walk the tables again, which the core keeps
    // valid; it changes no memory.
    unsafe { asm!("tlbi ipas2e1is, {}", in(reg) page, options(nostack, preserves_flags)) }
}

/// The PA bits that stage 1 and stage 2 may put out: ID_AA64MMFR0_EL1.PARange, at most 48 bits.
pub(crate) fn physical_range() -> u64 {
    const PA_48_BITS: u64 = 5;
    (read!("id_aa64mmfr0_el1") & 0xf).min(PA_48_BITS)
}

/// The affinity fields of this CPU's MPIDR_EL1. The device tree and PSCI name CPUs by them.
pub(crate) fn affinity() -> u64 {
    /// Aff3, Aff2, Aff1, Aff0 (Arm ARM DDI0487, D24.2.129).
    const AFFINITY: u64 = 0xff_00ff_ffff;
    read!("mpidr_el1") & AFFINITY
}
