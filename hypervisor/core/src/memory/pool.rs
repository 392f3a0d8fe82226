//! A pool of free pages for tables, linked through the pages themselves.
//!
//! The first entry of a free page links to the next free page, so the pool needs no memory of its own, and
//! adding or taking a page is two accesses. The host's tables have one pool, which is made at boot for the
//! worst case. Each VM has its own pool, from pages that the host donates for it.

use shared_abi::addr::{PAGE_SHIFT, PageRange, Pfn};

use crate::machine::geometry::Geometry;
use crate::machine::{Frames, Machine, TableRef};

/// A list of free pages.
#[derive(Debug, Default)]
#[cfg_attr(feature = "verify", derive(Clone))]
pub(crate) struct Pool {
    head: Option<Pfn>,
    free: u64,
}

/// Marks a link; the last page of the list has 0 instead.
const LINK: u64 = 1;

impl Pool {
    /// Returns how many pages the pool lacks of `needed`, or `None` if it has enough.
    pub(crate) fn short_of(&self, needed: u64) -> Option<u64> {
        seeded!(TablesUncounted => return None);
        match needed.saturating_sub(self.free) {
            0 => None,
            missing => Some(missing),
        }
    }

    /// Adds wiped pages.
    pub(crate) fn add<M: Machine>(&mut self, machine: &M, pages: Frames) {
        for page in pages.range().iter() {
            self.put(machine, TableRef::new(page));
        }
    }

    /// Takes a run of physically contiguous pages: at least one, at most `most`. Only the first entry of each
    /// page has changed since [`Self::put`].
    pub(crate) fn take_run<M: Machine>(&mut self, machine: &M, most: u64) -> Option<PageRange<Pfn>> {
        let mut first = self.take(machine)?.page();
        let mut pages = 1_u64;
        // Pages that were added in ascending order come out in descending order.
        while pages < most
            && self.head.is_some()
            && self.head == first.0.checked_sub(1).map(Pfn)
            && let Some(below) = self.take(machine)
        {
            first = below.page();
            pages = pages.saturating_add(1);
        }
        PageRange::<Pfn>::new(first, pages)
    }

    /// Zeroes a table and returns it to the pool.
    pub(crate) fn release<M: Machine>(&mut self, machine: &M, table: TableRef) {
        machine.fill(table, 0, 0);
        self.put(machine, table);
    }

    /// Adds a page to the pool. All its entries are zero, or it leaves the pool only to be wiped.
    pub(crate) fn put<M: Machine>(&mut self, machine: &M, table: TableRef) {
        let next = self.head.map_or(0, |next| next.base().0 | LINK);
        machine.write_entry(table, 0, next);
        self.head = Some(table.page());
        self.free = self.free.saturating_add(1);
    }

    /// Takes a page; all its entries are zero.
    pub(crate) fn take<M: Machine>(&mut self, machine: &M) -> Option<TableRef> {
        let table = TableRef::new(self.head?);
        let next = machine.read_entry(table, 0);
        self.head = (next & LINK != 0).then_some(Pfn(next >> PAGE_SHIFT));
        machine.write_entry(table, 0, 0);
        self.free = self.free.saturating_sub(1);
        Some(table)
    }
}

/// Returns the non-zero entries of a table, with their indices.
pub(crate) fn used<M: Machine>(machine: &M, table: TableRef) -> impl Iterator<Item = (usize, u64)> {
    let mut next = 0;
    core::iter::from_fn(move || {
        let index = next_used(machine, table, next);
        next = index.saturating_add(1);
        (index < M::Geometry::ENTRIES).then(|| (index, machine.read_entry(table, index)))
    })
}

/// Returns the index of the first non-zero entry from `index` on. Most entries are zero, so this loop
/// dominates a search.
fn next_used<M: Machine>(machine: &M, table: TableRef, mut index: usize) -> usize {
    while index < M::Geometry::ENTRIES && machine.read_entry(table, index) == 0 {
        index = index.wrapping_add(1);
    }
    index
}
