//! The TLB gather: collects removed translations, and does the TLB maintenance once at the end.

use heapless::Vec;

use crate::machine::geometry::Level;
use crate::machine::{Machine, Removed, Stage2Id};

/// Maximum number of leaves that are invalidated one by one. Beyond that, invalidating the whole address
/// space is cheaper.
const MOST: usize = 8;

/// The TLB maintenance that table changes still require. A page whose translation was removed must not change
/// its owner before [`TlbGather::finish`].
#[derive(Debug)]
#[must_use = "a translation that was taken away may still be in a TLB"]
pub(crate) struct TlbGather {
    stage2_id: Stage2Id,
    removed: Vec<Removed, MOST>,
    /// More leaves were removed than `removed` has room for.
    many: bool,
    added: bool,
}

impl TlbGather {
    pub(crate) const fn new(stage2_id: Stage2Id) -> Self {
        Self { stage2_id, removed: Vec::new(), many: false, added: false }
    }

    /// Records that a valid entry of `level` for the pages from `page` on became invalid.
    pub(crate) fn removed(&mut self, page: u64, level: Level) {
        self.many |= self.removed.push(Removed { page, level }).is_err();
    }

    /// Records that an invalid entry became valid.
    pub(crate) const fn added(&mut self) {
        self.added = true;
    }

    /// Does the TLB maintenance. Afterwards no CPU uses a removed translation, and all walkers see the added
    /// ones.
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
