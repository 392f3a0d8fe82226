//! Ownership records: the one truth about every page of RAM.
//!
//! There is one [`Record`] for a block (2 MiB on metal) while it is uniform, and one per page under a
//! block that is *split*. A record holds the owner and, for a page in a memory object, which page of
//! which object that is (the way back from a physical page), and whether the host reaches it. Sharing is
//! recorded here and nowhere else. All-zero is the safe default: the hypervisor's, nobody else's.
//!
//! Between the levels this holds whenever the lock is free:
//!
//! * a block that is not split stands for pages whose records are the block's, *advanced* by the page's
//!   offset in the block; the page records below it mean nothing;
//! * a split block keeps a *base* record and counts the pages whose record is not the base advanced. A
//!   split block that counts 0 is uniform again; it stays split until it changes hands as a whole, so
//!   that a guest that shares and unshares one page does not pay for 512.

use heapless::Vec;
use shared_abi::addr::{PageRange, Pfn};

use crate::geometry::{Geometry, Level, Piece};
use crate::hypervisor::{MAX_REGIONS, SetupError};
use crate::vm::{MAX_OBJECTS, MAX_VMS};

/// The place of a VM in the table of VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VmIndex(pub u8);

/// The place of a memory object in its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectIndex(pub u8);

/// One page of a memory object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectPage {
    /// Whose object.
    pub vm: VmIndex,
    /// Which.
    pub object: ObjectIndex,
    /// The page within it; below 2^28.
    pub offset: u64,
}

/// Who owns a page, and who reaches it besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The hypervisor: nobody else reaches it.
    Hypervisor,
    /// The host alone.
    Host,
    /// The host; an ordinary VM reaches it too, as this page of its memory.
    HostLent(ObjectPage),
    /// A VM's pool: tables and registers, which only the hypervisor reaches.
    Pool(VmIndex),
    /// A protected VM, as this page of its memory; it alone reaches it.
    Guest(ObjectPage),
    /// A protected VM; the host reaches it too, because the guest shared it.
    GuestShared(ObjectPage),
}

/// An [`Owner`] in 64 bits.
///
/// | bits | meaning |
/// | --- | --- |
/// | 2:0 | kind: 0 hypervisor, 1 host, 2 lent by the host, 3 pool, 4 guest |
/// | 3 | the host reaches it |
/// | 7:4 | VM |
/// | 9:8 | object |
/// | 39:12 | offset in the object, in pages |
/// | 62:52 | split blocks only: pages that deviate from the base |
/// | 63 | split blocks only: 1 |
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record(u64);

const KIND_MASK: u64 = 0b111;
const KIND_HYPERVISOR: u64 = 0;
const KIND_HOST: u64 = 1;
const KIND_LENT: u64 = 2;
const KIND_POOL: u64 = 3;
const KIND_GUEST: u64 = 4;
const HOST_REACHES: u64 = 1 << 3;
const VM_SHIFT: u32 = 4;
const OBJECT_SHIFT: u32 = 8;
const OFFSET_SHIFT: u32 = 12;
const OFFSET_MASK: u64 = (1 << 28) - 1;
const SPLIT: u64 = 1 << 63;
const DEVIATING_SHIFT: u32 = 52;
const DEVIATING_MASK: u64 = 0x7ff;
const BASE_MASK: u64 = (1 << 40) - 1;

const _: () = assert!(
    MAX_VMS <= 1 << (OBJECT_SHIFT - VM_SHIFT),
    "a VM fits in its field"
);
const _: () = assert!(MAX_OBJECTS <= 1 << 2, "an object fits in its field");

impl Record {
    /// [`Owner::Hypervisor`].
    pub const HYPERVISOR: Self = Self(KIND_HYPERVISOR);
    /// [`Owner::Host`].
    pub const HOST: Self = Self(KIND_HOST | HOST_REACHES);

    /// [`Owner::Pool`].
    #[must_use]
    pub const fn pool(vm: VmIndex) -> Self {
        Self(KIND_POOL | ((vm.0 as u64) << VM_SHIFT))
    }

    /// [`Owner::Guest`].
    #[must_use]
    pub const fn guest(page: ObjectPage) -> Self {
        Self(KIND_GUEST | Self::place(page))
    }

    /// [`Owner::GuestShared`].
    #[must_use]
    pub const fn guest_shared(page: ObjectPage) -> Self {
        Self(KIND_GUEST | HOST_REACHES | Self::place(page))
    }

    /// [`Owner::HostLent`].
    #[must_use]
    pub const fn lent(page: ObjectPage) -> Self {
        Self(KIND_LENT | HOST_REACHES | Self::place(page))
    }

    const fn place(page: ObjectPage) -> u64 {
        ((page.vm.0 as u64) << VM_SHIFT)
            | ((page.object.0 as u64) << OBJECT_SHIFT)
            | ((page.offset & OFFSET_MASK) << OFFSET_SHIFT)
    }

    /// Whether the host may reach the page.
    #[inline]
    #[must_use]
    pub const fn host_reaches(self) -> bool {
        self.0 & HOST_REACHES != 0
    }

    /// The record of the page `pages` further on in the same run: only object offsets move.
    #[inline]
    #[must_use]
    pub(crate) const fn advance(self, pages: u64) -> Self {
        match self.0 & KIND_MASK {
            // Offsets are below 2^28 and a run ends with its object, so the sum stays in its field.
            KIND_LENT | KIND_GUEST => Self(self.0.wrapping_add(pages << OFFSET_SHIFT)),
            _ => self,
        }
    }

    /// What the record says.
    #[must_use]
    pub const fn owner(self) -> Owner {
        let vm = VmIndex(((self.0 >> VM_SHIFT) & 0xf) as u8);
        let page = ObjectPage {
            vm,
            object: ObjectIndex(((self.0 >> OBJECT_SHIFT) & 0b11) as u8),
            offset: (self.0 >> OFFSET_SHIFT) & OFFSET_MASK,
        };
        match self.0 & KIND_MASK {
            KIND_HOST => Owner::Host,
            KIND_LENT => Owner::HostLent(page),
            KIND_POOL => Owner::Pool(vm),
            KIND_GUEST if self.host_reaches() => Owner::GuestShared(page),
            KIND_GUEST => Owner::Guest(page),
            _ => Owner::Hypervisor,
        }
    }
}

impl core::fmt::Debug for Record {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.owner().fmt(f)
    }
}

/// A block's word: a record, or a base and a count.
#[derive(Clone, Copy)]
struct BlockWord(u64);

impl BlockWord {
    const fn is_split(self) -> bool {
        self.0 & SPLIT != 0
    }

    const fn base(self) -> Record {
        Record(self.0 & BASE_MASK)
    }

    const fn deviating(self) -> u64 {
        (self.0 >> DEVIATING_SHIFT) & DEVIATING_MASK
    }

    const fn split(base: Record, deviating: u64) -> Self {
        Self(SPLIT | (deviating << DEVIATING_SHIFT) | base.0)
    }

    /// The record of the block's first page, if all its pages follow from that.
    const fn uniform(self) -> Option<Record> {
        if !self.is_split() || self.deviating() == 0 {
            Some(self.base())
        } else {
            None
        }
    }
}

/// A range of RAM and where its records are.
#[derive(Clone, Copy, Debug)]
struct Region {
    pages: PageRange<Pfn>,
    /// The number of its first block.
    first_block: u64,
    /// Where its block records start, and its page records.
    blocks_at: usize,
    pages_at: usize,
}

/// The records of all RAM.
#[derive(Debug)]
pub struct Records<'m, G: Geometry> {
    regions: Vec<Region, MAX_REGIONS>,
    words: &'m mut [u64],
    geometry: core::marker::PhantomData<fn() -> G>,
}

/// How many blocks `pages` touches.
fn blocks_touched<G: Geometry>(pages: PageRange<Pfn>) -> u64 {
    let first = G::block(pages.first().0);
    let last = G::block(pages.end().0.saturating_sub(1));
    last.saturating_sub(first).saturating_add(1)
}

/// How many records these ranges of RAM take; `None` if that is beyond all memory.
pub(crate) fn records_needed<G: Geometry>(ram: &[PageRange<Pfn>]) -> Option<usize> {
    let per_block = G::BLOCK_PAGES.checked_add(1)?;
    ram.iter().try_fold(0_usize, |sum, range| {
        let records = blocks_touched::<G>(*range).checked_mul(per_block)?;
        sum.checked_add(usize::try_from(records).ok()?)
    })
}

impl<'m, G: Geometry> Records<'m, G> {
    /// Records for `ram`, which say that all of it is the hypervisor's.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if RAM is out of order or of reach, or `words` are too few.
    pub fn new(ram: &[PageRange<Pfn>], words: &'m mut [u64]) -> Result<Self, SetupError> {
        let mut regions: Vec<Region, MAX_REGIONS> = Vec::new();
        let mut next = 0_usize;
        let mut reached = 0_u64;
        for &pages in ram {
            if pages.first().0 < reached || pages.end().0 > G::IPA_PAGES {
                return Err(SetupError::Ram);
            }
            reached = pages.end().0;
            let blocks = usize::try_from(blocks_touched::<G>(pages)).unwrap_or(usize::MAX);
            let pages_at = next.checked_add(blocks).ok_or(SetupError::TooSmall)?;
            let region = Region {
                pages,
                first_block: G::block(pages.first().0),
                blocks_at: next,
                pages_at,
            };
            next = blocks
                .checked_mul(G::ENTRIES)
                .and_then(|records| pages_at.checked_add(records))
                .ok_or(SetupError::TooSmall)?;
            regions.push(region).map_err(|_| SetupError::TooMany)?;
        }
        words
            .get_mut(..next)
            .ok_or(SetupError::TooSmall)?
            .fill(Record::HYPERVISOR.0);
        Ok(Self {
            regions,
            words,
            geometry: core::marker::PhantomData,
        })
    }

    /// The region that holds all of `range`.
    #[inline]
    fn region(&self, range: PageRange<Pfn>) -> Option<&Region> {
        self.regions.iter().find(|region| {
            region.pages.first() <= range.first() && range.end() <= region.pages.end()
        })
    }

    /// Whether `range` is RAM, without a hole.
    #[inline]
    #[must_use]
    pub fn is_ram(&self, range: PageRange<Pfn>) -> bool {
        self.region(range).is_some()
    }

    /// Whether no page of `range` is RAM.
    #[must_use]
    pub fn is_apart_from_ram(&self, range: PageRange<Pfn>) -> bool {
        !self
            .regions
            .iter()
            .any(|region| region.pages.overlaps(range))
    }

    /// The record of `page`; `None` if it is no RAM.
    #[inline]
    #[must_use]
    pub fn get(&self, page: Pfn) -> Option<Record> {
        let region = self.region(PageRange::<Pfn>::new(page, 1)?)?;
        let block = self.block(region, page.0)?;
        if block.is_split() {
            self.words
                .get(page_word::<G>(region, page.0))
                .copied()
                .map(Record)
        } else {
            Some(block.base().advance(G::block_offset(page.0)))
        }
    }

    /// Whether `range` is RAM, and the record of its first page is `first` and the others' follow from
    /// it. Costs a look per block where blocks are uniform.
    #[inline]
    #[must_use]
    pub fn all(&self, range: PageRange<Pfn>, first: Record) -> bool {
        let Some(region) = self.region(range) else {
            return false;
        };
        crate::geometry::pieces::<G>(range.first().0, range.len()).all(|piece| {
            let wanted = first.advance(piece.first.wrapping_sub(range.first().0));
            self.piece_is(region, piece, wanted)
        })
    }

    /// [`Self::all`] for the pages of one block.
    #[inline]
    fn piece_is(&self, region: &Region, piece: Piece, wanted: Record) -> bool {
        let Some(block) = self.block(region, piece.first) else {
            return false;
        };
        if let Some(base) = block.uniform() {
            return base.advance(G::block_offset(piece.first)) == wanted;
        }
        self.page_words(region, piece).is_some_and(|words| {
            words
                .iter()
                .zip(0..)
                .all(|(word, page)| Record(*word) == wanted.advance(page))
        })
    }

    /// Writes the records of `piece`, which lies in one block: `first` for its first page, the others
    /// following from it. Answers the record of the block's first page if the whole block is uniform
    /// now. Pages that are no RAM have no record to write.
    #[inline]
    pub(crate) fn set(&mut self, piece: Piece, first: Record) -> Option<Record> {
        let range = PageRange::<Pfn>::new(Pfn(piece.first), piece.pages)?;
        let region = *self.region(range)?;
        let block_word = block_word::<G>(&region, piece.first);
        if piece.pages == G::BLOCK_PAGES {
            *self.words.get_mut(block_word)? = first.0;
            return Some(first);
        }
        let mut block = self.block(&region, piece.first)?;
        if !block.is_split() {
            self.split(&region, piece.first, block.base())?;
            block = BlockWord::split(block.base(), 0);
        }
        let mut deviating = block.deviating();
        let base = block.base().advance(G::block_offset(piece.first));
        for (word, page) in self.page_words_mut(&region, piece)?.iter_mut().zip(0..) {
            let expected = base.advance(page).0;
            let new = first.advance(page).0;
            // Bounded by the pages of a block, and never below 0: a page counts while it deviates.
            deviating = deviating
                .wrapping_add(u64::from(new != expected))
                .wrapping_sub(u64::from(*word != expected));
            *word = new;
        }
        let block = if deviating == G::BLOCK_PAGES {
            self.rebase(&region, piece.first)?
        } else {
            BlockWord::split(block.base(), deviating)
        };
        *self.words.get_mut(block_word)? = block.0;
        block.uniform()
    }

    /// Writes the page records that a uniform block stood for.
    fn split(&mut self, region: &Region, page: u64, base: Record) -> Option<()> {
        let whole = whole_block::<G>(page);
        for (word, offset) in self.page_words_mut(region, whole)?.iter_mut().zip(0..) {
            *word = base.advance(offset).0;
        }
        Some(())
    }

    /// No page is as the base says: takes the first page's record as the new one. This looks at the
    /// whole block, but is due only when the last page has left the old base.
    fn rebase(&self, region: &Region, page: u64) -> Option<BlockWord> {
        let words = self.page_words(region, whole_block::<G>(page))?;
        let base = Record(*words.first()?);
        let deviating = words
            .iter()
            .zip(0..)
            .filter(|(word, offset)| **word != base.advance(*offset).0)
            .count();
        Some(BlockWord::split(base, u64::try_from(deviating).ok()?))
    }

    #[inline]
    fn block(&self, region: &Region, page: u64) -> Option<BlockWord> {
        self.words
            .get(block_word::<G>(region, page))
            .copied()
            .map(BlockWord)
    }

    fn page_words(&self, region: &Region, piece: Piece) -> Option<&[u64]> {
        let (start, end) = page_word_range::<G>(region, piece)?;
        self.words.get(start..end)
    }

    fn page_words_mut(&mut self, region: &Region, piece: Piece) -> Option<&mut [u64]> {
        let (start, end) = page_word_range::<G>(region, piece)?;
        self.words.get_mut(start..end)
    }
}

/// The whole block that holds `page`.
fn whole_block<G: Geometry>(page: u64) -> Piece {
    Piece {
        first: G::align_down(Level::Two, page),
        pages: G::BLOCK_PAGES,
    }
}

/// Which word is the record of the block that holds `page`, a page of a block of the region.
#[inline]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "the block is one of the region's, whose words were counted when it was made"
)]
fn block_word<G: Geometry>(region: &Region, page: u64) -> usize {
    region.blocks_at + (G::block(page) - region.first_block) as usize
}

/// Which word is the record of `page`, a page of a block of the region.
#[inline]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "the page is in one of the region's blocks, whose words were counted when it was made"
)]
fn page_word<G: Geometry>(region: &Region, page: u64) -> usize {
    region.pages_at + (page - G::block_first(region.first_block)) as usize
}

fn page_word_range<G: Geometry>(region: &Region, piece: Piece) -> Option<(usize, usize)> {
    let start = page_word::<G>(region, piece.first);
    Some((
        start,
        start.checked_add(usize::try_from(piece.pages).ok()?)?,
    ))
}
