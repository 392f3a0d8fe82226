//! Memory objects: the memory of a VM, addressed by page offset.
//!
//! An object records for each page offset whether a page is present, and which, or whether the offset is
//! poisoned. Like the owner map it has two levels, in tables from the VM's pool. A uniform *chunk*, which has
//! as many pages as a block, takes one word; a split chunk takes one word per page. The page state, not the
//! object, says which parties reach a page.

pub(crate) mod presence;

use heapless::Vec;
use shared_abi::addr::Pfn;

use crate::machine::geometry::{Geometry, Level, Piece, pieces, touched};
use crate::machine::{Machine, TableRef};
use crate::memory::pool::{Pool, used};
use presence::PresenceWord;

/// Maximum number of directory tables in an object; each covers 1 GiB on hardware.
const MAX_DIRECTORIES: usize = 16;

/// The content of an object at a page offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// No page.
    Absent,
    /// This physical page.
    Present(Pfn),
    /// No page: the host reclaimed it after the guest had started, so the guest must not continue past it.
    Poisoned,
}

/// A run of object pages with equal presence; if they are present, their physical pages are contiguous.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageRun {
    /// The word of the first page; the others follow from it.
    first: PresenceWord,
    /// Number of pages; at least 1.
    pub(crate) pages: u64,
}

impl PageRun {
    pub(crate) const fn new(presence: Presence, pages: u64) -> Self {
        Self { first: PresenceWord::new(presence), pages }
    }

    /// The presence of the first page. If it is present, the physical pages of the others follow it.
    pub(crate) const fn presence(self) -> Presence {
        self.first.presence_at(0)
    }
}

/// Returns the maximum number of tables that [`Object::set`] takes: for the chunks at both ends of the run.
pub(crate) fn tables_for<G: Geometry>(offset: u64, pages: u64) -> u64 {
    touched::<G>(Level::Two, offset, pages).min(2)
}

/// A memory object.
#[derive(Debug)]
#[cfg_attr(feature = "verify", derive(Clone))]
pub(crate) struct Object {
    pages: u64,
    /// Number of present pages.
    present: u64,
    pub(crate) directories: Vec<TableRef, MAX_DIRECTORIES>,
    /// Teardown has removed the pages below this offset.
    pub(crate) taken: u64,
}

impl Object {
    /// Returns the number of tables that an object of `pages` pages takes at its creation, or `None` if it is
    /// empty or too large.
    pub(crate) fn tables_needed<G: Geometry>(pages: u64) -> Option<u64> {
        let last = pages.checked_sub(1)?;
        let tables = (last >> G::INDEX_BITS >> G::INDEX_BITS).saturating_add(1);
        (tables <= u64::try_from(MAX_DIRECTORIES).ok()?).then_some(tables)
    }

    /// Makes an object of `pages` pages, all absent. The caller has checked that the pool has enough tables;
    /// otherwise this returns `None`.
    pub(crate) fn new<M: Machine>(machine: &M, pool: &mut Pool, pages: u64) -> Option<Self> {
        let mut directories = Vec::new();
        for _ in 0..Self::tables_needed::<M::Geometry>(pages)? {
            directories.push(pool.take(machine)?).ok()?;
        }
        Some(Self { pages, present: 0, directories, taken: 0 })
    }

    /// Number of present pages.
    pub(crate) const fn present(&self) -> u64 {
        self.present
    }

    /// Returns whether the object has all of the `pages` pages from `offset` on; `pages` must not be 0.
    pub(crate) fn has(&self, offset: u64, pages: u64) -> bool {
        let none = seeded!(pages == 0, EmptyRange => false);
        !none && offset.checked_add(pages).is_some_and(|end| end <= self.pages)
    }

    /// Returns the directory and the index of the word for the chunk that holds `offset`.
    fn chunk<M: Machine>(&self, offset: u64) -> Option<(TableRef, usize)> {
        let directory = M::Geometry::block(M::Geometry::block(offset));
        let table = *self.directories.get(usize::try_from(directory).ok()?)?;
        Some((table, M::Geometry::index(Level::Two, offset)))
    }

    /// Returns the presence at `offset`, which is in the object.
    pub(crate) fn get<M: Machine>(&self, machine: &M, offset: u64) -> Presence {
        let Some((directory, index)) = self.chunk::<M>(offset) else {
            return Presence::Absent;
        };
        let chunk = PresenceWord(machine.read_entry(directory, index));
        let Some((table, _)) = chunk.as_split() else {
            return chunk.presence_at(M::Geometry::block_offset(offset));
        };
        PresenceWord(machine.read_entry(table, M::Geometry::index(Level::Three, offset))).presence_at(0)
    }

    /// Returns the run from `offset` on, of at most `most` pages. `offset` is in the object and `most` is at
    /// least 1. The run ends at the end of its chunk, which bounds the work.
    pub(crate) fn run<M: Machine>(&self, machine: &M, offset: u64, most: u64) -> PageRun {
        let chunk = self
            .chunk::<M>(offset)
            .map_or(PresenceWord::ABSENT, |(table, index)| PresenceWord(machine.read_entry(table, index)));
        let in_chunk = M::Geometry::BLOCK_PAGES.wrapping_sub(M::Geometry::block_offset(offset));
        let most = most.min(in_chunk).min(self.pages.saturating_sub(offset)).max(1);
        let Some((table, _)) = chunk.as_split() else {
            return PageRun { first: chunk.advance(M::Geometry::block_offset(offset)), pages: most };
        };
        let mut index = M::Geometry::index(Level::Three, offset);
        let first = PresenceWord(machine.read_entry(table, index));
        let mut pages = 1;
        while pages < most {
            index = index.saturating_add(1);
            if PresenceWord(machine.read_entry(table, index)) != first.advance(pages) {
                break;
            }
            pages = pages.saturating_add(1);
        }
        PageRun { first, pages }
    }

    /// Returns whether all `pages` pages from `offset` on are absent. The range is in the object.
    pub(crate) fn is_empty<M: Machine>(&self, machine: &M, offset: u64, pages: u64) -> bool {
        pieces::<M::Geometry>(offset, pages).all(|piece| {
            let run = self.run(machine, piece.first, piece.pages);
            run.presence() == Presence::Absent && run.pages == piece.pages
        })
    }

    /// Returns the first physical page of the range that a leaf of `level` around `offset` covers, if all of
    /// the range is present and one run.
    pub(crate) fn whole<M: Machine>(&self, machine: &M, level: Level, offset: u64) -> Option<Pfn> {
        let (directory, index) = self.chunk::<M>(offset)?;
        let word = match level {
            Level::One => as_one_word(machine, directory, M::Geometry::BLOCK_PAGES)?,
            Level::Two | Level::Three => PresenceWord(machine.read_entry(directory, index)),
        };
        match word.presence_at(0) {
            Presence::Present(first) if word.as_split().is_none() => Some(first),
            _ => None,
        }
    }

    /// Changes `pages` pages from `offset` on from `from` to `to`. The range is in the object. `from` and
    /// `to` are the presence of the first page; the others follow from it.
    pub(crate) fn set<M: Machine>(
        &mut self,
        machine: &M,
        pool: &mut Pool,
        offset: u64,
        pages: u64,
        from: Presence,
        to: Presence,
    ) {
        let (from, to) = (PresenceWord::new(from), PresenceWord::new(to));
        for piece in pieces::<M::Geometry>(offset, pages) {
            let before = piece.first.wrapping_sub(offset);
            // The caller has checked that there are enough tables. Without one, the remaining pages stay
            // unchanged.
            if self.set_piece(machine, pool, piece, from, to.advance(before)).is_none() {
                return;
            }
            self.count(piece.pages, from, to);
        }
    }

    fn count(&mut self, pages: u64, from: PresenceWord, to: PresenceWord) {
        // No overflow: a page that was present was counted, and an object has fewer than 2^28 pages.
        if from.is_present() {
            self.present = self.present.wrapping_sub(pages);
        }
        if to.is_present() {
            self.present = self.present.wrapping_add(pages);
        }
    }

    fn set_piece<M: Machine>(
        &self,
        machine: &M,
        pool: &mut Pool,
        piece: Piece,
        from: PresenceWord,
        to: PresenceWord,
    ) -> Option<()> {
        let (directory, chunk_index) = self.chunk::<M>(piece.first)?;
        let chunk = PresenceWord(machine.read_entry(directory, chunk_index));
        let block = M::Geometry::BLOCK_PAGES;
        let write_chunk = |word: PresenceWord| machine.write_entry(directory, chunk_index, word.0);

        if piece.pages == block {
            write_chunk(to);
            if let Some((table, _)) = chunk.as_split() {
                pool.release(machine, table);
            }
            return Some(());
        }
        let (table, count) = match chunk.as_split() {
            Some(split) => split,
            None => split(machine, pool, chunk)?,
        };
        let start = M::Geometry::index(Level::Three, piece.first);
        let mut next = to;
        for (index, _) in (start..M::Geometry::ENTRIES).zip(0..piece.pages) {
            machine.write_entry(table, index, next.0);
            next = next.advance(1);
        }
        let count = count
            .saturating_sub(from.counts().wrapping_mul(piece.pages))
            .saturating_add(to.counts().wrapping_mul(piece.pages));
        let merged = match count {
            0 => Some(PresenceWord::ABSENT),
            full if full == block => as_one_word(machine, table, 1),
            _ => None,
        };
        match merged {
            Some(word) => {
                write_chunk(word);
                pool.release(machine, table);
            }
            None => write_chunk(PresenceWord::split(table, count)),
        }
        Some(())
    }

    /// Removes the next run of at most `most` pages during teardown. Returns its offset and the run, or
    /// `None` once no page is present. The words of the run stay in the tables; only [`Self::dismantle`]
    /// reads them again.
    pub(crate) fn take_next<M: Machine>(&mut self, machine: &M, most: u64) -> Option<(u64, PageRun)> {
        if self.present == 0 || self.taken >= self.pages {
            return None;
        }
        let offset = self.taken;
        let run = self.run(machine, offset, most);
        self.taken = offset.wrapping_add(run.pages);
        self.count(run.pages, run.first, PresenceWord::ABSENT);
        Some((offset, run))
    }

    /// Returns at most `most` tables of an object without present pages to the pool. Returns their number,
    /// which is below `most` once no table is left.
    pub(crate) fn dismantle<M: Machine>(&mut self, machine: &M, pool: &mut Pool, most: u64) -> u64 {
        let mut gone = 0_u64;
        while let Some(&directory) = self.directories.last() {
            for (index, chunk) in used(machine, directory) {
                if let Some((table, _)) = PresenceWord(chunk).as_split() {
                    if gone >= most {
                        return gone;
                    }
                    machine.write_entry(directory, index, PresenceWord::ABSENT.0);
                    pool.release(machine, table);
                    gone = gone.saturating_add(1);
                }
            }
            if gone >= most {
                return gone;
            }
            self.directories.pop();
            pool.release(machine, directory);
            gone = gone.saturating_add(1);
        }
        gone
    }
}

/// Writes the words of a uniform chunk to a new table. Returns the table and the number of pages that are not
/// absent.
fn split<M: Machine>(machine: &M, pool: &mut Pool, chunk: PresenceWord) -> Option<(TableRef, u64)> {
    let table = pool.take(machine)?;
    if chunk == PresenceWord::ABSENT {
        return Some((table, 0));
    }
    machine.fill(table, chunk.0, chunk.step());
    Some((table, M::Geometry::BLOCK_PAGES))
}

/// Returns the single word that stands for all entries of a table, if the entries, of `pages` pages each, all
/// follow from the first. Pages mostly arrive in ascending order, so the last entry is checked first.
fn as_one_word<M: Machine>(machine: &M, table: TableRef, pages: u64) -> Option<PresenceWord> {
    let first = PresenceWord(machine.read_entry(table, 0));
    (0..M::Geometry::ENTRIES)
        .rev()
        .all(|index| {
            let expected = first.advance(pages.wrapping_mul(index as u64));
            PresenceWord(machine.read_entry(table, index)) == expected
        })
        .then_some(first)
}
