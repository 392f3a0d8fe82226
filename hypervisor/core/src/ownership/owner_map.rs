//! The owner map of all RAM: the one truth about every page.
//!
//! There is one word for a block and one for each of its pages. Between the levels this holds whenever
//! the lock is free:
//!
//! * a block that is not split stands for pages whose page states are the block's, *advanced* by the page's
//!   offset in the block; the page states below it mean nothing;
//! * a split block keeps a *base* page state and counts the pages whose page state is not the base advanced. A
//!   split block that counts 0 is uniform again; it stays split until it changes hands as a whole, so
//!   that a guest that shares and unshares one page does not pay for 512.

pub(crate) mod block_state;
#[cfg(test)]
mod tests;

use heapless::Vec;
use shared_abi::addr::{PageRange, Pfn};

use crate::limits::MAX_REGIONS;
use crate::machine::geometry::{Geometry, Level, Piece, pieces, touched};
use crate::ownership::page_state::PageState;
use crate::ownership::setup::SetupError;
use block_state::BlockState;

/// A range of RAM and where its page states are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) pages: PageRange<Pfn>,
    /// What to add to the number of a block, and of a page, for where its word is; modulo 2^64.
    to_block: u64,
    to_page: u64,
}

/// The owner map of all RAM.
#[derive(Debug)]
pub struct OwnerMap<'m, G: Geometry> {
    pub(crate) regions: Vec<Region, MAX_REGIONS>,
    pub(crate) words: &'m mut [u64],
    geometry: core::marker::PhantomData<fn() -> G>,
}

/// What [`OwnerMap::convert`] did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Converted {
    /// How many pages: at least one, all of one block.
    pub(crate) pages: u64,
    /// All pages of the block are alike now: their page states follow from each other.
    pub(crate) uniform: bool,
}

/// How many blocks `pages` touches.
fn blocks_touched<G: Geometry>(pages: PageRange<Pfn>) -> u64 {
    touched::<G>(Level::Two, pages.first().0, pages.len())
}

/// How many page states these ranges of RAM take; `None` if that is beyond all memory.
pub(crate) fn words_needed<G: Geometry>(ram: &[PageRange<Pfn>]) -> Option<usize> {
    let per_block = G::BLOCK_PAGES.checked_add(1)?;
    ram.iter().try_fold(0_usize, |sum, range| {
        let words = blocks_touched::<G>(*range).checked_mul(per_block)?;
        sum.checked_add(usize::try_from(words).ok()?)
    })
}

impl<'m, G: Geometry> OwnerMap<'m, G> {
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
            let first_block = G::block(pages.first().0);
            let region = Region {
                pages,
                to_block: (next as u64).wrapping_sub(first_block),
                to_page: (pages_at as u64).wrapping_sub(G::block_first(first_block)),
            };
            next = blocks
                .checked_mul(G::ENTRIES)
                .and_then(|words| pages_at.checked_add(words))
                .ok_or(SetupError::TooSmall)?;
            regions.push(region).map_err(|_| SetupError::TooMany)?;
        }
        words.get_mut(..next).ok_or(SetupError::TooSmall)?.fill(PageState::HYPERVISOR.0);
        Ok(Self { regions, words, geometry: core::marker::PhantomData })
    }

    /// The region that holds `page`.
    fn region(&self, page: u64) -> Option<&Region> {
        self.regions.iter().find(|region| region.pages.contains(Pfn(page)))
    }

    /// Whether `range` is RAM, without a hole.
    pub fn is_ram(&self, range: PageRange<Pfn>) -> bool {
        self.region(range.first().0).is_some_and(|region| range.end() <= region.pages.end())
    }

    /// Whether no page of `range` is RAM.
    pub fn is_apart_from_ram(&self, range: PageRange<Pfn>) -> bool {
        !self.regions.iter().any(|region| region.pages.overlaps(range))
    }

    /// The page state of `page`; `None` if it is no RAM.
    pub fn get(&self, page: Pfn) -> Option<PageState> {
        let region = self.region(page.0)?;
        let block = self.block(region, page.0)?;
        if block.is_split() {
            let word = page_word(region, page.0);
            self.words.get(word).copied().map(PageState)
        } else {
            Some(block.base().advance(G::block_offset(page.0)))
        }
    }

    /// Whether `range` is RAM, and the page state of its first page is `first` and the others' follow from
    /// it.
    pub fn all(&self, range: PageRange<Pfn>, first: PageState) -> bool {
        self.matching(range, first) == range.len()
    }

    /// How many pages from the start of `range` on are RAM of one piece and have `first` as the page state
    /// of the first page, the others' following from it. Costs a look per block where blocks are
    /// uniform.
    pub fn matching(&self, range: PageRange<Pfn>, first: PageState) -> u64 {
        let start = range.first().0;
        let Some(region) = self.region(start) else {
            return 0;
        };
        let end = range.end().min(region.pages.end()).0;
        let mut reached = start;
        for piece in pieces::<G>(start, end.saturating_sub(start)) {
            let wanted = first.advance(piece.first.wrapping_sub(start));
            let same = self.matching_in_block(region, piece, wanted);
            reached = reached.saturating_add(same);
            if same != piece.pages {
                break;
            }
        }
        reached.saturating_sub(start)
    }

    /// [`Self::matching`] for the pages of one block.
    fn matching_in_block(&self, region: &Region, piece: Piece, wanted: PageState) -> u64 {
        let Some(block) = self.block(region, piece.first) else {
            return 0;
        };
        if let Some(base) = block.uniform() {
            let here = base.advance(G::block_offset(piece.first));
            return if here == wanted { piece.pages } else { 0 };
        }
        let (step, mut wanted) = (wanted.step(), wanted.0);
        let mut same = 0_u64;
        for word in self.page_words(region, piece).unwrap_or_default() {
            if *word != wanted {
                break;
            }
            wanted = wanted.wrapping_add(step);
            same = same.wrapping_add(1);
        }
        same
    }

    /// Changes the page states of pages from `first` on, at most `most` and all in one block, up to the first that is not
    /// as `from` says: `from` and `to` are the page states of the first page, the others' follow from them. `None` if the
    /// first page is not as `from` says, or is no RAM.
    #[inline(always)] // mem_share: it is the better part of the host's side of each transition
    pub(crate) fn convert(
        &mut self,
        first: Pfn,
        most: u64,
        from: PageState,
        to: PageState,
    ) -> Option<Converted> {
        let region = self.region(first.0)?;
        let offset = G::block_offset(first.0);
        let in_region = region.pages.end().0.wrapping_sub(first.0);
        let most = most.min(in_region).min(G::BLOCK_PAGES.wrapping_sub(offset));
        let (block_at, page_at) = (block_word::<G>(region, first.0), page_word(region, first.0));
        let block = BlockState(*self.words.get(block_at)?);
        if block.deviating() == 0 && (most == G::BLOCK_PAGES || !block.is_split()) {
            if block.base().advance(offset) != from {
                return None;
            }
            if most == G::BLOCK_PAGES {
                *self.words.get_mut(block_at)? = to.0;
                return Some(Converted { pages: most, uniform: true });
            }
            self.split(first, block.base())?;
        }
        let (from_step, to_step) = (from.step(), to.step());
        let (mut old, mut new, mut pages) = (from.0, to.0, 0_u64);
        for word in self.words.get_mut(page_at..page_at.checked_add(as_index(most))?)? {
            if *word != old {
                break;
            }
            *word = new;
            old = old.wrapping_add(from_step);
            new = new.wrapping_add(to_step);
            pages = pages.wrapping_add(1);
        }
        if pages == 0 {
            return None;
        }
        // Page states that differ at one page differ at all that follow: their lowest bits never change, and
        // decide whether the others do. So the pages deviate from the base all or none, before and after. The
        // sum is bounded by the pages of a block, and never below 0: a page counts while it deviates.
        let base = block.base().advance(offset);
        let deviating = block
            .deviating()
            .wrapping_add(if to == base { 0 } else { pages })
            .wrapping_sub(if from == base { 0 } else { pages });
        let block = if deviating == G::BLOCK_PAGES {
            self.rebase(first, block.base())?
        } else {
            BlockState::split(block.base(), deviating)
        };
        *self.words.get_mut(block_at)? = block.0;
        let uniform = seeded!(block.deviating() == 0, BlockTooEarly => block.deviating() < 2);
        Some(Converted { pages, uniform })
    }

    /// Writes the page states that the uniform block around `page` stood for.
    #[cold]
    fn split(&mut self, page: Pfn, base: PageState) -> Option<()> {
        let (start, end) = page_word_range(self.region(page.0)?, whole_block::<G>(page.0))?;
        let (mut next, step) = (base.0, base.step());
        for word in self.words.get_mut(start..end)? {
            *word = next;
            next = next.wrapping_add(step);
        }
        Some(())
    }

    /// No page of the block around `page` is as the base says: takes the first page's page state as the new base, if the
    /// last page follows from it. Otherwise the block is not uniform, whatever the base.
    #[cold]
    fn rebase(&self, page: Pfn, base: PageState) -> Option<BlockState> {
        let words = self.page_words(self.region(page.0)?, whole_block::<G>(page.0))?;
        let first = PageState(*words.first()?);
        let last = first.advance(G::BLOCK_PAGES.saturating_sub(1));
        if words.last() != Some(&last.0) {
            return Some(BlockState::split(base, G::BLOCK_PAGES));
        }
        let deviating =
            words.iter().zip(0..).filter(|(word, offset)| **word != first.advance(*offset).0).count();
        Some(BlockState::split(first, u64::try_from(deviating).ok()?))
    }

    pub(crate) fn block(&self, region: &Region, page: u64) -> Option<BlockState> {
        self.words.get(block_word::<G>(region, page)).copied().map(BlockState)
    }

    pub(crate) fn page_words(&self, region: &Region, piece: Piece) -> Option<&[u64]> {
        let (start, end) = page_word_range(region, piece)?;
        self.words.get(start..end)
    }
}

/// The whole block that holds `page`.
pub(crate) fn whole_block<G: Geometry>(page: u64) -> Piece {
    Piece { first: G::align_down(Level::Two, page), pages: G::BLOCK_PAGES }
}

/// Which word is the page state of the block that holds `page`, a page of a block of the region. (An index
/// that is not the region's would be refused by the slice of all words.)
#[expect(clippy::cast_possible_truncation, reason = "the index of a word in memory")]
pub(crate) fn block_word<G: Geometry>(region: &Region, page: u64) -> usize {
    region.to_block.wrapping_add(G::block(page)) as usize
}

/// Which word is the page state of `page`, a page of a block of the region.
#[expect(clippy::cast_possible_truncation, reason = "the index of a word in memory")]
const fn page_word(region: &Region, page: u64) -> usize {
    region.to_page.wrapping_add(page) as usize
}

/// A count of pages of a block, as an index.
#[expect(clippy::cast_possible_truncation, reason = "it is at most the pages of a block")]
const fn as_index(pages: u64) -> usize {
    pages as usize
}

pub(crate) fn page_word_range(region: &Region, piece: Piece) -> Option<(usize, usize)> {
    let start = page_word(region, piece.first);
    let pages = usize::try_from(piece.pages).ok()?;
    Some((start, start.checked_add(pages)?))
}
