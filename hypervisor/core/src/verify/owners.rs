//! A read-only view of the owner map for the oracle: runs of page states, block counts, and changes since a
//! copy.

use shared_abi::addr::{PageRange, Pfn};

use crate::machine::geometry::{Geometry, Piece, pieces};
use crate::ownership::owner_map::block_state::BlockState;
use crate::ownership::owner_map::{OwnerMap, Region, block_word, page_word_range, whole_block};
use crate::ownership::page_state::PageState;

/// A run of RAM pages whose page states follow from that of the first page.
#[derive(Clone, Copy, Debug)]
pub struct OwnerRun {
    /// The first page.
    pub first: u64,
    /// Number of pages.
    pub pages: u64,
    /// The page state of the first page.
    pub state: PageState,
}

impl OwnerRun {
    const fn end(self) -> u64 {
        self.first.saturating_add(self.pages)
    }
}

impl<G: Geometry> OwnerMap<'_, G> {
    /// Number of words, which is the size of a copy.
    pub const fn words(&self) -> usize {
        self.words.len()
    }

    /// The ranges of RAM, ascending.
    pub fn ram(&self) -> impl Iterator<Item = PageRange<Pfn>> {
        self.regions.iter().map(|region| region.pages)
    }

    /// Calls `show` for each run of page states, in ascending order and in runs of maximal length, until
    /// `show` fails. The caller has checked that no block is [`Self::miscounted`].
    ///
    /// # Errors
    ///
    /// The error of `show`.
    pub fn try_for_each_run<E>(&self, mut show: impl FnMut(OwnerRun) -> Result<(), E>) -> Result<(), E> {
        let mut pending: Option<OwnerRun> = None;
        let mut add = |run: OwnerRun| {
            if let Some(before) = &mut pending {
                if before.end() == run.first && before.state.advance(before.pages) == run.state {
                    before.pages = before.pages.saturating_add(run.pages);
                    return Ok(());
                }
                show(*before)?;
            }
            pending = Some(run);
            Ok(())
        };
        for region in &self.regions {
            for piece in pieces::<G>(region.pages.first().0, region.pages.len()) {
                self.runs_of_piece(region, piece, &mut add)?;
            }
        }
        pending.map_or(Ok(()), show)
    }

    fn runs_of_piece<E>(
        &self,
        region: &Region,
        piece: Piece,
        add: &mut impl FnMut(OwnerRun) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(block) = self.block(region, piece.first) else {
            return Ok(());
        };
        // A block with count 0 is uniform; the caller has checked the count.
        let words = self.page_words(region, piece).filter(|_| block.uniform().is_none());
        let Some(words) = words else {
            return add(OwnerRun {
                first: piece.first,
                pages: piece.pages,
                state: block.base().advance(G::block_offset(piece.first)),
            });
        };
        let mut first = piece.first;
        let mut rest = words;
        while let Some(&word) = rest.first() {
            let state = PageState(word);
            let step = state.step();
            let mut next = word;
            let same = rest
                .iter()
                .take_while(|found| {
                    let follows = **found == next;
                    next = next.wrapping_add(step);
                    follows
                })
                .count()
                .max(1);
            let pages = same as u64;
            add(OwnerRun { first, pages, state })?;
            first = first.saturating_add(pages);
            rest = rest.get(same..).unwrap_or_default();
        }
        Ok(())
    }

    /// Returns the first page of a split block with a wrong count of the pages that deviate from its base.
    pub fn miscounted(&self) -> Option<Pfn> {
        self.regions.iter().find_map(|region| {
            pieces::<G>(region.pages.first().0, region.pages.len())
                .find(|piece| !self.counts_right(region, *piece))
                .map(|piece| Pfn(piece.first))
        })
    }

    fn counts_right(&self, region: &Region, piece: Piece) -> bool {
        let Some(block) = self.block(region, piece.first) else {
            return false;
        };
        if !block.is_split() {
            return block.0 == block.base().0;
        }
        let whole = whole_block::<G>(piece.first);
        self.page_words(region, whole).is_some_and(|words| {
            let step = block.base().step();
            let mut expected = block.base().0;
            let deviating = words
                .iter()
                .filter(|word| {
                    let deviates = **word != expected;
                    expected = expected.wrapping_add(step);
                    deviates
                })
                .count();
            deviating as u64 == block.deviating()
        })
    }

    /// Compares the page states with `before`, an earlier copy. Calls `show` for each page that changed, in
    /// ascending order, until `show` fails, and brings `before` up to date. Words of `before` that are not
    /// from such a copy are overwritten.
    ///
    /// # Errors
    ///
    /// The error of `show`.
    pub fn try_for_each_change<E>(
        &self,
        before: &mut [u64],
        mut show: impl FnMut(Pfn, PageState, PageState) -> Result<(), E>,
    ) -> Result<(), E> {
        for region in &self.regions {
            for piece in pieces::<G>(region.pages.first().0, region.pages.len()) {
                self.changes_of_piece(before, region, piece, &mut show)?;
            }
        }
        Ok(())
    }

    fn changes_of_piece<E>(
        &self,
        before: &mut [u64],
        region: &Region,
        piece: Piece,
        show: &mut impl FnMut(Pfn, PageState, PageState) -> Result<(), E>,
    ) -> Result<(), E> {
        let at = block_word::<G>(region, piece.first);
        let (Some(&old), Some(&new)) = (before.get(at), self.words.get(at)) else {
            return Ok(());
        };
        let (old, new) = (BlockState(old), BlockState(new));
        let Some((start, end)) = page_word_range(region, piece) else {
            return Ok(());
        };
        let (Some(old_pages), Some(new_pages)) = (before.get_mut(start..end), self.words.get(start..end))
        else {
            return Ok(());
        };
        if old.0 == new.0 && (new.uniform().is_some() || old_pages == new_pages) {
            return Ok(());
        }
        let state = |block: BlockState, word: u64, page: u64| {
            if block.is_split() { PageState(word) } else { block.base().advance(G::block_offset(page)) }
        };
        for ((page, old_word), new_word) in (piece.first..).zip(&*old_pages).zip(new_pages) {
            let (from, to) = (state(old, *old_word, page), state(new, *new_word, page));
            if from != to {
                show(Pfn(page), from, to)?;
            }
        }
        old_pages.copy_from_slice(new_pages);
        if let Some(word) = before.get_mut(at) {
            *word = new.0;
        }
        Ok(())
    }

    /// Copies all page states.
    pub fn copy_to(&self, copy: &mut [u64]) {
        for (to, from) in copy.iter_mut().zip(self.words.iter()) {
            *to = *from;
        }
    }
}
