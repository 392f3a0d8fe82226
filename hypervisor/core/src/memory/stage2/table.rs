//! Changes of stage-2 tables: map, unmap, merge, split.
//!
//! Every change of a valid entry to another valid entry is break-before-make (Arm ARM DDI0487, D8.17.1): the
//! entry becomes invalid, the TLBs are invalidated, then the new entry is written. A walk on another CPU in
//! between takes a translation fault; the handler finds that the page state allows the access, and the CPU
//! retries.
//!
//! Tables come from a [`Pool`]. A caller that maps or unmaps guest pages first checks that the pool has
//! [`tables_for`] the run. The host's pool suffices for all RAM mapped in pages. If a pool runs out
//! nevertheless, fewer pages stay mapped, never more.

use shared_abi::addr::{PAGE_SHIFT, PAGE_SIZE, Pfn};

use super::descriptor::{self, INVALID, Kind, MemoryType};
use crate::machine::geometry::{Geometry, Level, touched};
use crate::machine::{Frames, Machine, Stage2Id, TableRef, Vmid};
use crate::memory::pool::{Pool, used};
use crate::memory::tlb::TlbGather;

/// Returns the maximum number of tables that mapping or unmapping a run takes: one for each level-1 block and
/// one for each block that the run touches.
pub(crate) fn tables_for<G: Geometry>(first: u64, pages: u64) -> u64 {
    let level1_blocks = touched::<G>(Level::One, first, pages);
    level1_blocks.saturating_add(touched::<G>(Level::Two, first, pages))
}

/// The stage-2 tables of one address space.
#[derive(Debug)]
#[cfg_attr(feature = "verify", derive(Clone))]
pub(crate) struct Stage2 {
    root: TableRef,
    vmid: Vmid,
}

/// A table entry: its position and level.
#[derive(Clone, Copy)]
pub(crate) struct EntryRef {
    table: TableRef,
    index: usize,
    level: Level,
}

impl EntryRef {
    fn read<M: Machine>(self, machine: &M) -> u64 {
        machine.read_entry(self.table, self.index)
    }

    #[inline(always)] // mem_share: a walk reads three entries
    fn kind<M: Machine>(self, machine: &M) -> Kind {
        descriptor::kind(self.level, self.read(machine))
    }

    pub(crate) fn write<M: Machine>(self, machine: &M, value: u64) {
        machine.write_entry(self.table, self.index, value);
    }

    /// Returns the entry for `page` in the table that this entry points to, or `None` if this is a leaf or
    /// invalid.
    #[inline(always)] // mem_share: the levels of a walk are constants
    fn follow<M: Machine>(self, machine: &M, page: u64) -> Option<Self> {
        match self.kind(machine) {
            Kind::Table(table) => Some(self.below::<M>(table, page)),
            Kind::Invalid | Kind::Leaf(_) => None,
        }
    }

    /// Returns the entry for `page` in `table`, to which this entry points.
    fn below<M: Machine>(self, table: Pfn, page: u64) -> Self {
        let level = below(self.level);
        Self { table: TableRef::new(table), index: M::Geometry::index(level, page), level }
    }
}

const fn below(level: Level) -> Level {
    match level {
        Level::One => Level::Two,
        Level::Two | Level::Three => Level::Three,
    }
}

/// A run of IPA pages that maps to physical pages, one to one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    /// The first page of the IPA run, which ends within the IPA space.
    pub(crate) page: u64,
    /// The first physical page.
    pub(crate) to: Pfn,
    /// Number of pages.
    pub(crate) pages: u64,
    /// The memory type and access.
    pub(crate) memory_type: MemoryType,
}

impl Stage2 {
    /// Makes an empty address space with root tables `root`: two wiped pages, the first with an even page
    /// number.
    pub(crate) fn new(root: &Frames, vmid: Vmid) -> Self {
        Self { root: TableRef::new(root.range().first()), vmid }
    }

    /// The value of VTTBR_EL2 for this address space.
    pub(crate) const fn stage2_id(&self) -> Stage2Id {
        Stage2Id { root: self.root.address(), vmid: self.vmid }
    }

    /// The first page of the root tables.
    pub(crate) const fn root(&self) -> Pfn {
        self.root.page()
    }

    fn root_entry<M: Machine>(&self, page: u64) -> EntryRef {
        let table = self.root.page().0.wrapping_add(M::Geometry::root_table(page));
        EntryRef {
            table: TableRef::new(Pfn(table)),
            index: M::Geometry::index(Level::One, page),
            level: Level::One,
        }
    }

    /// Returns the level-3 entry for `page`, if the walk reaches a level-3 table.
    #[inline(always)] // mem_share: its walk is the host's side of a transition
    fn page_entry<M: Machine>(&self, machine: &M, page: u64) -> Option<EntryRef> {
        self.root_entry::<M>(page).follow(machine, page)?.follow(machine, page)
    }

    /// Returns the entry for `page` in the lowest table that the walk reaches, and the decoded entry.
    fn walk<M: Machine>(&self, machine: &M, page: u64) -> (EntryRef, Kind) {
        let mut entry = self.root_entry::<M>(page);
        loop {
            match entry.kind(machine) {
                Kind::Table(table) => entry = entry.below::<M>(table, page),
                kind => return (entry, kind),
            }
        }
    }

    /// Returns whether `page` has a translation.
    pub(crate) fn is_mapped<M: Machine>(&self, machine: &M, page: u64) -> bool {
        matches!(self.walk(machine, page), (_, Kind::Leaf(_)))
    }

    /// Maps a run in the largest leaves that fit. Pages that are mapped already must map to the same physical
    /// pages. A table that a leaf replaces returns to the pool.
    #[inline(always)] // mem_share: one page is one entry of an existing table
    pub(crate) fn map<M: Machine>(&self, machine: &M, pool: &mut Pool, run: Mapping, gather: &mut TlbGather) {
        let Mapping { mut page, mut pages, to, memory_type } = run;
        let mut leaf = descriptor::leaf(Level::Three, to, memory_type);
        while pages != 0 {
            let done = match self.page_entry(machine, page) {
                Some(entry) if !fits::<M>(Level::Two, page, pages, leaf) => {
                    let mut next = leaf;
                    let entries = pages_in_table::<M>(entry, pages);
                    let done = entries.len() as u64;
                    for index in entries {
                        machine.write_entry(entry.table, index, next);
                        next = next.wrapping_add(PAGE_SIZE);
                    }
                    gather.added();
                    done
                }
                _ => self.map_above(machine, pool, page, pages, leaf, gather),
            };
            page = page.wrapping_add(done);
            pages = pages.saturating_sub(done);
            leaf = leaf.wrapping_add(done << PAGE_SHIFT);
        }
    }

    /// Maps the start of a run above level 3: writes a leaf, or links tables down to level 3. `leaf` is the
    /// level-3 leaf of the first page. Returns the number of pages to skip: those under a leaf, or those that
    /// cannot be mapped because the pool is empty. Returns 0 if a level-3 table exists now.
    fn map_above<M: Machine>(
        &self,
        machine: &M,
        pool: &mut Pool,
        page: u64,
        pages: u64,
        leaf: u64,
        gather: &mut TlbGather,
    ) -> u64 {
        let mut entry = self.root_entry::<M>(page);
        while entry.level != Level::Three {
            let kind = entry.kind(machine);
            let rest = M::Geometry::next(entry.level, page).wrapping_sub(page);
            let table = match kind {
                Kind::Leaf(_) => return rest,
                _ if fits::<M>(entry.level, page, pages, leaf) => {
                    if let Kind::Table(table) = kind {
                        self.detach(machine, entry);
                        free_tables(machine, pool, table, below(entry.level));
                    }
                    entry.write(machine, descriptor::at_level(leaf, entry.level));
                    gather.added();
                    return rest;
                }
                Kind::Table(table) => table,
                Kind::Invalid => match pool.take(machine) {
                    Some(table) => {
                        entry.write(machine, descriptor::table(table.page()));
                        table.page()
                    }
                    None => return rest,
                },
            };
            entry = entry.below::<M>(table, page);
        }
        0
    }

    /// Removes every translation of the run. A leaf that extends beyond the run is split.
    #[inline(always)] // mem_unshare: one page is one entry of an existing table
    pub(crate) fn unmap<M: Machine>(
        &self,
        machine: &M,
        pool: &mut Pool,
        first: u64,
        pages: u64,
        gather: &mut TlbGather,
    ) {
        let end = first.saturating_add(pages);
        let mut page = first;
        while page < end {
            let Some(entry) = self.page_entry(machine, page) else {
                page = self.unmap_above(machine, pool, page, end, gather);
                continue;
            };
            for index in pages_in_table::<M>(entry, end.wrapping_sub(page)) {
                if machine.read_entry(entry.table, index) != INVALID {
                    machine.write_entry(entry.table, index, INVALID);
                    gather.removed(page, Level::Three);
                }
                page = page.wrapping_add(1);
            }
        }
    }

    /// Removes a translation above level 3 at `page`, of a run that ends at `end`. Returns the page to
    /// continue at. This is `page` itself if the leaf extended beyond the run and was split.
    fn unmap_above<M: Machine>(
        &self,
        machine: &M,
        pool: &mut Pool,
        page: u64,
        end: u64,
        gather: &mut TlbGather,
    ) -> u64 {
        let (entry, kind) = self.walk(machine, page);
        let start = M::Geometry::align_down(entry.level, page);
        let next = M::Geometry::next(entry.level, page);
        if let Kind::Leaf(_) = kind {
            if start >= page && next <= end {
                entry.write(machine, INVALID);
                gather.removed(start, entry.level);
            } else if self.split(machine, pool, entry, start).is_some() {
                return page;
            }
            // If there was no table for the split, the whole leaf stays invalid.
        }
        next
    }

    /// Unlinks a table from the walk. TLBs may hold each of its leaves, so this invalidates all entries of
    /// the address space.
    #[cold]
    fn detach<M: Machine>(&self, machine: &M, entry: EntryRef) {
        entry.write(machine, INVALID);
        machine.invalidate_all(self.stage2_id());
    }

    /// Replaces a leaf by a table with the same translations. `first` is the first page of the leaf.
    #[cold]
    fn split<M: Machine>(&self, machine: &M, pool: &mut Pool, entry: EntryRef, first: u64) -> Option<()> {
        let leaf = entry.read(machine);
        entry.write(machine, INVALID);
        let mut broken = TlbGather::new(self.stage2_id());
        broken.removed(first, entry.level);
        broken.finish(machine);
        let table = pool.take(machine)?;
        let level = below(entry.level);
        machine.fill(table, descriptor::at_level(leaf, level), M::Geometry::span(level) << PAGE_SHIFT);
        entry.write(machine, descriptor::table(table.page()));
        Some(())
    }

    /// Returns at most `most` tables of an unused address space to the pool, all but the root. Returns their
    /// number, which is below `most` once only the root is left. The tables are not zeroed: they leave the
    /// pool only for the host, after a wipe.
    pub(crate) fn dismantle<M: Machine>(&self, machine: &M, pool: &mut Pool, most: u64) -> u64 {
        let mut gone = 0_u64;
        for root in 0..M::Geometry::ROOT_TABLES {
            let root = TableRef::new(Pfn(self.root.page().0.wrapping_add(root)));
            for (index, blocks) in tables_in(machine, root, Level::One) {
                for (index, pages) in tables_in(machine, blocks, Level::Two) {
                    if gone >= most {
                        return gone;
                    }
                    machine.write_entry(blocks, index, INVALID);
                    pool.put(machine, pages);
                    gone = gone.saturating_add(1);
                }
                if gone >= most {
                    return gone;
                }
                machine.write_entry(root, index, INVALID);
                pool.put(machine, blocks);
                gone = gone.saturating_add(1);
            }
        }
        gone
    }
}

/// Returns the next-level tables that a table of `at` points to, with the indices of the entries.
fn tables_in<M: Machine>(machine: &M, from: TableRef, at: Level) -> impl Iterator<Item = (usize, TableRef)> {
    used(machine, from).filter_map(move |(index, entry)| match descriptor::kind(at, entry) {
        Kind::Table(below) => Some((index, TableRef::new(below))),
        Kind::Leaf(_) | Kind::Invalid => None,
    })
}

/// Returns whether a leaf of `level` fits at the start of the run. `leaf` is the level-3 leaf of the first
/// page.
fn fits<M: Machine>(level: Level, page: u64, pages: u64, leaf: u64) -> bool {
    pages >= M::Geometry::span(level)
        && M::Geometry::is_aligned(level, page)
        && M::Geometry::is_aligned(level, descriptor::output(leaf).0)
}

/// Returns the indices of `pages` level-3 entries from `entry` on, at most to the end of the table.
fn pages_in_table<M: Machine>(entry: EntryRef, pages: u64) -> core::ops::Range<usize> {
    let left = M::Geometry::ENTRIES.wrapping_sub(entry.index);
    entry.index..entry.index.wrapping_add(usize::try_from(pages).unwrap_or(usize::MAX).min(left))
}

/// Zeroes a detached table of `level` and the tables below it, and returns them to the pool.
fn free_tables<M: Machine>(machine: &M, pool: &mut Pool, table: Pfn, level: Level) {
    let table = TableRef::new(table);
    if level == Level::Two {
        for (_, pages) in tables_in(machine, table, level) {
            pool.release(machine, pages);
        }
    }
    pool.release(machine, table);
}
