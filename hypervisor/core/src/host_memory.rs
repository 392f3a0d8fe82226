//! The host's party to every transition: the ownership records of all RAM, and the host's stage-2
//! tables, which follow from them. One lock guards both.

use heapless::Vec;
use shared_abi::addr::{PageRange, Pfn};

use crate::geometry::{Geometry, Level, Piece, pieces};
use crate::hypervisor::{HostAbort, HostAccess, MAX_DENIED, Needs, Setup, SetupError};
use crate::machine::{Frames, Machine, Space, Vmid};
use crate::pool::Pool;
use crate::record::{Record, Records, records_needed};
use crate::stage2::batch::Batch;
use crate::stage2::descriptor::Access;
use crate::stage2::table::{Mapping, Stage2};

/// The host's VMID.
const VMID: Vmid = Vmid(0);

/// Records and host tables.
#[derive(Debug)]
pub(crate) struct HostMemory<'m, G: Geometry> {
    records: Records<'m, G>,
    tables: Stage2,
    pool: Pool,
    denied: Vec<PageRange<Pfn>, MAX_DENIED>,
}

/// How much memory the host's records and tables take in the worst case: each block of RAM split, and
/// a table at each edge of what is denied.
pub(crate) fn needs<G: Geometry>(ram: &[PageRange<Pfn>], denied: &[PageRange<Pfn>]) -> Needs {
    let touched = |range: &PageRange<Pfn>, level: Level| {
        let first = G::align_down(level, range.first().0);
        let end = G::next(level, range.end().0.saturating_sub(1));
        end.saturating_sub(first)
            .checked_div(G::span(level))
            .unwrap_or(0)
    };
    let for_ram = ram.iter().fold(0_u64, |sum, range| {
        sum.saturating_add(touched(range, Level::One))
            .saturating_add(touched(range, Level::Two))
    });
    // An edge takes one table of level 2 and one of level 3, and a range has two.
    let for_denied = denied.iter().fold(0_u64, |sum, _| sum.saturating_add(4));
    Needs {
        records: records_needed::<G>(ram).unwrap_or(usize::MAX),
        tables: G::ROOT_TABLES
            .saturating_add(for_ram)
            .saturating_add(for_denied),
    }
}

impl<'m, G: Geometry> HostMemory<'m, G> {
    /// Gives all RAM to the host but what is reserved, and maps it.
    pub(crate) fn new<M: Machine<Geometry = G>>(
        machine: &M,
        setup: Setup<'m>,
    ) -> Result<Self, SetupError> {
        let needs = needs::<G>(setup.ram, setup.denied_devices);
        let mut records = Records::new(setup.ram, setup.records)?;
        if setup.tables.len() < needs.tables {
            return Err(SetupError::TooSmall);
        }
        let reserved_ram = setup.reserved.iter().all(|range| records.is_ram(*range));
        let tables_reserved = setup.reserved.iter().any(|range| {
            range.first() <= setup.tables.first() && setup.tables.end() <= range.end()
        });
        if !reserved_ram || !tables_reserved || setup.tables.first().0 & 1 != 0 {
            return Err(SetupError::Reserved);
        }
        for range in setup.ram {
            for piece in pieces::<G>(range.first().0, range.len()) {
                records.set(piece, Record::HOST);
            }
        }
        for range in setup.reserved {
            for piece in pieces::<G>(range.first().0, range.len()) {
                records.set(piece, Record::HYPERVISOR);
            }
        }

        machine.wipe(&Frames::new(setup.tables));
        let (root, rest) = split(setup.tables, G::ROOT_TABLES).ok_or(SetupError::TooSmall)?;
        let mut pool = Pool::default();
        pool.add(machine, Frames::new(rest));
        let mut memory = Self {
            records,
            tables: Stage2::new(&Frames::new(root), VMID),
            pool,
            denied: Vec::from_slice(setup.denied_devices).map_err(|_| SetupError::TooMany)?,
        };
        for range in setup.ram {
            memory.map_all(machine, *range);
        }
        Ok(memory)
    }

    /// Maps what of a range of RAM is the host's, in the largest leaves that fit.
    fn map_all<M: Machine<Geometry = G>>(&mut self, machine: &M, range: PageRange<Pfn>) {
        let mut batch = self.batch();
        let mut run = None;
        for piece in pieces::<G>(range.first().0, range.len()) {
            let whole = PageRange::<Pfn>::new(Pfn(piece.first), piece.pages);
            if whole.is_some_and(|pages| self.records.all(pages, Record::HOST)) {
                self.extend(machine, &mut run, piece, &mut batch);
                continue;
            }
            for first in piece.first..piece.first.saturating_add(piece.pages) {
                if self.records.get(Pfn(first)) == Some(Record::HOST) {
                    self.extend(machine, &mut run, Piece { first, pages: 1 }, &mut batch);
                }
            }
        }
        if let Some(run) = run {
            self.map_identity(machine, run, &mut batch);
        }
        batch.finish(machine);
    }

    /// Adds a piece to the run of pages that are to be mapped; a run that ends before it is mapped.
    fn extend<M: Machine>(
        &mut self,
        machine: &M,
        run: &mut Option<PageRange<Pfn>>,
        piece: Piece,
        batch: &mut Batch,
    ) {
        *run = match *run {
            Some(pages) if pages.end().0 == piece.first => {
                PageRange::<Pfn>::new(pages.first(), pages.len().saturating_add(piece.pages))
            }
            other => {
                if let Some(pages) = other {
                    self.map_identity(machine, pages, batch);
                }
                PageRange::<Pfn>::new(Pfn(piece.first), piece.pages)
            }
        };
    }

    fn map_identity<M: Machine>(&mut self, machine: &M, range: PageRange<Pfn>, batch: &mut Batch) {
        let mapping = Mapping {
            page: range.first().0,
            to: range.first(),
            pages: range.len(),
            access: Access::Memory,
        };
        self.tables.map(machine, &mut self.pool, mapping, batch);
    }

    /// What VTTBR_EL2 holds while the host runs.
    pub(crate) const fn space(&self) -> Space {
        self.tables.space()
    }

    /// The records.
    #[inline]
    pub(crate) const fn records(&self) -> &Records<'m, G> {
        &self.records
    }

    fn batch(&self) -> Batch {
        Batch::new(self.tables.space())
    }

    /// Commits a change of records for a range of RAM: from `from` to `to`, which are the records of
    /// its first page, the others' following from them. The host's tables follow, and no TLB
    /// remembers what it lost when this returns.
    ///
    /// The caller has checked, under this lock, that the range is as `from` says.
    #[inline]
    pub(crate) fn assign<M: Machine<Geometry = G>>(
        &mut self,
        machine: &M,
        range: PageRange<Pfn>,
        from: Record,
        to: Record,
    ) {
        let mut batch = self.batch();
        let first = range.first().0;
        if from.host_reaches() && !to.host_reaches() {
            self.tables
                .unmap(machine, &mut self.pool, first, range.len(), &mut batch);
        }
        let gained = to.host_reaches() && !from.host_reaches();
        for piece in pieces::<G>(first, range.len()) {
            let at = to.advance(piece.first.wrapping_sub(first));
            let uniform = self.records.set(piece, at);
            if gained && let Some(pages) = PageRange::<Pfn>::new(Pfn(piece.first), piece.pages) {
                self.map_identity(machine, pages, &mut batch);
            }
            if uniform.is_some_and(Record::host_reaches) {
                self.tables
                    .merge(machine, &mut self.pool, piece.first, &mut batch);
            }
        }
        batch.finish(machine);
    }

    /// Decides about a stage-2 fault of the host's; device pages are mapped here.
    pub(crate) fn abort<M: Machine<Geometry = G>>(
        &mut self,
        machine: &M,
        page: u64,
        access: HostAccess,
    ) -> HostAbort {
        if let Some(record) = self.records.get(Pfn(page)) {
            return if record.host_reaches() {
                HostAbort::Retry
            } else {
                HostAbort::Inject
            };
        }
        let Some(leaf) = self.device_leaf(page) else {
            return HostAbort::Inject;
        };
        // Devices are never executable: what was fetched from there has no business being so.
        if access == HostAccess::Execute {
            return HostAbort::Inject;
        }
        if self.tables.level_of(machine, page).is_none() {
            let mut batch = self.batch();
            let mapping = Mapping {
                page: leaf.first().0,
                to: leaf.first(),
                pages: leaf.len(),
                access: Access::Device,
            };
            self.tables
                .map(machine, &mut self.pool, mapping, &mut batch);
            batch.finish(machine);
        }
        HostAbort::Retry
    }

    /// The largest leaf around `page` that holds nothing but devices of the host's.
    fn device_leaf(&self, page: u64) -> Option<PageRange<Pfn>> {
        if page >= G::IPA_PAGES {
            return None;
        }
        [Level::One, Level::Two, Level::Three]
            .into_iter()
            .filter_map(|level| {
                PageRange::<Pfn>::new(Pfn(G::align_down(level, page)), G::span(level))
            })
            .find(|leaf| {
                self.records.is_apart_from_ram(*leaf)
                    && !self.denied.iter().any(|denied| denied.overlaps(*leaf))
            })
    }
}

/// Cuts a range in two, the first of `pages` pages.
pub(crate) fn split(range: PageRange<Pfn>, pages: u64) -> Option<(PageRange<Pfn>, PageRange<Pfn>)> {
    let rest = range.len().checked_sub(pages)?;
    Some((
        PageRange::<Pfn>::new(range.first(), pages)?,
        PageRange::<Pfn>::new(range.first().checked_add(pages)?, rest)?,
    ))
}
