//! The shape of translation tables, as a parameter.
//!
//! On metal a table has 512 entries of 8 bytes. A checker that searches a machine to the end takes
//! tables of 2 or 4 entries instead, and everything above keeps its meaning: a *page* is the unit of
//! ownership, a *block* is what one level-2 entry maps, a *level-1 block* what one level-1 entry maps.
//!
//! All shifts and sums of page numbers live here, each with the bound that keeps it from overflowing.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "shifts are by at most 2 * 9 + 10 bits and page numbers are below 2^52, stated per item"
)]

/// A level of the stage-2 walk. The walk starts at level 1, with two concatenated tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// An entry maps a level-1 block (1 GiB on metal) or names a level-2 table.
    One,
    /// An entry maps a block (2 MiB on metal) or names a level-3 table.
    Two,
    /// An entry maps a page.
    Three,
}

/// How many index bits a table level has. Everything else follows.
pub trait Geometry: core::fmt::Debug + 'static {
    /// Index bits per level, 1 to 9.
    const INDEX_BITS: u32;

    /// Entries of a table.
    const ENTRIES: usize = 1 << Self::INDEX_BITS;
    /// Pages of a block.
    const BLOCK_PAGES: u64 = 1 << Self::INDEX_BITS;
    /// Pages of a level-1 block.
    const LEVEL1_BLOCK_PAGES: u64 = 1 << (2 * Self::INDEX_BITS);
    /// Tables concatenated at the root.
    const ROOT_TABLES: u64 = 2;
    /// Pages of an IPA space: 2^28 on metal, which is 40 bits of address (Arm ARM DDI0487,
    /// D8.2.8: level 1 with two concatenated tables).
    const IPA_PAGES: u64 = Self::ROOT_TABLES << (3 * Self::INDEX_BITS);
    /// The most pages that one call populates, shares, takes back or gives back. What it does is done
    /// under the VM's lock, wiping included: other calls about this VM wait so long, others do not.
    const PAGES_PER_CALL: u64 = 512;
    /// The most pages that one call populates with their content kept: each is hashed.
    const KEPT_PER_CALL: u64 = 64;

    /// Pages that an entry of `level` maps.
    fn span(level: Level) -> u64 {
        match level {
            Level::One => Self::LEVEL1_BLOCK_PAGES,
            Level::Two => Self::BLOCK_PAGES,
            Level::Three => 1,
        }
    }

    /// The index of `page` in its table of `level`; below [`Self::ENTRIES`].
    #[expect(clippy::cast_possible_truncation, reason = "all but the low index bits are masked off")]
    fn index(level: Level, page: u64) -> usize {
        let shift = match level {
            Level::One => 2 * Self::INDEX_BITS,
            Level::Two => Self::INDEX_BITS,
            Level::Three => 0,
        };
        (page >> shift) as usize & (Self::ENTRIES - 1)
    }

    /// Which of the concatenated root tables translates `page`: 0 or 1 within the IPA space.
    fn root_table(page: u64) -> u64 {
        page >> (3 * Self::INDEX_BITS)
    }

    /// The number of the block that holds `page`.
    fn block(page: u64) -> u64 {
        page >> Self::INDEX_BITS
    }

    /// The first page of block number `block`, a value of [`Self::block`].
    fn block_first(block: u64) -> u64 {
        block << Self::INDEX_BITS
    }

    /// The offset of `page` in its block.
    fn block_offset(page: u64) -> u64 {
        page & (Self::BLOCK_PAGES - 1)
    }

    /// `page` rounded down to a multiple of what an entry of `level` maps.
    fn align_down(level: Level, page: u64) -> u64 {
        page & !(Self::span(level) - 1)
    }

    /// Whether `page` is a multiple of what an entry of `level` maps.
    fn is_aligned(level: Level, page: u64) -> bool {
        Self::align_down(level, page) == page
    }

    /// The first multiple of what an entry of `level` maps after `page`, a page number below 2^52.
    fn next(level: Level, page: u64) -> u64 {
        Self::align_down(level, page) + Self::span(level)
    }
}

/// How many units of what an entry of `level` maps `pages` pages from `first` on touch; at least one
/// page, and below 2^52.
pub(crate) fn touched<G: Geometry>(level: Level, first: u64, pages: u64) -> u64 {
    let shift = G::span(level).trailing_zeros();
    let last = first.wrapping_add(pages).wrapping_sub(1);
    (last >> shift).wrapping_sub(first >> shift).wrapping_add(1)
}

/// The geometry of VMSAv8-64 with a 4 KiB granule.
#[derive(Debug)]
pub enum Granule4K {}

impl Geometry for Granule4K {
    const INDEX_BITS: u32 = 9;
}

/// A piece of a range of pages that lies in one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// First page.
    pub(crate) first: u64,
    /// How many; at least 1, at most a block.
    pub(crate) pages: u64,
}

/// Cuts `range` at block boundaries.
pub(crate) fn pieces<G: Geometry>(first: u64, pages: u64) -> impl Iterator<Item = Piece> {
    // Callers pass ranges that were checked: `first + pages` is at most 2^52.
    let end = first + pages;
    let mut next = first;
    core::iter::from_fn(move || {
        if next >= end {
            return None;
        }
        let first = next;
        next = G::next(Level::Two, first).min(end);
        Some(Piece { first, pages: next - first })
    })
}
