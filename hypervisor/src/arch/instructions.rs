//! One instruction a function: system registers, barriers, caches, TLBs.
//!
//! Everything here has its effect and no other; what order they must come in is the callers' to say.

use core::arch::asm;

use shared_abi::addr::PAGE_SIZE;

/// Reads a system register by its name in the Arm ARM.
macro_rules! read {
    ($register:expr) => {{
        let value: u64;
        // SAFETY: the registers that the callers name exist at EL2 on every CPU that `cpu::take_el2` accepts, and
        // a read of them changes neither memory nor the CPU.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $register), out(reg) value, options(nomem, nostack));
        }
        value
    }};
}

/// Writes a system register by its name in the Arm ARM.
///
/// The `unsafe` block is at the place of use: a register may change what memory is and who may reach it, so that
/// place says why the value is right.
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
                // SAFETY: the instructions below are barriers, hints, and invalidations of what a CPU reads again
                // from memory that EL2 keeps right; none takes an operand or changes a register.
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
    // SAFETY: for any operand the instruction makes CPUs walk the tables again, which the core keeps right; it
    // changes no memory.
    unsafe { asm!("tlbi ipas2e1is, {}", in(reg) page, options(nostack, preserves_flags)) }
}

/// Writes a page of 8-byte entries: `first`, and each one `step` more than the one before it.
///
/// # Safety
///
/// It is a page of mapped RAM that nobody else uses.
#[inline(never)]
pub(crate) unsafe fn fill(page: *mut u64, first: u64, step: u64) {
    // SAFETY: the caller gives a whole page of mapped RAM that is its alone; the loop stores to that page and
    // nowhere else, since it ends where the page does.
    unsafe {
        asm!(
            "2:",
            ".rept 16",
            "stp {even}, {odd}, [{at}], #16",
            "add {even}, {even}, {step}",
            "add {odd}, {odd}, {step}",
            ".endr",
            "cmp {at}, {end}",
            "b.ne 2b",
            at = inout(reg) page => _,
            end = in(reg) page.wrapping_byte_add(PAGE_SIZE as usize),
            even = inout(reg) first => _,
            odd = inout(reg) first.wrapping_add(step) => _,
            step = in(reg) step.wrapping_mul(2),
            options(nostack),
        );
    }
}

/// The PA bits that stage 1 and stage 2 may put out: ID_AA64MMFR0_EL1.PARange, at most 48 bits.
pub(crate) fn physical_range() -> u64 {
    const PA_48_BITS: u64 = 5;
    (read!("id_aa64mmfr0_el1") & 0xf).min(PA_48_BITS)
}
