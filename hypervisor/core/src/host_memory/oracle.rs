//! The host's memory as the oracle reads it.

use shared_abi::addr::{PageRange, Pfn};

use super::HostMemory;
use crate::geometry::Geometry;
use crate::pool::Pool;
#[cfg(test)]
use crate::records::Records;

impl<'m, G: Geometry> HostMemory<'m, G> {
    /// The first page of the host's root tables.
    pub(crate) const fn root(&self) -> Pfn {
        self.tables.root()
    }

    /// Where tables come from.
    pub(crate) const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Device addresses that the host must not reach.
    pub(crate) fn denied(&self) -> &[PageRange<Pfn>] {
        &self.denied
    }

    /// The records, to be falsified.
    #[cfg(test)]
    pub(crate) const fn records_mut(&mut self) -> &mut Records<'m, G> {
        &mut self.records
    }
}
