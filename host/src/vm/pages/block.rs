//! The pages of one block of guest memory.

use alloc::boxed::Box;
use core::ops::Range;

use shared_abi::addr::Pfn;

/// Pages of a block of 2 MiB.
pub(super) const PAGES: usize = 512;
/// Pages that one word of the bitmap stands for.
const WORD: usize = u64::BITS as usize;

/// What is behind a block.
#[derive(Clone, Debug)]
pub(super) enum Block {
    /// Nothing.
    Absent,
    /// Contiguous physical pages, from this one on.
    Whole(Pfn),
    /// Something else.
    Pages(Box<Pages>),
}

/// Single pages.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    /// A bit for each page that is there.
    present: [u64; PAGES / WORD],
    pfns: [Pfn; PAGES],
}

impl Block {
    pub(super) fn lookup(&self, place: usize) -> Option<Pfn> {
        match self {
            Self::Absent => None,
            Self::Whole(first) => Some(Pfn(first.0 + place as u64)),
            Self::Pages(pages) => pages.has(place).then(|| pages.pfns[place]),
        }
    }

    /// Puts in a run of physical pages.
    pub(super) fn insert(&mut self, place: usize, count: usize, pfn: Pfn) {
        if count == PAGES {
            *self = Self::Whole(pfn);
            return;
        }
        if let Some(pages) = self.pages() {
            for (place, pfn) in (place..place + count).zip(pfn.0..) {
                pages.present[place / WORD] |= 1 << (place % WORD);
                pages.pfns[place] = Pfn(pfn);
            }
        }
    }

    /// Takes a page out.
    pub(super) fn remove(&mut self, place: usize) {
        if let Some(pages) = self.pages() {
            pages.present[place / WORD] &= !(1 << (place % WORD));
        }
    }

    /// The places around `place` at which no page is; `None` if one is at `place`.
    pub(super) fn absent_around(&self, place: usize) -> Option<Range<usize>> {
        match self {
            Self::Absent => Some(0..PAGES),
            Self::Whole(_) => None,
            Self::Pages(pages) => (!pages.has(place)).then(|| pages.absent_around(place)),
        }
    }

    /// The runs: place, physical page, pages.
    pub(super) fn runs(&self) -> impl Iterator<Item = (usize, Pfn, usize)> {
        let mut at = 0;
        core::iter::from_fn(move || {
            let first = (at..PAGES).find(|place| self.lookup(*place).is_some())?;
            let pfn = self.lookup(first)?;
            let follows = |place: &usize| self.lookup(*place) == Some(Pfn(pfn.0 + (*place - first) as u64));
            at = match self {
                Self::Whole(_) => PAGES,
                _ => (first..PAGES).take_while(follows).last()? + 1,
            };
            Some((first, pfn, at - first))
        })
    }

    /// The pages of the block, which is made one of single pages if it is none: then there are some.
    #[inline]
    fn pages(&mut self) -> Option<&mut Pages> {
        if !matches!(self, Self::Pages(_)) {
            *self = Self::Pages(self.single());
        }
        match self {
            Self::Pages(pages) => Some(pages),
            Self::Absent | Self::Whole(_) => None,
        }
    }

    /// The block as single pages.
    #[cold]
    fn single(&self) -> Box<Pages> {
        let (present, first) = match self {
            Self::Absent => (0, Pfn(0)),
            Self::Whole(first) => (u64::MAX, *first),
            Self::Pages(pages) => return pages.clone(),
        };
        Box::new(Pages {
            present: [present; PAGES / WORD],
            pfns: core::array::from_fn(|place| Pfn(first.0 + place as u64)),
        })
    }
}

impl Pages {
    fn has(&self, place: usize) -> bool {
        self.present[place / WORD] & (1 << (place % WORD)) != 0
    }

    /// From behind the last page below `place`, which is absent, to the first page above it.
    fn absent_around(&self, place: usize) -> Range<usize> {
        let (word, bit) = (place / WORD, place % WORD);
        // The bits below `place`, and those above: its own is clear.
        let below_here = (1_u64 << bit) - 1;
        let mut start = place - bit;
        let mut below = self.present[word] & below_here;
        while below == 0 && start != 0 {
            start -= WORD;
            below = self.present[start / WORD];
        }
        let mut end = place - bit;
        let mut above = self.present[word] & !below_here;
        while above == 0 && end + WORD < PAGES {
            end += WORD;
            above = self.present[end / WORD];
        }
        start + WORD - below.leading_zeros() as usize..end + above.trailing_zeros() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(places: &[usize]) -> Block {
        let mut block = Block::Absent;
        for place in places {
            block.insert(*place, 1, Pfn(1000 - *place as u64));
        }
        block
    }

    #[test]
    fn a_hole_ends_at_the_next_page_however_far_it_is() {
        let cases = [
            (&[][..], 9, 0..PAGES),
            (&[0, 511], 1, 1..511),
            (&[63, 64], 65, 65..PAGES),
            (&[63, 64], 62, 0..63),
            (&[5, 300], 7, 6..300),
            (&[5, 300], 299, 6..300),
            (&[10], 511, 11..PAGES),
            (&[0, 2], 1, 1..2),
        ];
        for (places, place, hole) in cases {
            let found = block(places).absent_around(place);
            assert_eq!(found, Some(hole), "{places:?}, {place}");
        }
        assert_eq!(block(&[64]).absent_around(64), None);
        assert_eq!(Block::Whole(Pfn(0)).absent_around(3), None);
    }

    #[test]
    fn a_whole_block_comes_apart_around_a_page() {
        let mut block = Block::Absent;
        block.insert(0, PAGES, Pfn(2048));
        assert_eq!(block.runs().collect::<Vec<_>>(), [(0, Pfn(2048), PAGES)]);
        block.remove(100);
        assert_eq!(block.runs().collect::<Vec<_>>(), [(0, Pfn(2048), 100), (101, Pfn(2149), 411)]);
        assert_eq!(block.lookup(100), None);
        assert_eq!(block.absent_around(100), Some(100..101));
    }

    #[test]
    fn pages_are_in_one_run_where_they_are_contiguous() {
        assert_eq!(block(&[3, 4]).runs().collect::<Vec<_>>(), [(3, Pfn(997), 1), (4, Pfn(996), 1)]);
        let mut block = Block::Absent;
        block.insert(7, 2, Pfn(70));
        block.insert(9, 1, Pfn(72));
        assert_eq!(block.runs().collect::<Vec<_>>(), [(7, Pfn(70), 3)]);
    }
}
