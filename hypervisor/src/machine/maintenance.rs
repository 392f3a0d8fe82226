//! Maintenance of caches and TLBs. Each sequence is a separate function in the ELF file.
//!
//! `tests/tests/metal` finds each function in the shipped ELF file by its name, and compares its instructions with
//! the order that the core defines ([`Maintenance`]).

use core::arch::asm;
use core::ops::Range;

use hyp_core::machine::event::{Barrier, Event, Scope};
use hyp_core::machine::maintenance::Maintenance;
use hyp_core::machine::{Machine, Removed, Stage2Id};
use shared_abi::addr::PAGE_SIZE;

use super::el2::El2;
use crate::arch::{self, controls};

/// The maintenance instructions of this CPU.
impl Maintenance for El2 {
    fn barrier(&self, barrier: Barrier) {
        match barrier {
            Barrier::DsbIshst => arch::dsb_ishst(),
            Barrier::DsbIsh => arch::dsb_ish(),
            Barrier::DsbNsh => arch::dsb_nsh(),
            Barrier::Isb => arch::isb(),
        }
        El2.event(|| Event::Barrier(barrier));
    }

    fn forget(&self, scope: Scope) {
        match scope {
            Scope::Ipa(page) => arch::tlbi_ipas2e1is(page),
            Scope::Combined => arch::tlbi_vmalle1is(),
            Scope::All => arch::tlbi_vmalls12e1is(),
            Scope::CombinedHere => arch::tlbi_vmalle1(),
            Scope::InstructionsHere => arch::ic_iallu(),
        }
        El2.event(|| Event::Tlbi { vmid: controls::vmid(arch::read!("vttbr_el2")), scope });
    }

    fn in_stage2(&self, stage2_id: Stage2Id, f: impl FnOnce()) {
        let current = arch::read!("vttbr_el2");
        // SAFETY: EL1 does not run before `current` is restored, so only the maintenance in `f` uses `stage2_id`.
        unsafe { arch::write!("vttbr_el2", controls::vttbr(stage2_id)) };
        arch::isb();
        f();
        // SAFETY: `current` is the value that `cpu::select` wrote for the running party.
        unsafe { arch::write!("vttbr_el2", current) };
        arch::isb();
    }
}

/// [`Machine::publish`].
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
pub(crate) fn publish() {
    Maintenance::publish(&El2);
}

/// [`Machine::invalidate`].
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
pub(crate) fn invalidate(stage2_id: Stage2Id, removed: &[Removed]) {
    Maintenance::invalidate(&El2, stage2_id, removed.iter().map(|leaf| leaf.page));
}

/// [`Machine::invalidate_all`].
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
pub(crate) fn invalidate_all(stage2_id: Stage2Id) {
    Maintenance::invalidate_all(&El2, stage2_id);
}

/// [`Machine::forget_previous_vcpu`].
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
pub(crate) fn forget_previous_vcpu(stage2_id: Stage2Id) {
    Maintenance::forget_previous_vcpu(&El2, stage2_id);
}

/// Bits of CTR_EL0 (Arm ARM DDI0487, D24.2.36).
mod ctr {
    /// DminLine: the size of the smallest data cache line, as log2 of its 4-byte words.
    pub(super) const DMIN_LINE_SHIFT: u32 = 16;
    /// DIC: instruction caches need no maintenance after writes.
    pub(super) const DIC: u64 = 1 << 29;
}

/// Makes all CPUs fetch instructions again: IC IALLUIS, unless CTR_EL0.DIC makes it unnecessary, then DSB ISH.
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
fn forget_instructions() {
    if arch::read!("ctr_el0") & ctr::DIC == 0 {
        arch::ic_ialluis();
    }
    arch::dsb_ish();
}

/// Returns the size of the smallest data cache line of any level, as log2 of its 4-byte words.
fn line_words() -> u64 {
    (arch::read!("ctr_el0") >> ctr::DMIN_LINE_SHIFT) & 0xf
}

/// The number of cache lines per turn of the loops below.
const UNROLLED: u64 = 16;
/// The largest line size for which [`UNROLLED`] lines fit in a page, as log2 of its 4-byte words.
const MOST_WORDS: u64 = (PAGE_SIZE / UNROLLED / 4).ilog2() as u64;

/// Executes `$each`, on register `{line}`, for each cache line of a page-aligned range. Each iteration covers
/// [`UNROLLED`] lines, at most a page. The last iteration may run past the range, up to the end of its page.
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

/// DC CIVAC for all pages that contain the `bytes` bytes from `start` on, then DSB ISH: cleans and invalidates them
/// to the point of coherency. EL2 has mapped the pages.
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
pub(crate) fn clean_and_invalidate(start: u64, bytes: u64) {
    let (first, end) = (start & !(PAGE_SIZE - 1), start + bytes);
    // SAFETY: DC CIVAC changes no content at any address. The caller names mapped pages; any other address faults at
    // EL2, which stops the machine. `MOST_WORDS` bounds a turn of the loop to a page: if lines are longer, the same
    // line is cleaned again.
    unsafe { for_each_line!(first..end, 4 << line_words().min(MOST_WORDS), "dc civac, {line}") };
    arch::dsb_ish();
}

/// [`Machine::clean`]: [`clean_and_invalidate`], then no CPU executes stale instructions from the pages.
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
pub(crate) fn clean(start: u64, bytes: u64) {
    clean_and_invalidate(start, bytes);
    forget_instructions();
}

/// [`Machine::wipe`]: zeroes pages and cleans them to the point of coherency, then no CPU executes stale instructions
/// from the pages.
///
/// # Safety
///
/// The bytes are whole pages of mapped RAM, and no code relies on their content. (EL1 may still reach pages that were
/// shared or lent.)
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
pub(crate) unsafe fn wipe(start: u64, bytes: u64) {
    let words = line_words();
    // DC ZVA may be used and zeroes one line if DCZID_EL0.BS equals the line size and DZP above it is 0 (Arm ARM
    // DDI0487, D24.2.39). If lines are longer, a turn of the loop would go beyond a page.
    if arch::read!("dczid_el0") & 0x1f == words && words <= MOST_WORDS {
        let end = start.wrapping_add(bytes);
        // SAFETY: the caller gives whole pages of mapped RAM, and no code relies on their content. One
        // iteration covers at most a page, so the loop stays within these pages.
        unsafe { for_each_line!(start..end, 4 << words, "dc zva, {line}\ndc civac, {line}") };
        arch::dsb_ish();
    } else {
        let first = core::ptr::with_exposed_provenance_mut::<u8>(start as usize);
        // SAFETY: the caller gives whole pages of mapped RAM, and no code relies on their content.
        unsafe { first.write_bytes(0, bytes as usize) };
        clean_and_invalidate(start, bytes);
    }
    forget_instructions();
}
