//! Changing stage-2 tables: map, unmap, merge.
//!
//! Every change of a live entry is break-before-make (Arm ARM DDI0487, D8.17.1): the entry becomes
//! invalid, the TLBs forget it, then the new one is written. Another CPU that walks in between takes a
//! translation fault, finds that the record allows its access, and tries again.
//!
//! Tables come from a [`Pool`]. Who calls [`Stage2::map`] or [`Stage2::unmap`] has made sure with
//! [`Stage2::tables_to_map`] or [`Stage2::tables_to_unmap`] that they will not run out. Should they do
//! so all the same, less is mapped than could be, never more.

use shared_abi::addr::{PAGE_SHIFT, Pfn};

use super::batch::Batch;
use super::descriptor::{self, Access, INVALID, Kind};
use crate::geometry::{Geometry, Level};
use crate::machine::{Frames, Machine, Space, TableRef, Vmid};
use crate::pool::{Pool, clear};

/// The tables of one address space.
#[derive(Debug)]
pub(crate) struct Stage2 {
    root: TableRef,
    vmid: Vmid,
}

/// An entry: where it is, and what it covers.
#[derive(Clone, Copy)]
struct Slot {
    table: TableRef,
    index: usize,
    level: Level,
}

impl Slot {
    fn read<M: Machine>(self, machine: &M) -> u64 {
        machine.read_entry(self.table, self.index)
    }

    fn kind<M: Machine>(self, machine: &M) -> Kind {
        descriptor::kind(self.level, self.read(machine))
    }

    fn write<M: Machine>(self, machine: &M, value: u64) {
        machine.write_entry(self.table, self.index, value);
    }

    /// The entry for `page` in the table that this one names.
    fn below<M: Machine>(self, table: Pfn, page: u64) -> Self {
        let level = below(self.level);
        Self {
            table: TableRef::new(table),
            index: M::Geometry::index(level, page),
            level,
        }
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
    /// First page of the IPA run; the run ends within the IPA space.
    pub(crate) page: u64,
    /// Where it goes.
    pub(crate) to: Pfn,
    /// How many pages.
    pub(crate) pages: u64,
    /// What is allowed.
    pub(crate) access: Access,
}

impl Mapping {
    /// What is left of the run after its first `pages`.
    const fn skip(self, pages: u64) -> Self {
        Self {
            page: self.page.wrapping_add(pages),
            to: Pfn(self.to.0.wrapping_add(pages)),
            pages: self.pages.saturating_sub(pages),
            access: self.access,
        }
    }
}

impl Stage2 {
    /// An empty address space whose root is `root`: two wiped pages, the first at an even number.
    pub(crate) fn new(root: &Frames, vmid: Vmid) -> Self {
        Self {
            root: TableRef::new(root.range().first()),
            vmid,
        }
    }

    /// What VTTBR_EL2 holds for it.
    #[inline]
    pub(crate) const fn space(&self) -> Space {
        Space {
            root: self.root.address(),
            vmid: self.vmid,
        }
    }

    /// The root's first page.
    pub(crate) const fn root(&self) -> Pfn {
        self.root.page()
    }

    #[inline]
    fn root_slot<M: Machine>(&self, page: u64) -> Slot {
        let table = self
            .root
            .page()
            .0
            .wrapping_add(M::Geometry::root_table(page));
        Slot {
            table: TableRef::new(Pfn(table)),
            index: M::Geometry::index(Level::One, page),
            level: Level::One,
        }
    }

    /// The entry that translates `page`, or would: the last one of the walk.
    #[inline]
    fn walk<M: Machine>(&self, machine: &M, page: u64) -> (Slot, Kind) {
        let mut slot = self.root_slot::<M>(page);
        loop {
            match slot.kind(machine) {
                Kind::Table(table) => slot = slot.below::<M>(table, page),
                kind => return (slot, kind),
            }
        }
    }

    /// Whether `page` is translated, by an entry of which level.
    pub(crate) fn level_of<M: Machine>(&self, machine: &M, page: u64) -> Option<Level> {
        match self.walk(machine, page) {
            (slot, Kind::Leaf(_)) => Some(slot.level),
            _ => None,
        }
    }

    /// Maps a run in which nothing is mapped, in the largest leaves that fit it.
    #[inline]
    pub(crate) fn map<M: Machine>(
        &self,
        machine: &M,
        pool: &mut Pool,
        mapping: Mapping,
        batch: &mut Batch,
    ) {
        let mut left = mapping;
        while left.pages != 0 {
            let mut slot = self.root_slot::<M>(left.page);
            let done = loop {
                if fits::<M>(slot.level, left) {
                    self.put_leaf(machine, pool, slot, left, batch);
                    break M::Geometry::span(slot.level);
                }
                match self.table_below(machine, pool, slot, left.page, batch) {
                    Some(table) => slot = slot.below::<M>(table, left.page),
                    None => break M::Geometry::span(Level::Three),
                }
            };
            left = left.skip(done);
        }
    }

    /// Writes a leaf; whatever tables were there go back to the pool.
    #[inline]
    fn put_leaf<M: Machine>(
        &self,
        machine: &M,
        pool: &mut Pool,
        slot: Slot,
        mapping: Mapping,
        batch: &mut Batch,
    ) {
        if let Kind::Table(table) = slot.kind(machine) {
            self.detach(machine, slot);
            free_tables(machine, pool, table, below(slot.level));
        }
        slot.write(
            machine,
            descriptor::leaf(slot.level, mapping.to, mapping.access),
        );
        batch.added();
    }

    /// Takes a whole table out of the walk and the TLBs: its leaves may be cached one by one, so
    /// nothing less than all of the space will do.
    fn detach<M: Machine>(&self, machine: &M, slot: Slot) {
        slot.write(machine, INVALID);
        machine.invalidate_all(self.space());
    }

    /// The table under `slot`, made if need be: an empty one where nothing is mapped, one with the same
    /// translations where a leaf is.
    #[inline]
    fn table_below<M: Machine>(
        &self,
        machine: &M,
        pool: &mut Pool,
        slot: Slot,
        page: u64,
        batch: &mut Batch,
    ) -> Option<Pfn> {
        let table = match slot.kind(machine) {
            Kind::Table(table) => return Some(table),
            Kind::Invalid => pool.take(machine)?,
            Kind::Leaf(_) => {
                let leaf = slot.read(machine);
                let first = M::Geometry::align_down(slot.level, page);
                slot.write(machine, INVALID);
                let mut broken = Batch::new(batch.space());
                broken.removed(first, slot.level);
                broken.finish(machine);
                let table = pool.take(machine)?;
                fill(machine, table, leaf, below(slot.level));
                table
            }
        };
        slot.write(machine, descriptor::table(table.page()));
        batch.added();
        Some(table.page())
    }

    /// Takes every translation of the run away; leaves that reach beyond it are split.
    #[inline]
    pub(crate) fn unmap<M: Machine>(
        &self,
        machine: &M,
        pool: &mut Pool,
        first: u64,
        pages: u64,
        batch: &mut Batch,
    ) {
        let end = first.saturating_add(pages);
        let mut page = first;
        while page < end {
            let (slot, kind) = self.walk(machine, page);
            let start = M::Geometry::align_down(slot.level, page);
            let next = M::Geometry::next(slot.level, page);
            match kind {
                Kind::Leaf(_) if start < page || next > end => {
                    // A split that finds no table leaves the whole leaf invalid; go on behind it then.
                    if self.table_below(machine, pool, slot, page, batch).is_some() {
                        continue;
                    }
                }
                Kind::Leaf(_) => {
                    slot.write(machine, INVALID);
                    batch.removed(start, slot.level);
                }
                Kind::Table(_) | Kind::Invalid => {}
            }
            page = next;
        }
    }

    /// How many tables [`Self::map`] would take for a run in which nothing is mapped.
    pub(crate) fn tables_to_map<M: Machine>(&self, machine: &M, mapping: Mapping) -> u64 {
        let mut tables = 0_u64;
        let mut left = mapping;
        // The first page beyond what a counted table of each level serves.
        let (mut counted_two, mut counted_three) = (0, 0);
        while left.pages != 0 {
            let (slot, _) = self.walk(machine, left.page);
            let mut level = slot.level;
            while !fits::<M>(level, left) {
                let counted = match level {
                    Level::One => &mut counted_two,
                    Level::Two | Level::Three => &mut counted_three,
                };
                if left.page >= *counted {
                    *counted = M::Geometry::next(level, left.page);
                    tables = tables.saturating_add(1);
                }
                level = below(level);
            }
            left = left.skip(M::Geometry::span(level));
        }
        tables
    }

    /// The most tables that [`Self::unmap`] would take: for leaves that reach beyond the run.
    pub(crate) fn tables_to_unmap<M: Machine>(&self, machine: &M, first: u64, pages: u64) -> u64 {
        let end = first.saturating_add(pages);
        let split_at = |page: u64| {
            let (slot, kind) = self.walk(machine, page);
            let start = M::Geometry::align_down(slot.level, page);
            let next = M::Geometry::next(slot.level, page);
            let cut = matches!(kind, Kind::Leaf(_)) && (start < first || next > end);
            match slot.level {
                Level::One if cut => (start, 2),
                Level::Two if cut => (start, 1),
                _ => (start, 0),
            }
        };
        let (start, tables) = split_at(first);
        let (last_start, last_tables) = split_at(end.saturating_sub(1));
        match (start == last_start, tables) {
            // Both ends in one giant may still need a level-3 table each.
            (true, 2) => 3,
            (true, tables) => tables,
            (false, tables) => tables.saturating_add(last_tables),
        }
    }

    /// Replaces the tables that translate `page` by one leaf where all their entries say the same as
    /// it would: a block, and then a giant.
    pub(crate) fn merge<M: Machine>(
        &self,
        machine: &M,
        pool: &mut Pool,
        page: u64,
        batch: &mut Batch,
    ) {
        let giant = self.root_slot::<M>(page);
        let Kind::Table(blocks) = giant.kind(machine) else {
            return;
        };
        let block = giant.below::<M>(blocks, page);
        if let Kind::Table(pages) = block.kind(machine) {
            self.merge_table(machine, pool, block, pages, batch);
        }
        if matches!(block.kind(machine), Kind::Leaf(_)) {
            self.merge_table(machine, pool, giant, blocks, batch);
        }
    }

    fn merge_table<M: Machine>(
        &self,
        machine: &M,
        pool: &mut Pool,
        slot: Slot,
        table: Pfn,
        batch: &mut Batch,
    ) {
        let table = TableRef::new(table);
        if let Some(leaf) = as_one_leaf(machine, table, slot.level) {
            self.detach(machine, slot);
            slot.write(machine, leaf);
            batch.added();
            clear(machine, table);
            pool.put(machine, table);
        }
    }

    /// Gives tables to the pool, of an address space that nobody uses any more, until `most` have
    /// gone. Answers how many; fewer than `most` once only the root is left. The tables are not
    /// zeroed: they can only go home.
    pub(crate) fn dismantle<M: Machine>(&self, machine: &M, pool: &mut Pool, most: u64) -> u64 {
        let mut gone = 0_u64;
        for root in 0..M::Geometry::ROOT_TABLES {
            let root = TableRef::new(Pfn(self.root.page().0.wrapping_add(root)));
            for index in 0..M::Geometry::ENTRIES {
                let Kind::Table(blocks) = entry_kind(machine, root, index, Level::One) else {
                    continue;
                };
                let blocks = TableRef::new(blocks);
                for index in 0..M::Geometry::ENTRIES {
                    if let Kind::Table(pages) = entry_kind(machine, blocks, index, Level::Two) {
                        if gone >= most {
                            return gone;
                        }
                        machine.write_entry(blocks, index, INVALID);
                        pool.put(machine, TableRef::new(pages));
                        gone = gone.saturating_add(1);
                    }
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

fn entry_kind<M: Machine>(machine: &M, table: TableRef, index: usize, level: Level) -> Kind {
    descriptor::kind(level, machine.read_entry(table, index))
}

/// Whether a leaf of `level` fits at the start of the run.
#[inline]
fn fits<M: Machine>(level: Level, run: Mapping) -> bool {
    let span = M::Geometry::span(level);
    run.pages >= span
        && M::Geometry::align_down(level, run.page) == run.page
        && M::Geometry::align_down(level, run.to.0) == run.to.0
}

/// Fills a table of `level` with what `leaf`, an entry of the level above, translated.
fn fill<M: Machine>(machine: &M, table: TableRef, leaf: u64, level: Level) {
    let step = M::Geometry::span(level) << PAGE_SHIFT;
    let mut next = descriptor::at_level(leaf, level);
    for index in 0..M::Geometry::ENTRIES {
        machine.write_entry(table, index, next);
        next = next.wrapping_add(step);
    }
}

/// The leaf for an entry of `level` that says what all entries of the table below it say, if there is
/// one.
fn as_one_leaf<M: Machine>(machine: &M, table: TableRef, level: Level) -> Option<u64> {
    let lower = below(level);
    let step = M::Geometry::span(lower) << PAGE_SHIFT;
    let first = machine.read_entry(table, 0);
    let Kind::Leaf(page) = descriptor::kind(lower, first) else {
        return None;
    };
    if M::Geometry::align_down(level, page.0) != page.0 {
        return None;
    }
    let mut expected = first;
    for index in 0..M::Geometry::ENTRIES {
        if machine.read_entry(table, index) != expected {
            return None;
        }
        expected = expected.wrapping_add(step);
    }
    Some(descriptor::at_level(first, level))
}

/// Zeroes a detached table of `level` and those below it, and gives them to the pool.
fn free_tables<M: Machine>(machine: &M, pool: &mut Pool, table: Pfn, level: Level) {
    let table = TableRef::new(table);
    if level == Level::Two {
        for index in 0..M::Geometry::ENTRIES {
            if let Kind::Table(pages) = entry_kind(machine, table, index, level) {
                let pages = TableRef::new(pages);
                clear(machine, pages);
                pool.put(machine, pages);
            }
        }
    }
    clear(machine, table);
    pool.put(machine, table);
}
