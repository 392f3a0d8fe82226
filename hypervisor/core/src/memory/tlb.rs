//! TLB duties of a run of table changes, paid once at its end.

use heapless::Vec;

use crate::machine::geometry::Level;
use crate::machine::{Machine, Removed, Stage2Id};

/// Translations that were taken away and not yet removed from the TLBs. Beyond a few it costs less to
/// drop the whole space.
const MOST: usize = 8;

/// What table changes still owe. Pages whose translation was taken away must not change hands before
/// [`TlbGather::finish`].
#[derive(Debug)]
#[must_use = "a translation that was taken away may still be in a TLB"]
pub(crate) struct TlbGather {
    stage2_id: Stage2Id,
    removed: Vec<Removed, MOST>,
    /// There are more than `removed` has room for.
    many: bool,
    added: bool,
}

impl TlbGather {
    pub(crate) const fn new(stage2_id: Stage2Id) -> Self {
        Self { stage2_id, removed: Vec::new(), many: false, added: false }
    }

    /// A valid entry of `level` that translated from `page` on was made invalid.
    pub(crate) fn removed(&mut self, page: u64, level: Level) {
        self.many |= self.removed.push(Removed { page, level }).is_err();
    }

    /// An invalid entry was made valid.
    pub(crate) const fn added(&mut self) {
        self.added = true;
    }

    /// Pays: after this nobody translates by what was removed, and everybody by what was added.
    pub(crate) fn finish<M: Machine>(&self, machine: &M) {
        if self.many {
            machine.invalidate_all(self.stage2_id);
        } else if !self.removed.is_empty() {
            machine.invalidate(self.stage2_id, &self.removed);
        } else if self.added {
            machine.publish();
        }
    }
}
