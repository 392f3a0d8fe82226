//! The geometry of translation tables, as a type parameter.
//!
//! On hardware a table has 512 entries of 8 bytes. An exhaustive checker uses tables of 2 or 4 entries
//! instead. The terms keep their meaning: a *page* is the unit of ownership, a *block* is the range of one
//! level-2 entry, a *level-1 block* is the range of one level-1 entry.
//!
//! All shifts and sums of page numbers are in this module, each with the bound that rules out an overflow.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "shifts are by at most 2 * 9 + 10 bits and page numbers are below 2^52, stated per item"
)]

/// A level of the stage-2 walk. The walk starts at level 1, with two concatenated tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// An entry maps a level-1 block (1 GiB on hardware) or points to a level-2 table.
    One,
    /// An entry maps a block (2 MiB on hardware) or points to a level-3 table.
    Two,
    /// An entry maps a page.
    Three,
}

/// The number of index bits per table level. All other sizes follow from it.
pub trait Geometry: core::fmt::Debug + 'static {
    /// Index bits per level, 1 to 9.
    const INDEX_BITS: u32;

    /// Number of entries in a table.
    const ENTRIES: usize = 1 << Self::INDEX_BITS;
    /// Number of pages in a block.
    const BLOCK_PAGES: u64 = 1 << Self::INDEX_BITS;
    /// Number of pages in a level-1 block.
    const LEVEL1_BLOCK_PAGES: u64 = 1 << (2 * Self::INDEX_BITS);
    /// Number of concatenated root tables.
    const ROOT_TABLES: u64 = 2;
    /// Number of pages in an IPA space: 2^28 on hardware, which is 40 address bits (Arm ARM DDI0487, D8.2.8:
    /// level 1 with two concatenated tables).
    const IPA_PAGES: u64 = Self::ROOT_TABLES << (3 * Self::INDEX_BITS);
    /// Maximum number of pages that one call populates, shares, reclaims or returns. The call holds the VM's
    /// lock for all of this work, wiping included. The limit bounds how long other calls wait for the same
    /// VM.
    const PAGES_PER_CALL: u64 = 512;
    /// Maximum number of pages that one call populates without a wipe. The call hashes each page.
    const KEPT_PER_CALL: u64 = 64;

    /// Number of pages that an entry of `level` maps.
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

    /// The index of the concatenated root table that translates `page`: 0 or 1 within the IPA space.
    fn root_table(page: u64) -> u64 {
        page >> (3 * Self::INDEX_BITS)
    }

    /// The number of the block that holds `page`.
    fn block(page: u64) -> u64 {
        page >> Self::INDEX_BITS
    }

    /// The first page of block number `block`, which is a value of [`Self::block`].
    fn block_first(block: u64) -> u64 {
        block << Self::INDEX_BITS
    }

    /// The offset of `page` in its block.
    fn block_offset(page: u64) -> u64 {
        page & (Self::BLOCK_PAGES - 1)
    }

    /// Rounds `page` down to a multiple of the span of `level`.
    fn align_down(level: Level, page: u64) -> u64 {
        page & !(Self::span(level) - 1)
    }

    /// Returns whether `page` is a multiple of the span of `level`.
    fn is_aligned(level: Level, page: u64) -> bool {
        Self::align_down(level, page) == page
    }

    /// Returns the first multiple of the span of `level` above `page`. `page` is below 2^52.
    fn next(level: Level, page: u64) -> u64 {
        Self::align_down(level, page) + Self::span(level)
    }
}

/// Returns how many spans of `level` the range of `pages` pages from `first` touches. `pages` is at least 1;
/// the range ends at or below page 2^52.
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

/// A part of a page range that lies within one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The first page.
    pub(crate) first: u64,
    /// Number of pages; at least 1, at most a block.
    pub(crate) pages: u64,
}

/// Splits a page range at block boundaries.
pub(crate) fn pieces<G: Geometry>(first: u64, pages: u64) -> impl Iterator<Item = Piece> {
    // Callers pass checked ranges: `first + pages` is at most 2^52.
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
