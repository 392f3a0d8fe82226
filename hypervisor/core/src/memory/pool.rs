//! Free pages for tables, linked through the pages themselves.
//!
//! A free page is zero but for its first entry, which names the next one: the pool costs no memory of
//! its own, and taking a page or giving it back is two accesses. The host's tables have one pool, made
//! at boot and large enough for the worst case; each VM has its own, from pages donated for it.

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

/// The bit that tells a link from the end of the list.
const LINK: u64 = 1;

impl Pool {
    /// How many more pages it would take to have `needed`; `None` if there are enough.
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

    /// Takes pages out that lie in a row, at most `most` of them but at least one; they are as
    /// [`Self::put`] found them but for their first entries.
    pub(crate) fn take_run<M: Machine>(&mut self, machine: &M, most: u64) -> Option<PageRange<Pfn>> {
        let mut first = self.take(machine)?.page();
        let mut pages = 1_u64;
        // What was added in ascending order comes out in descending order.
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

    /// Zeroes a table and gives it back.
    pub(crate) fn release<M: Machine>(&mut self, machine: &M, table: TableRef) {
        machine.fill(table, 0, 0);
        self.put(machine, table);
    }

    /// Gives a page back that is zero, or that nobody takes out again but to wipe it.
    pub(crate) fn put<M: Machine>(&mut self, machine: &M, table: TableRef) {
        let next = self.head.map_or(0, |next| next.base().0 | LINK);
        machine.write_entry(table, 0, next);
        self.head = Some(table.page());
        self.free = self.free.saturating_add(1);
    }

    /// Takes a page out; all its entries are zero.
    pub(crate) fn take<M: Machine>(&mut self, machine: &M) -> Option<TableRef> {
        let table = TableRef::new(self.head?);
        let next = machine.read_entry(table, 0);
        self.head = (next & LINK != 0).then_some(Pfn(next >> PAGE_SHIFT));
        machine.write_entry(table, 0, 0);
        self.free = self.free.saturating_sub(1);
        Some(table)
    }
}

/// The entries of a table that are not zero, and where they are.
pub(crate) fn used<M: Machine>(machine: &M, table: TableRef) -> impl Iterator<Item = (usize, u64)> {
    let mut next = 0;
    core::iter::from_fn(move || {
        let index = next_used(machine, table, next);
        next = index.saturating_add(1);
        (index < M::Geometry::ENTRIES).then(|| (index, machine.read_entry(table, index)))
    })
}

/// Where the first entry from `index` on is that is not zero. Most are: this is what a search takes.
fn next_used<M: Machine>(machine: &M, table: TableRef, mut index: usize) -> usize {
    while index < M::Geometry::ENTRIES && machine.read_entry(table, index) == 0 {
        index = index.wrapping_add(1);
    }
    index
}
