//! A copy of the host's side, for the search to go back to.

use std::vec::Vec;

use super::HostMemory;
use crate::geometry::Geometry;
use crate::pool::Pool;

/// What changes of [`HostMemory`].
#[derive(Clone, Debug)]
pub(crate) struct SavedHost {
    words: Vec<u64>,
    pool: Pool,
}

impl<G: Geometry> HostMemory<'_, G> {
    /// Copies it.
    pub(crate) fn save(&self) -> SavedHost {
        SavedHost { words: self.records.save(), pool: self.pool.clone() }
    }

    /// Goes back.
    pub(crate) fn restore(&mut self, saved: &SavedHost) {
        self.records.restore(&saved.words);
        self.pool = saved.pool.clone();
    }
}
