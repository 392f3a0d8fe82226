//! Which physical page backs which guest page.

use alloc::collections::BTreeMap;

use shared_abi::addr::{Gfn, PageRange, Pfn};

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

/// The pages that a guest has been given, in runs as they were given.
#[derive(Clone, Debug, Default)]
pub struct PageMap {
    /// By the first guest page; runs do not overlap.
    runs: BTreeMap<u64, Run>,
}

impl PageMap {
    /// A map with no pages.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            runs: BTreeMap::new(),
        }
    }

    /// Adds a run that the hypervisor has accepted: it overlaps none before it.
    pub fn insert(&mut self, run: Run) {
        self.runs.insert(run.gfn.0, run);
    }

    /// The physical page behind a guest page.
    #[must_use]
    pub fn lookup(&self, gfn: Gfn) -> Option<Pfn> {
        let (_, run) = self.runs.range(..=gfn.0).next_back()?;
        let offset = gfn.0 - run.gfn.0;
        (offset < run.pages).then(|| Pfn(run.pfn.0 + offset))
    }

    /// Takes a guest page out; answers the physical page that was behind it.
    pub fn remove(&mut self, gfn: Gfn) -> Option<Pfn> {
        let pfn = self.lookup(gfn)?;
        let (_, run) = self.runs.range_mut(..=gfn.0).next_back()?;
        let before = gfn.0 - run.gfn.0;
        let behind = Run {
            gfn: Gfn(gfn.0 + 1),
            pfn: Pfn(pfn.0 + 1),
            pages: run.pages - before - 1,
        };
        run.pages = before;
        if before == 0 {
            self.runs.remove(&gfn.0);
        }
        if behind.pages != 0 {
            self.insert(behind);
        }
        Some(pfn)
    }

    /// The absent pages around `gfn` that lie within `bounds`; `None` if a page is at `gfn`, or `gfn` is
    /// out of bounds.
    #[must_use]
    pub fn absent_around(&self, gfn: Gfn, bounds: PageRange<Gfn>) -> Option<PageRange<Gfn>> {
        if !bounds.contains(gfn) || self.lookup(gfn).is_some() {
            return None;
        }
        let below = self.runs.range(..gfn.0).next_back();
        let above = self.runs.range(gfn.0..).next();
        let start = below.map_or(0, |(_, run)| run.gfn.0 + run.pages);
        let start = start.max(bounds.first().0);
        let end = above.map_or(u64::MAX, |(first, _)| *first);
        let end = end.min(bounds.end().0);
        PageRange::<Gfn>::new(Gfn(start), end - start)
    }

    /// The runs, by ascending guest address.
    pub fn runs(&self) -> impl Iterator<Item = Run> {
        self.runs.values().copied()
    }

    /// How many pages there are.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.runs().map(|run| run.pages).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> PageMap {
        let mut map = PageMap::new();
        for (gfn, pfn, pages) in [(0x100, 0x900, 4), (0x104, 0x200, 1), (0x200, 0x300, 2)] {
            map.insert(Run {
                gfn: Gfn(gfn),
                pfn: Pfn(pfn),
                pages,
            });
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
        let hole = |gfn| {
            map.absent_around(Gfn(gfn), bounds)
                .map(|hole| (hole.first().0, hole.end().0))
        };
        assert_eq!(hole(0x90), Some((0x80, 0x100)));
        assert_eq!(hole(0x102), None);
        assert_eq!(hole(0x180), Some((0x105, 0x200)));
        assert_eq!(hole(0x202), Some((0x202, 0x280)));
        assert_eq!(hole(0x280), None);
    }
}
