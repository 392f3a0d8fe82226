//! Which physical page backs which guest page.

use alloc::collections::BTreeMap;

use shared_abi::addr::{Gfn, PageRange, Pfn};

mod block;

use block::{Block, PAGES};

/// A run of guest pages in contiguous physical pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its first guest page.
    pub gfn: Gfn,
    /// The physical page of that.
    pub pfn: Pfn,
    /// How many pages, at least one.
    pub pages: u64,
}

/// The pages that a guest has been given, by blocks of 2 MiB: every first touch of a page asks here.
#[derive(Clone, Debug, Default)]
pub struct PageMap {
    /// By their numbers.
    blocks: BTreeMap<u64, Block>,
}

/// The block that a page is in, and the page's place there.
fn place(gfn: Gfn) -> (u64, usize) {
    (gfn.0 / PAGES as u64, (gfn.0 % PAGES as u64) as usize)
}

impl PageMap {
    /// A map with no pages.
    #[must_use]
    pub const fn new() -> Self {
        Self { blocks: BTreeMap::new() }
    }

    /// Adds a run that the hypervisor has accepted: it overlaps none before it.
    pub fn insert(&mut self, run: Run) {
        let mut done = 0;
        while done < run.pages {
            let (number, place) = place(Gfn(run.gfn.0 + done));
            let pages = (run.pages - done).min((PAGES - place) as u64);
            let pfn = Pfn(run.pfn.0 + done);
            self.block_mut(number).insert(place, pages as usize, pfn);
            done += pages;
        }
    }

    /// The physical page behind a guest page.
    #[must_use]
    pub fn lookup(&self, gfn: Gfn) -> Option<Pfn> {
        let (number, place) = place(gfn);
        self.block(number)?.lookup(place)
    }

    /// Takes a guest page out; answers the physical page that was behind it.
    pub fn remove(&mut self, gfn: Gfn) -> Option<Pfn> {
        let pfn = self.lookup(gfn)?;
        let (number, place) = place(gfn);
        self.block_mut(number).remove(place);
        Some(pfn)
    }

    /// The absent pages around `gfn` that lie within `bounds` and in its block; `None` if a page is at
    /// `gfn`, or `gfn` is out of bounds.
    #[must_use]
    pub fn absent_around(&self, gfn: Gfn, bounds: PageRange<Gfn>) -> Option<PageRange<Gfn>> {
        if !bounds.contains(gfn) {
            return None;
        }
        let (number, place) = place(gfn);
        let absent = match self.block(number) {
            Some(block) => block.absent_around(place)?,
            None => 0..PAGES,
        };
        let base = number * PAGES as u64;
        let start = bounds.first().0.max(base + absent.start as u64);
        let end = bounds.end().0.min(base + absent.end as u64);
        PageRange::<Gfn>::new(Gfn(start), end - start)
    }

    /// The runs, by ascending guest address.
    pub fn runs(&self) -> impl Iterator<Item = Run> {
        self.blocks.iter().flat_map(|(number, block)| {
            block.runs().map(move |(place, pfn, pages)| Run {
                gfn: Gfn(number * PAGES as u64 + place as u64),
                pfn,
                pages: pages as u64,
            })
        })
    }

    /// How many pages there are.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.runs().map(|run| run.pages).sum()
    }

    fn block(&self, number: u64) -> Option<&Block> {
        self.blocks.get(&number)
    }

    fn block_mut(&mut self, number: u64) -> &mut Block {
        self.blocks.entry(number).or_insert(Block::Absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> PageMap {
        let mut map = PageMap::new();
        for (gfn, pfn, pages) in [(0x100, 0x900, 4), (0x104, 0x200, 1), (0x200, 0x300, 2)] {
            map.insert(Run { gfn: Gfn(gfn), pfn: Pfn(pfn), pages });
        }
        map
    }

    #[test]
    fn a_page_is_found_in_its_run_only() {
        let map = map();
        assert_eq!(map.lookup(Gfn(0xff)), None);
        assert_eq!(map.lookup(Gfn(0x103)), Some(Pfn(0x903)));
        assert_eq!(map.lookup(Gfn(0x104)), Some(Pfn(0x200)));
        assert_eq!(map.lookup(Gfn(0x105)), None);
        assert_eq!(map.lookup(Gfn(u64::MAX)), None);
        assert_eq!(map.pages(), 7);
    }

    #[test]
    fn a_page_that_is_taken_out_leaves_its_neighbours() {
        let mut map = map();
        assert_eq!(map.remove(Gfn(0xff)), None);
        assert_eq!(map.remove(Gfn(0x101)), Some(Pfn(0x901)));
        assert_eq!(map.remove(Gfn(0x101)), None);
        assert_eq!(map.lookup(Gfn(0x100)), Some(Pfn(0x900)));
        assert_eq!(map.lookup(Gfn(0x102)), Some(Pfn(0x902)));
        assert_eq!(map.remove(Gfn(0x100)), Some(Pfn(0x900)));
        assert_eq!(map.remove(Gfn(0x103)), Some(Pfn(0x903)));
        assert_eq!(map.remove(Gfn(0x104)), Some(Pfn(0x200)));
        assert_eq!(map.pages(), 3);
        assert_eq!(map.lookup(Gfn(0x102)), Some(Pfn(0x902)));
    }

    #[test]
    fn holes_end_at_pages_and_bounds() {
        let map = map();
        let bounds = PageRange::<Gfn>::new(Gfn(0x80), 0x200).unwrap();
        let hole = |gfn| map.absent_around(Gfn(gfn), bounds).map(|hole| (hole.first().0, hole.end().0));
        assert_eq!(hole(0x90), Some((0x80, 0x100)));
        assert_eq!(hole(0x102), None);
        assert_eq!(hole(0x180), Some((0x105, 0x200)));
        assert_eq!(hole(0x202), Some((0x202, 0x280)));
        assert_eq!(hole(0x280), None);
    }
}
