//! TLB duties of a run of table changes, paid once at its end.

use crate::geometry::Level;
use crate::machine::{Machine, Removed, Space};

/// Translations that were taken away and not yet removed from the TLBs. Beyond a few it costs less to
/// drop the whole space.
const MOST: usize = 8;

/// What table changes still owe. Pages whose translation was taken away must not change hands before
/// [`Batch::finish`].
#[derive(Debug)]
#[must_use = "a translation that was taken away may still be in a TLB"]
pub(crate) struct Batch {
    space: Space,
    /// The first `count` of these; if there are more than it has room for, whatever there was.
    removed: [Removed; MOST],
    count: usize,
    added: bool,
}

impl Batch {
    pub(crate) const fn new(space: Space) -> Self {
        Self {
            space,
            removed: [Removed {
                page: 0,
                level: Level::Three,
            }; MOST],
            count: 0,
            added: false,
        }
    }

    /// A valid entry of `level` that translated from `page` on was made invalid.
    #[inline]
    pub(crate) fn removed(&mut self, page: u64, level: Level) {
        if let Some(free) = self.removed.get_mut(self.count) {
            *free = Removed { page, level };
        }
        self.count = self.count.saturating_add(1);
    }

    /// An invalid entry was made valid.
    #[inline]
    pub(crate) const fn added(&mut self) {
        self.added = true;
    }

    /// Pays: after this nobody translates by what was removed, and everybody by what was added.
    pub(crate) fn finish<M: Machine>(&self, machine: &M) {
        if self.count > MOST && !seeded!(RangeCutShort) {
            machine.invalidate_all(self.space);
        } else if self.count != 0 {
            let removed = self.removed.get(..self.count).unwrap_or(&self.removed);
            machine.invalidate(self.space, removed);
        } else if self.added && !seeded!(Unpublished) {
            machine.publish();
        }
    }
}
