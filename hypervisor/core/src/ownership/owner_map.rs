//! The owner map of all RAM: the authoritative state of every page.
//!
//! The map has one word per block and one word per page. The following holds whenever the lock is free:
//!
//! * If a block is not split, its word is the state of its first page. The state of each further page is that
//!   state *advanced* by the page's offset in the block. The words of the pages have no meaning.
//! * If a block is split, its word holds a *base* state and the number of pages that deviate from it: pages
//!   whose state is not the base advanced. A split block with count 0 is uniform. It stays split until one
//!   conversion covers all of it, so that a guest that shares and unshares one page does not rewrite 512
//!   words each time.

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

/// A range of RAM and the position of its words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) pages: PageRange<Pfn>,
    /// Offsets, modulo 2^64, from a block number and from a page number to the index of its word.
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

/// The result of [`OwnerMap::convert`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Converted {
    /// Number of pages, all in one block; at least 1.
    pub(crate) pages: u64,
    /// The block is uniform now: the states of all its pages follow from that of the first.
    pub(crate) uniform: bool,
}

/// Returns the number of blocks that `pages` touches.
fn blocks_touched<G: Geometry>(pages: PageRange<Pfn>) -> u64 {
    touched::<G>(Level::Two, pages.first().0, pages.len())
}

/// Returns the number of words for these ranges of RAM, or `None` on overflow.
pub(crate) fn words_needed<G: Geometry>(ram: &[PageRange<Pfn>]) -> Option<usize> {
    let per_block = G::BLOCK_PAGES.checked_add(1)?;
    ram.iter().try_fold(0_usize, |sum, range| {
        let words = blocks_touched::<G>(*range).checked_mul(per_block)?;
        sum.checked_add(usize::try_from(words).ok()?)
    })
}

impl<'m, G: Geometry> OwnerMap<'m, G> {
    /// Makes the owner map of `ram`. The hypervisor owns all of it.
    ///
    /// # Errors
    ///
    /// [`SetupError::Ram`] if the ranges are not ascending or end above the IPA space,
    /// [`SetupError::TooMany`] if there are too many, [`SetupError::TooSmall`] if there are too few `words`.
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

    /// Returns the region that holds `page`.
    fn region(&self, page: u64) -> Option<&Region> {
        self.regions.iter().find(|region| region.pages.contains(Pfn(page)))
    }

    /// Returns whether all of `range` is RAM, in one region.
    pub fn is_ram(&self, range: PageRange<Pfn>) -> bool {
        self.region(range.first().0).is_some_and(|region| range.end() <= region.pages.end())
    }

    /// Returns whether no page of `range` is RAM.
    pub fn is_apart_from_ram(&self, range: PageRange<Pfn>) -> bool {
        !self.regions.iter().any(|region| region.pages.overlaps(range))
    }

    /// Returns the state of `page`, or `None` if it is not RAM.
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

    /// Returns whether `range` is RAM, its first page has state `first`, and the states of the others follow
    /// from that.
    pub fn all(&self, range: PageRange<Pfn>, first: PageState) -> bool {
        self.matching(range, first) == range.len()
    }

    /// Returns the number of pages from the start of `range` that lie in one region and match: the first has
    /// state `first`, and the states of the others follow from that. A uniform block costs one read.
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

    /// [`Self::matching`] within one block.
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

    /// Changes the state of pages from `from` to `to`. Starts at `first`, covers at most `most` pages of one
    /// block, and stops at the first page that is not in state `from`. `from` and `to` are the states of the
    /// first page; those of the other pages follow from it. Returns `None` if the first page is not in state
    /// `from`, or is not RAM.
    #[inline(always)] // mem_share: most of the host's side of each transition
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
        // Either all converted pages deviate from the base or none does, before and after: the lowest bits of
        // a page state never change along a run, and they decide whether the other bits do. The count stays
        // within 0 and the pages of a block, because a page counts exactly while it deviates.
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

    /// Writes the page words of the block around `page`, which is uniform with state `base`.
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

    /// Chooses a new base for the block around `page`, because all its pages deviate from `base`. The new
    /// base is the state of the first page, if that of the last page follows from it. Otherwise the block is
    /// not uniform under any base, and the old one stays.
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

/// Returns the whole block that holds `page`.
pub(crate) fn whole_block<G: Geometry>(page: u64) -> Piece {
    Piece { first: G::align_down(Level::Two, page), pages: G::BLOCK_PAGES }
}

/// Returns the index of the word of the block that holds `page`, which is in a block of the region. For any
/// other page, the lookup in the slice of words fails.
#[expect(clippy::cast_possible_truncation, reason = "the index of a word in memory")]
pub(crate) fn block_word<G: Geometry>(region: &Region, page: u64) -> usize {
    region.to_block.wrapping_add(G::block(page)) as usize
}

/// Returns the index of the word of `page`, which is in a block of the region.
#[expect(clippy::cast_possible_truncation, reason = "the index of a word in memory")]
const fn page_word(region: &Region, page: u64) -> usize {
    region.to_page.wrapping_add(page) as usize
}

/// Converts a number of pages in a block to an index.
#[expect(clippy::cast_possible_truncation, reason = "it is at most the pages of a block")]
const fn as_index(pages: u64) -> usize {
    pages as usize
}

pub(crate) fn page_word_range(region: &Region, piece: Piece) -> Option<(usize, usize)> {
    let start = page_word(region, piece.first);
    let pages = usize::try_from(piece.pages).ok()?;
    Some((start, start.checked_add(pages)?))
}
