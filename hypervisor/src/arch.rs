//! One instruction a function: system registers, barriers, caches, TLBs.
//!
//! Everything here has its effect and no other; what order they must come in is the callers' to say.

use core::arch::asm;
use core::ops::Range;

use shared_abi::addr::PAGE_SIZE;

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

macro_rules! instructions {
    ($($(#[$doc:meta])* $name:ident: $instruction:literal,)*) => {
        $(
            $(#[$doc])*
            pub(crate) fn $name() {
                // SAFETY: a barrier, a hint, or maintenance that makes a CPU look again.
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
}

/// TLBI IPAS2E1IS: the stage-2 translations of one IPA page, for the VMID in VTTBR_EL2, on all CPUs.
pub(crate) fn tlbi_ipas2e1is(page: u64) {
    // SAFETY: forgetting a translation makes a CPU walk the tables again.
    unsafe { asm!("tlbi ipas2e1is, {}", in(reg) page, options(nostack, preserves_flags)) }
}

/// Bits of CTR_EL0 (Arm ARM DDI0487, D24.2.36).
mod ctr {
    /// DminLine: the smallest data cache line, as the logarithm of its words.
    pub(super) const DMIN_LINE_SHIFT: u32 = 16;
    /// DIC: instruction caches need no maintenance to see what was written.
    pub(super) const DIC: u64 = 1 << 29;
}

/// Makes all CPUs fetch instructions anew: IC IALLUIS, unless the CPU has no need of it, and DSB ISH.
pub(crate) fn forget_instructions() {
    if read!("ctr_el0") & ctr::DIC == 0 {
        // SAFETY: forgetting instructions makes a CPU fetch them again.
        unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) }
    }
    dsb_ish();
}

/// The smallest data cache line of any level, as the logarithm of its words of 4 bytes.
fn line_words() -> u64 {
    (read!("ctr_el0") >> ctr::DMIN_LINE_SHIFT) & 0xf
}

/// How many cache lines a turn of the loops below takes.
const UNROLLED: u64 = 16;
/// The logarithm of the words of the longest line of which so many are no more than a page.
const MOST_WORDS: u64 = (PAGE_SIZE / UNROLLED / 4).ilog2() as u64;

/// Does something (`$each`, on register `{line}`) for every cache line from the start of a page up to the
/// end of the last turn that begins before an end: [`UNROLLED`] lines a turn, which is no more than a
/// page, since what counts is the number of instructions.
macro_rules! for_each_line {
    ($range:expr, $step:expr, $each:literal) => {{
        let (range, step): (Range<u64>, u64) = ($range, $step);
        asm!(
            "2:",
            ".rept {unrolled}",
            $each,
            "add {line}, {line}, {step}",
            ".endr",
            "cmp {line}, {end}",
            "b.lo 2b",
            line = inout(reg) range.start => _,
            end = in(reg) range.end,
            step = in(reg) step,
            unrolled = const UNROLLED,
            options(nostack),
        );
    }};
}

/// DC CIVAC for the pages that `bytes` from `start` on are in, which EL2 has mapped: clean and invalidate
/// to the point of coherency, then DSB ISH.
#[inline(never)]
pub(crate) fn clean_and_invalidate(start: u64, bytes: u64) {
    let (first, end) = (start & !(PAGE_SIZE - 1), start + bytes);
    // SAFETY: cache maintenance by address changes no content; the caller names mapped memory, and a turn of the
    // loop is no more than a page: with longer lines the same line is cleaned again.
    unsafe { for_each_line!(first..end, 4 << line_words().min(MOST_WORDS), "dc civac, {line}") };
    dsb_ish();
}

/// Zeroes pages and cleans them as [`clean_and_invalidate`] does. Answers `false`, and does nothing, if
/// this CPU can't do both to a cache line at a time.
///
/// # Safety
///
/// They are whole pages of mapped RAM on whose content nobody relies. (EL1 may reach what was shared or lent.)
pub(crate) unsafe fn wipe(start: u64, bytes: u64) -> bool {
    let words = line_words();
    // DC ZVA zeroes a line, and may be used: DCZID_EL0.BS is as large, and DZP above it is 0 (Arm ARM
    // DDI0487, D24.2.39). With longer lines a turn of the loop would go beyond a page.
    if read!("dczid_el0") & 0x1f != words || words > MOST_WORDS {
        return false;
    }
    let end = start.wrapping_add(bytes);
    // SAFETY: the caller's promise. Each DC ZVA zeroes what the DC CIVAC after it cleans.
    unsafe { for_each_line!(start..end, 4 << words, "dc zva, {line}\ndc civac, {line}") };
    dsb_ish();
    true
}

/// [`wipe`] for any CPU.
///
/// # Safety
///
/// As of [`wipe`].
pub(crate) unsafe fn wipe_by_stores(start: u64, bytes: u64) {
    // SAFETY: the caller's promise.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(start as usize).write_bytes(0, bytes as usize) };
    clean_and_invalidate(start, bytes);
}

/// Writes a page of 8-byte entries: `first`, and each one `step` more than the one before it.
///
/// # Safety
///
/// It is a page of mapped RAM that nobody else uses.
#[inline(never)]
pub(crate) unsafe fn fill(page: *mut u64, first: u64, step: u64) {
    // SAFETY: the caller's promise; the loop stores the page's entries in pairs.
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
