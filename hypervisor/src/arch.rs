//! One instruction a function: system registers, barriers, caches, TLBs.
//!
//! Everything here has its effect and no other; what order they must come in is the callers' to say.

use core::arch::asm;

/// Reads a system register by its name in the Arm ARM.
macro_rules! read {
    ($register:expr) => {{
        let value: u64;
        // SAFETY: reading a system register that EL2 has of itself changes nothing.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $register), out(reg) value, options(nomem, nostack));
        }
        value
    }};
}

/// Writes a system register by its name in the Arm ARM.
///
/// The `unsafe` is the caller's: a register may change what memory is and who may reach it.
macro_rules! write {
    ($register:expr, $value:expr) => {{
        let value: u64 = $value;
        core::arch::asm!(concat!("msr ", $register, ", {}"), in(reg) value, options(nostack));
    }};
}

pub(crate) use {read, write};

/// DSB ISHST: earlier stores are visible to all CPUs' table walkers.
#[inline]
pub(crate) fn dsb_ishst() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) }
}

/// DSB ISH: earlier accesses and TLB maintenance are complete on all CPUs.
#[inline]
pub(crate) fn dsb_ish() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) }
}

/// DSB NSH: earlier accesses and TLB maintenance are complete on this CPU.
#[inline]
pub(crate) fn dsb_nsh() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb nsh", options(nostack, preserves_flags)) }
}

/// ISB: what follows is fetched anew, under the system registers as they are now.
#[inline]
pub(crate) fn isb() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack, preserves_flags)) }
}

/// WFE: waits for an event; there may be none.
pub(crate) fn wfe() {
    // SAFETY: a hint.
    unsafe { asm!("wfe", options(nomem, nostack, preserves_flags)) }
}

/// WFI: waits for an interrupt, masked or not.
pub(crate) fn wfi() {
    // SAFETY: a hint.
    unsafe { asm!("wfi", options(nomem, nostack, preserves_flags)) }
}

/// TLBI IPAS2E1IS: the stage-2 translations of one IPA page, for the VMID in VTTBR_EL2, on all CPUs.
#[inline]
pub(crate) fn tlbi_ipas2e1is(page: u64) {
    // SAFETY: forgetting a translation makes a CPU walk the tables again.
    unsafe { asm!("tlbi ipas2e1is, {}", in(reg) page, options(nostack, preserves_flags)) }
}

/// TLBI VMALLE1IS: all stage-1 (and combined) translations for the VMID in VTTBR_EL2, on all CPUs.
#[inline]
pub(crate) fn tlbi_vmalle1is() {
    // SAFETY: as above.
    unsafe { asm!("tlbi vmalle1is", options(nostack, preserves_flags)) }
}

/// TLBI VMALLS12E1IS: all translations of both stages for the VMID in VTTBR_EL2, on all CPUs.
#[inline]
pub(crate) fn tlbi_vmalls12e1is() {
    // SAFETY: as above.
    unsafe { asm!("tlbi vmalls12e1is", options(nostack, preserves_flags)) }
}

/// TLBI VMALLE1: as [`tlbi_vmalle1is`], on this CPU alone.
#[inline]
pub(crate) fn tlbi_vmalle1() {
    // SAFETY: as above.
    unsafe { asm!("tlbi vmalle1", options(nostack, preserves_flags)) }
}

/// TLBI ALLE1: all EL1 and EL0 translations of every VMID, on this CPU.
#[inline]
pub(crate) fn tlbi_alle1() {
    // SAFETY: as above.
    unsafe { asm!("tlbi alle1", options(nostack, preserves_flags)) }
}

/// TLBI ALLE2: all EL2 translations, on this CPU.
#[inline]
pub(crate) fn tlbi_alle2() {
    // SAFETY: as above.
    unsafe { asm!("tlbi alle2", options(nostack, preserves_flags)) }
}

/// IC IALLU: this CPU's instruction cache.
#[inline]
pub(crate) fn ic_iallu() {
    // SAFETY: forgetting cached instructions makes the CPU fetch them again.
    unsafe { asm!("ic iallu", options(nostack, preserves_flags)) }
}

/// IC IALLUIS: the instruction caches of all CPUs.
#[inline]
pub(crate) fn ic_ialluis() {
    // SAFETY: as above.
    unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) }
}

/// The smallest data cache line of any level, in bytes: CTR_EL0.DminLine (Arm ARM DDI0487, D24.2.36).
#[inline]
fn cache_line() -> u64 {
    4 << ((read!("ctr_el0") >> 16) & 0xf)
}

/// DC CIVAC for each line of `bytes` from `start` on, which EL2 has mapped: clean and invalidate to
/// the point of coherency, then DSB ISH.
pub(crate) fn clean_and_invalidate(start: u64, bytes: u64) {
    let line = cache_line();
    let mut address = start & !(line - 1);
    while address < start + bytes {
        // SAFETY: cache maintenance by address changes no content; the caller names mapped memory.
        unsafe { asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags)) }
        address += line;
    }
    dsb_ish();
}

/// The PA bits that stage 1 and stage 2 may put out: ID_AA64MMFR0_EL1.PARange, at most 48 bits.
pub(crate) fn physical_range() -> u64 {
    const PA_48_BITS: u64 = 5;
    (read!("id_aa64mmfr0_el1") & 0xf).min(PA_48_BITS)
}
