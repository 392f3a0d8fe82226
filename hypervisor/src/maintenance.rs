//! Maintenance of caches and TLBs: each sequence is a function that the compiler keeps in one piece.
//!
//! `tests/tests/metal` finds each function in the shipped ELF file by its name, and compares its instructions with
//! the order that the core states ([`Maintenance`]).

use core::arch::asm;
use core::ops::Range;

use hyp_core::machine::event::{Barrier, Event, Scope};
use hyp_core::machine::maintenance::Maintenance;
use hyp_core::machine::{Machine, Removed, Stage2Id};
use shared_abi::addr::PAGE_SIZE;

use crate::el2::El2;
use crate::{arch, state};

/// This CPU's maintenance instructions.
struct Instructions;

impl Maintenance for Instructions {
    #[inline(always)]
    fn barrier(&self, barrier: Barrier) {
        match barrier {
            Barrier::DsbIshst => arch::dsb_ishst(),
            Barrier::DsbIsh => arch::dsb_ish(),
            Barrier::DsbNsh => arch::dsb_nsh(),
            Barrier::Isb => arch::isb(),
        }
        El2.event(|| Event::Barrier(barrier));
    }

    #[inline(always)]
    fn forget(&self, scope: Scope) {
        match scope {
            Scope::Ipa(page) => arch::tlbi_ipas2e1is(page),
            Scope::Combined => arch::tlbi_vmalle1is(),
            Scope::All => arch::tlbi_vmalls12e1is(),
            Scope::CombinedHere => arch::tlbi_vmalle1(),
            Scope::InstructionsHere => arch::ic_iallu(),
        }
        El2.event(|| Event::Tlbi { vmid: state::vmid(arch::read!("vttbr_el2")), scope });
    }

    #[inline(always)]
    fn in_stage2(&self, stage2_id: Stage2Id, f: impl FnOnce()) {
        let current = arch::read!("vttbr_el2");
        // SAFETY: EL1 does not run before `current` is back, so nothing is translated by `stage2_id` but what the
        // maintenance names.
        unsafe { arch::write!("vttbr_el2", state::vttbr(stage2_id)) };
        arch::isb();
        f();
        // SAFETY: `current` is what the switch to the party that runs has put there (`state::select_host`,
        // `state::select_guest`).
        unsafe { arch::write!("vttbr_el2", current) };
        arch::isb();
    }
}

/// [`Machine::publish`].
#[inline(never)]
pub(crate) fn publish() {
    Instructions.publish();
}

/// [`Machine::invalidate`].
#[inline(never)]
pub(crate) fn invalidate(stage2_id: Stage2Id, removed: &[Removed]) {
    Instructions.invalidate(stage2_id, removed.iter().map(|leaf| leaf.page));
}

/// [`Machine::invalidate_all`].
#[inline(never)]
pub(crate) fn invalidate_all(stage2_id: Stage2Id) {
    Instructions.invalidate_all(stage2_id);
}

/// [`Machine::forget_previous_vcpu`].
#[inline(never)]
pub(crate) fn forget_previous_vcpu(stage2_id: Stage2Id) {
    Instructions.forget_previous_vcpu(stage2_id);
}

/// Bits of CTR_EL0 (Arm ARM DDI0487, D24.2.36).
mod ctr {
    /// DminLine: the smallest data cache line, as the logarithm of its words.
    pub(super) const DMIN_LINE_SHIFT: u32 = 16;
    /// DIC: instruction caches need no maintenance to see what was written.
    pub(super) const DIC: u64 = 1 << 29;
}

/// Makes all CPUs fetch instructions anew: IC IALLUIS, unless the CPU has no need of it, and DSB ISH.
#[inline(never)]
fn forget_instructions() {
    if arch::read!("ctr_el0") & ctr::DIC == 0 {
        arch::ic_ialluis();
    }
    arch::dsb_ish();
}

/// The smallest data cache line of any level, as the logarithm of its words of 4 bytes.
fn line_words() -> u64 {
    (arch::read!("ctr_el0") >> ctr::DMIN_LINE_SHIFT) & 0xf
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
    // SAFETY: DC CIVAC changes no content, whatever is named (an address that is not mapped is a fault at EL2, which
    // is reported). A turn of the loop is no more than a page, by `MOST_WORDS`: with longer lines the same line is
    // cleaned again.
    unsafe { for_each_line!(first..end, 4 << line_words().min(MOST_WORDS), "dc civac, {line}") };
    arch::dsb_ish();
}

/// [`Machine::clean`]: [`clean_and_invalidate`], and no CPU goes on executing what was there.
#[inline(never)]
pub(crate) fn clean(start: u64, bytes: u64) {
    clean_and_invalidate(start, bytes);
    forget_instructions();
}

/// [`Machine::wipe`]: zeroes pages and cleans them to the point of coherency, and no CPU goes on executing what
/// was there.
///
/// # Safety
///
/// They are whole pages of mapped RAM on whose content nobody relies. (EL1 may reach what was shared or lent.)
#[inline(never)]
pub(crate) unsafe fn wipe(start: u64, bytes: u64) {
    let words = line_words();
    // DC ZVA zeroes a line, and may be used: DCZID_EL0.BS is as large, and DZP above it is 0 (Arm ARM
    // DDI0487, D24.2.39). With longer lines a turn of the loop would go beyond a page.
    if arch::read!("dczid_el0") & 0x1f == words && words <= MOST_WORDS {
        let end = start.wrapping_add(bytes);
        // SAFETY: the caller gives whole pages of mapped RAM whose content nobody relies on, and the loop stays
        // within them: its turns are no more than a page. Each DC ZVA zeroes what the DC CIVAC after it cleans.
        unsafe { for_each_line!(start..end, 4 << words, "dc zva, {line}\ndc civac, {line}") };
        arch::dsb_ish();
    } else {
        let first = core::ptr::with_exposed_provenance_mut::<u8>(start as usize);
        // SAFETY: the caller gives mapped RAM whose content nobody relies on.
        unsafe { first.write_bytes(0, bytes as usize) };
        clean_and_invalidate(start, bytes);
    }
    forget_instructions();
}
