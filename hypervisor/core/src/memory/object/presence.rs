//! The encoding of a word in an object's tables.

use shared_abi::addr::{PAGE_SHIFT, PAGE_SIZE, Pfn};

use super::Presence;
use crate::machine::TableRef;

/// A word in an object's tables.
///
/// | bits | meaning |
/// | --- | --- |
/// | 1:0 | 0 absent, 1 present, 2 poisoned, 3 split (of a chunk) |
/// | 11:2 | split chunks: pages that are not absent |
/// | 63:12 | the page, or the table of a split chunk |
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PresenceWord(pub(crate) u64);

const STATE_MASK: u64 = 0b11;
const PRESENT: u64 = 1;
const POISONED: u64 = 2;
const SPLIT: u64 = 3;
const COUNT_SHIFT: u32 = 2;
const COUNT_MASK: u64 = 0x3ff;

impl PresenceWord {
    pub(crate) const ABSENT: Self = Self(0);

    pub(crate) const fn new(presence: Presence) -> Self {
        match presence {
            Presence::Absent => Self::ABSENT,
            Presence::Present(page) => Self(page.base().0 | PRESENT),
            Presence::Poisoned => Self(POISONED),
        }
    }

    pub(crate) const fn split(table: TableRef, count: u64) -> Self {
        Self(table.address().0 | (count << COUNT_SHIFT) | SPLIT)
    }

    pub(crate) const fn page(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }

    /// Returns the table and the count of a split chunk.
    pub(crate) const fn as_split(self) -> Option<(TableRef, u64)> {
        if self.0 & STATE_MASK == SPLIT {
            let count = (self.0 >> COUNT_SHIFT) & COUNT_MASK;
            Some((TableRef::new(self.page()), count))
        } else {
            None
        }
    }

    /// Returns the presence of the page `pages` pages further on in a uniform run.
    pub(crate) const fn presence_at(self, pages: u64) -> Presence {
        match self.0 & STATE_MASK {
            PRESENT => Presence::Present(Pfn(self.page().0.wrapping_add(pages))),
            POISONED => Presence::Poisoned,
            _ => Presence::Absent,
        }
    }

    /// Returns what one page with this word adds to the count of a split chunk: 0 or 1.
    pub(crate) const fn counts(self) -> u64 {
        (self.0 & STATE_MASK != 0) as u64
    }

    pub(crate) const fn is_present(self) -> bool {
        self.0 & STATE_MASK == PRESENT
    }

    /// Returns the difference between the words of consecutive pages of a run.
    pub(crate) const fn step(self) -> u64 {
        if self.is_present() { PAGE_SIZE } else { 0 }
    }

    /// Returns the word of the page `pages` pages further on in a run.
    pub(crate) const fn advance(self, pages: u64) -> Self {
        Self(self.0.wrapping_add(pages.wrapping_mul(self.step())))
    }
}
