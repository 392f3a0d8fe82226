//! Which physical page backs which guest page.

use alloc::vec::Vec;

use shared_abi::addr::{Gfn, PageRange, Pfn};

mod block;

use block::{Block, PAGES};

/// A run of guest pages in contiguous physical pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestRun {
    /// Its first guest page.
    pub gfn: Gfn,
    /// The physical page of that.
    pub pfn: Pfn,
    /// How many pages, at least one.
    pub pages: u64,
}

/// The pages that a guest has been given, by blocks of 2 MiB: every first touch of a page asks here, and
/// so does every access of a device.
#[derive(Clone, Debug)]
pub struct PageMap {
    /// The guest's RAM; it has no pages elsewhere.
    ram: PageRange<Gfn>,
    /// All blocks in which there is RAM, in order.
    blocks: Vec<Block>,
}

impl PageMap {
    /// A map of RAM in which there are no pages; `None` if the host has no memory for it, which is two
    /// words per block.
    #[must_use]
    pub fn new(ram: PageRange<Gfn>) -> Option<Self> {
        let blocks = (ram.end().0.div_ceil(PAGES as u64) - number(ram.first())) as usize;
        let mut map = Self { ram, blocks: Vec::new() };
        map.blocks.try_reserve_exact(blocks).ok()?;
        map.blocks.resize_with(blocks, || Block::Absent);
        Some(map)
    }

    /// Adds a run that the hypervisor has accepted: it overlaps none before it.
    pub fn insert(&mut self, run: GuestRun) {
        let mut done = 0;
        while done < run.pages {
            let gfn = Gfn(run.gfn.0 + done);
            let pages = (run.pages - done).min((PAGES - place(gfn)) as u64);
            let pfn = Pfn(run.pfn.0 + done);
            if let Some(block) = self.block_mut(gfn) {
                block.insert(place(gfn), pages as usize, pfn);
            }
            done += pages;
        }
    }

    /// The physical page behind a guest page.
    #[must_use]
    pub fn lookup(&self, gfn: Gfn) -> Option<Pfn> {
        self.block(gfn)?.lookup(place(gfn))
    }

    /// Takes a guest page out; answers the physical page that was behind it.
    pub fn remove(&mut self, gfn: Gfn) -> Option<Pfn> {
        let pfn = self.lookup(gfn)?;
        self.block_mut(gfn)?.remove(place(gfn));
        Some(pfn)
    }

    /// The absent pages of RAM around `gfn` in its block; `None` if a page is at `gfn`, or no RAM.
    #[must_use]
    #[inline]
    pub fn absent_around(&self, gfn: Gfn) -> Option<PageRange<Gfn>> {
        if !self.ram.contains(gfn) {
            return None;
        }
        let absent = self.block(gfn)?.absent_around(place(gfn))?;
        let base = gfn.0 - place(gfn) as u64;
        let start = self.ram.first().0.max(base + absent.start as u64);
        let end = self.ram.end().0.min(base + absent.end as u64);
        PageRange::<Gfn>::new(Gfn(start), end - start)
    }

    /// The runs, by ascending guest address.
    pub fn runs(&self) -> impl Iterator<Item = GuestRun> {
        (number(self.ram.first())..).zip(&self.blocks).flat_map(|(number, block)| {
            block.runs().map(move |(place, pfn, pages)| GuestRun {
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

    #[inline]
    fn block(&self, gfn: Gfn) -> Option<&Block> {
        self.blocks.get(self.index(gfn))
    }

    #[inline]
    fn block_mut(&mut self, gfn: Gfn) -> Option<&mut Block> {
        let index = self.index(gfn);
        self.blocks.get_mut(index)
    }

    /// The position of a page's block, if it has one: below RAM it comes out far above the last.
    fn index(&self, gfn: Gfn) -> usize {
        number(gfn).wrapping_sub(number(self.ram.first())) as usize
    }
}

/// The number of the block that a page is in.
const fn number(gfn: Gfn) -> u64 {
    gfn.0 / PAGES as u64
}

/// The place of a page in its block.
const fn place(gfn: Gfn) -> usize {
    (gfn.0 % PAGES as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0x80 to 0x280, with the pages 0x100 to 0x105, 0x200 and 0x201.
    fn map() -> PageMap {
        let ram = PageRange::<Gfn>::new(Gfn(0x80), 0x200).unwrap();
        let mut map = PageMap::new(ram).unwrap();
        for (gfn, pfn, pages) in [(0x100, 0x900, 4), (0x104, 0x200, 1), (0x200, 0x300, 2)] {
            map.insert(GuestRun { gfn: Gfn(gfn), pfn: Pfn(pfn), pages });
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
        let hole = |gfn| map.absent_around(Gfn(gfn)).map(|hole| (hole.first().0, hole.end().0));
        assert_eq!(hole(0x90), Some((0x80, 0x100)));
        assert_eq!(hole(0x102), None);
        assert_eq!(hole(0x180), Some((0x105, 0x200)));
        assert_eq!(hole(0x202), Some((0x202, 0x280)));
        assert_eq!(hole(0x280), None);
        assert_eq!(hole(0x7f), None);
        assert_eq!(hole(u64::MAX), None);
    }

    #[test]
    fn what_is_outside_ram_is_nowhere() {
        let ram = PageRange::<Gfn>::new(Gfn(0x4_0080), 0x10).unwrap();
        let mut map = PageMap::new(ram).unwrap();
        map.insert(GuestRun { gfn: Gfn(0x3_fe80), pfn: Pfn(1), pages: 1 });
        map.insert(GuestRun { gfn: Gfn(0x4_0280), pfn: Pfn(1), pages: 1 });
        assert_eq!(map.pages(), 0);
        map.insert(GuestRun { gfn: Gfn(0x4_0080), pfn: Pfn(1), pages: 2 });
        assert_eq!(map.runs().collect::<Vec<_>>(), [GuestRun { gfn: Gfn(0x4_0080), pfn: Pfn(1), pages: 2 }]);
        let huge = PageRange::<Gfn>::new(Gfn(0), 1 << 52).unwrap();
        assert!(PageMap::new(huge).is_none());
    }
}
