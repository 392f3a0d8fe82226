//! The layout of the hypervisor's own memory. Beside the image it is one block at the top of RAM, with everything
//! whose size depends on the machine.

use core::ops::Range;

use hyp_core::ownership::setup::Needs;
use shared_abi::addr::{PAGE_SIZE, PageRange, Pfn};

/// The size of an EL2 stack in bytes. The deepest call path (a host call that measures pages) needs a few KiB.
const STACK_BYTES: u64 = 16 * 1024;

/// The parts of the block, as page-aligned ranges of addresses.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// The whole block.
    pub(super) whole: Range<u64>,
    /// The host's stage-2 tables, from an even page on.
    pub(super) host_tables: Range<u64>,
    /// The words of the owner map.
    pub(super) owner_words: Range<u64>,
    /// The stage-1 tables of EL2.
    pub(super) stage1: Range<u64>,
    /// The EL2 stacks of the CPUs, [`STACK_BYTES`] each.
    stacks: Range<u64>,
}

impl Block {
    /// Returns the stack of a CPU.
    pub(super) fn stack(&self, cpu: usize) -> Range<u64> {
        let start = self.stacks.start + cpu as u64 * STACK_BYTES;
        start..start + STACK_BYTES
    }
}

/// Plans the block at the highest free place in `ram` that overlaps no range in `used`. Returns `None` if there is
/// none.
pub(super) fn plan(
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

/// Returns the highest aligned address of `bytes` free bytes of RAM that overlap no range in `used`.
pub(super) fn place(ram: &[Range<u64>], used: &[Range<u64>], bytes: u64, align: u64) -> Option<u64> {
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

/// Returns the pages that contain a range of bytes.
pub(super) fn pages(bytes: &Range<u64>) -> Option<PageRange<Pfn>> {
    let first = bytes.start / PAGE_SIZE;
    PageRange::<Pfn>::new(Pfn(first), bytes.end.div_ceil(PAGE_SIZE).checked_sub(first)?)
}

/// Returns the bytes of a range of pages.
pub(super) fn bytes(pages: &PageRange<Pfn>) -> Range<u64> {
    pages.first().base().0..pages.end().base().0
}
