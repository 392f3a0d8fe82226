//! The hypervisor's own memory: its image, and a block at the top of RAM for everything whose size
//! depends on the machine.

use core::ops::Range;

use hyp_core::ownership::setup::Needs;
use shared_abi::addr::{PAGE_SIZE, PageRange, Pfn};

/// An EL2 stack: the deepest path (a call of the host's that measures pages) takes a few KiB.
pub(crate) const STACK_BYTES: u64 = 16 * 1024;

/// What the block is divided into. All ranges are in bytes, page aligned.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// All of it.
    pub(crate) whole: Range<u64>,
    /// The host's stage-2 tables, at an even page.
    pub(crate) host_tables: Range<u64>,
    /// Ownership records.
    pub(crate) owner_words: Range<u64>,
    /// Stage-1 tables of EL2.
    pub(crate) stage1: Range<u64>,
    /// EL2 stacks of the CPUs, [`STACK_BYTES`] each.
    pub(crate) stacks: Range<u64>,
}

/// Plans the block and finds a place for it: as high in `ram` as it fits without touching anything in
/// `used`.
pub(crate) fn plan(
    ram: &[Range<u64>],
    used: &[Range<u64>],
    needs: Needs,
    stage1_tables: u64,
    cpus: u64,
) -> Option<Block> {
    let lengths = [
        needs.tables * PAGE_SIZE,
        (needs.owner_words as u64 * 8).next_multiple_of(PAGE_SIZE),
        stage1_tables * PAGE_SIZE,
        cpus * STACK_BYTES,
    ];
    let start = place(ram, used, lengths.iter().sum(), 2 * PAGE_SIZE)?;
    let mut next = start;
    let [host_tables, owner_words, stage1, stacks] = lengths.map(|length| {
        let range = next..next + length;
        next = range.end;
        range
    });
    Some(Block { whole: start..next, host_tables, owner_words, stage1, stacks })
}

/// The highest `bytes` of RAM, aligned, that touch nothing in `used`.
pub(crate) fn place(ram: &[Range<u64>], used: &[Range<u64>], bytes: u64, align: u64) -> Option<u64> {
    ram.iter().rev().find_map(|region| {
        let mut end = region.end;
        loop {
            let start = end.checked_sub(bytes)? & !(align - 1);
            if start < region.start {
                return None;
            }
            let wanted = start..start + bytes;
            match used.iter().find(|taken| taken.start < wanted.end && wanted.start < taken.end) {
                Some(taken) => end = taken.start,
                None => return Some(start),
            }
        }
    })
}

/// The pages of a range of bytes, rounded outwards.
pub(crate) fn pages(bytes: &Range<u64>) -> Option<PageRange<Pfn>> {
    let first = bytes.start / PAGE_SIZE;
    PageRange::<Pfn>::new(Pfn(first), bytes.end.div_ceil(PAGE_SIZE).checked_sub(first)?)
}

/// The bytes of a range of pages.
pub(crate) fn bytes(pages: &PageRange<Pfn>) -> Range<u64> {
    pages.first().base().0..pages.end().base().0
}
