//! The host's side of every transition: the page states of all RAM and the host's stage-2 tables, which
//! follow from them. One lock protects both.

use heapless::Vec;
use shared_abi::addr::{PageRange, Pfn};

use crate::limits::MAX_DENIED;
use crate::machine::geometry::{Geometry, Level, Piece};
use crate::machine::{Frames, Machine, Stage2Id, Vmid};
use crate::memory::pool::Pool;
use crate::memory::stage2::descriptor::MemoryType;
use crate::memory::stage2::table::{Mapping, Stage2, tables_for};
use crate::memory::tlb::TlbGather;
use crate::ownership::owner_map::{OwnerMap, whole_block, words_needed};
use crate::ownership::page_state::PageState;
use crate::ownership::setup::{Needs, Setup, SetupError};

/// The kind of a host access that faulted at stage 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostAccess {
    /// A load, a cache maintenance operation, or a stage-1 walk.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// The outcome of a host stage-2 fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostAbort {
    /// The host may reach the address now: it runs the instruction again.
    Retry,
    /// The host may not reach the address: it gets an external abort.
    Inject,
}

/// The VMID of the host.
const VMID: Vmid = Vmid(0);

/// The owner map and the host's stage-2 tables.
#[derive(Debug)]
pub(crate) struct HostMemory<'m, G: Geometry> {
    pub(crate) owners: OwnerMap<'m, G>,
    pub(crate) tables: Stage2,
    pub(crate) pool: Pool,
    pub(crate) denied: Vec<PageRange<Pfn>, MAX_DENIED>,
}

/// Returns the memory for the host's page states and tables in the worst case: every block of RAM split, and
/// new tables at both edges of each denied range.
pub(crate) fn needs<G: Geometry>(ram: &[PageRange<Pfn>], denied: &[PageRange<Pfn>]) -> Needs {
    let for_ram = ram
        .iter()
        .fold(0_u64, |sum, range| sum.saturating_add(tables_for::<G>(range.first().0, range.len())));
    // An edge needs one level-2 and one level-3 table; a range has two edges.
    let for_denied = denied.iter().fold(0_u64, |sum, _| sum.saturating_add(4));
    Needs {
        owner_words: words_needed::<G>(ram).unwrap_or(usize::MAX),
        tables: G::ROOT_TABLES.saturating_add(for_ram).saturating_add(for_denied),
    }
}

impl<'m, G: Geometry> HostMemory<'m, G> {
    /// Makes the host the owner of all RAM except the reserved ranges, and maps it.
    pub(crate) fn new<M: Machine<Geometry = G>>(machine: &M, setup: Setup<'m>) -> Result<Self, SetupError> {
        let needs = needs::<G>(setup.ram, setup.denied_devices);
        let mut owners = OwnerMap::new(setup.ram, setup.owner_words)?;
        if setup.tables.len() < needs.tables {
            return Err(SetupError::TooSmall);
        }
        let reserved_ram = setup.reserved.iter().all(|range| owners.is_ram(*range));
        let tables_reserved = setup
            .reserved
            .iter()
            .any(|range| range.first() <= setup.tables.first() && setup.tables.end() <= range.end());
        let unreserved = seeded!(!tables_reserved, TablesUnreserved => false);
        if !reserved_ram || unreserved || setup.tables.first().0 & 1 != 0 {
            return Err(SetupError::Reserved);
        }
        for range in setup.ram {
            convert_all(&mut owners, *range, PageState::HYPERVISOR, PageState::HOST);
        }
        for range in setup.reserved {
            convert_all(&mut owners, *range, PageState::HOST, PageState::HYPERVISOR);
        }

        machine.wipe(&Frames::new(setup.tables));
        let (root, rest) = split(setup.tables, G::ROOT_TABLES).ok_or(SetupError::TooSmall)?;
        let mut pool = Pool::default();
        pool.add(machine, Frames::new(rest));
        let mut memory = Self {
            owners,
            tables: Stage2::new(&Frames::new(root), VMID),
            pool,
            denied: Vec::from_slice(setup.denied_devices).map_err(|_| SetupError::TooMany)?,
        };
        for range in setup.ram {
            memory.map_all(machine, *range);
        }
        Ok(memory)
    }

    /// Maps the host-owned pages of a RAM range, in the largest leaves that fit.
    fn map_all<M: Machine<Geometry = G>>(&mut self, machine: &M, range: PageRange<Pfn>) {
        let mut gather = self.gather();
        let (mut page, end) = (range.first().0, range.end().0);
        while page < end {
            let pages = PageRange::<Pfn>::new(Pfn(page), end.saturating_sub(page))
                .map_or(0, |rest| self.owners.matching(rest, PageState::HOST));
            self.map_identity(machine, Piece { first: page, pages }, &mut gather);
            page = page.saturating_add(pages.max(1));
        }
        gather.finish(machine);
    }

    fn map_identity<M: Machine>(&mut self, machine: &M, piece: Piece, gather: &mut TlbGather) {
        self.tables.map(machine, &mut self.pool, identity(Pfn(piece.first), piece.pages), gather);
    }

    /// The value of VTTBR_EL2 while the host runs.
    pub(crate) const fn stage2_id(&self) -> Stage2Id {
        self.tables.stage2_id()
    }

    /// The owner map.
    pub(crate) const fn owners(&self) -> &OwnerMap<'m, G> {
        &self.owners
    }

    /// Starts a TLB gather for these tables. The caller finishes it before it releases the lock.
    pub(crate) const fn gather(&self) -> TlbGather {
        TlbGather::new(self.tables.stage2_id())
    }

    /// [`Self::convert`] for one range, including the TLB maintenance.
    pub(crate) fn assign<M: Machine<Geometry = G>>(
        &mut self,
        machine: &M,
        range: PageRange<Pfn>,
        from: PageState,
        to: PageState,
    ) {
        let mut gather = self.gather();
        self.convert(machine, (range.first(), range.len()), from, to, &mut gather);
        gather.finish(machine);
    }

    /// Changes the state of RAM pages from `from` to `to` and updates the host's tables. Starts at `first`
    /// and covers at most `pages` pages; stops at the first page that is not in state `from`. `from` and `to`
    /// are the states of the first page; those of the other pages follow from it. Returns the number of
    /// changed pages.
    #[inline(always)] // mem_share: this is the transition, between two locks
    pub(crate) fn convert<M: Machine<Geometry = G>>(
        &mut self,
        machine: &M,
        (first, pages): (Pfn, u64),
        from: PageState,
        to: PageState,
        gather: &mut TlbGather,
    ) -> u64 {
        let mut done = 0_u64;
        while done != pages
            && let page = Pfn(first.0.wrapping_add(done))
            && let Some(converted) =
                self.owners.convert(page, pages.wrapping_sub(done), from.advance(done), to.advance(done))
        {
            done = done.wrapping_add(converted.pages);
            seeded!(HostKeepsMapping => if !to.host_reaches() { continue });
            match (from.host_reaches(), to.host_reaches()) {
                (_, true) if converted.uniform => self.map_whole(machine, page.0, to, gather),
                (false, true) => {
                    self.tables.map(machine, &mut self.pool, identity(page, converted.pages), gather);
                }
                (true, false) => self.tables.unmap(machine, &mut self.pool, page.0, converted.pages, gather),
                (true, true) | (false, false) => {}
            }
        }
        done
    }

    /// Maps the block around `page` as one leaf, because the host reaches all of it. Does the same for the
    /// level-1 block if the host owns all of it.
    fn map_whole<M: Machine<Geometry = G>>(
        &mut self,
        machine: &M,
        page: u64,
        state: PageState,
        gather: &mut TlbGather,
    ) {
        self.map_identity(machine, whole_block::<G>(page), gather);
        self.merge_level1_block(machine, page, state, gather);
    }

    /// Maps a level-1 block as one leaf if the host owns all of it. Shared pages are not merged that far,
    /// because the guest is expected to unshare them.
    fn merge_level1_block<M: Machine<Geometry = G>>(
        &mut self,
        machine: &M,
        page: u64,
        state: PageState,
        gather: &mut TlbGather,
    ) {
        let level1_block = Piece { first: G::align_down(Level::One, page), pages: G::LEVEL1_BLOCK_PAGES };
        let all = PageRange::<Pfn>::new(Pfn(level1_block.first), level1_block.pages);
        if state == PageState::HOST && all.is_some_and(|all| self.owners.all(all, state)) {
            self.map_identity(machine, level1_block, gather);
        }
    }

    /// Decides about a host stage-2 fault. Maps device pages.
    pub(crate) fn abort<M: Machine<Geometry = G>>(
        &mut self,
        machine: &M,
        page: u64,
        access: HostAccess,
    ) -> HostAbort {
        if let Some(state) = self.owners.get(Pfn(page)) {
            seeded!(RetriedForEver => return HostAbort::Retry);
            return if state.host_reaches() { HostAbort::Retry } else { HostAbort::Inject };
        }
        let Some(leaf) = self.device_leaf(page) else {
            return HostAbort::Inject;
        };
        // Device memory is never executable.
        if access == HostAccess::Execute {
            return HostAbort::Inject;
        }
        if !self.tables.is_mapped(machine, page) {
            let mut gather = self.gather();
            let mapping = Mapping {
                page: leaf.first().0,
                to: leaf.first(),
                pages: leaf.len(),
                memory_type: MemoryType::Device,
            };
            self.tables.map(machine, &mut self.pool, mapping, &mut gather);
            gather.finish(machine);
        }
        HostAbort::Retry
    }

    /// Returns the largest leaf around `page` that covers only device addresses of the host.
    fn device_leaf(&self, page: u64) -> Option<PageRange<Pfn>> {
        if page >= G::IPA_PAGES {
            return None;
        }
        let denied = seeded!(self.denied.as_slice(), DeniedDevice => &[]);
        [Level::One, Level::Two, Level::Three]
            .into_iter()
            .filter_map(|level| PageRange::<Pfn>::new(Pfn(G::align_down(level, page)), G::span(level)))
            .find(|leaf| {
                self.owners.is_apart_from_ram(*leaf) && !denied.iter().any(|denied| denied.overlaps(*leaf))
            })
    }
}

/// Returns the identity mapping of host memory: IPA equals PA.
const fn identity(first: Pfn, pages: u64) -> Mapping {
    Mapping { page: first.0, to: first, pages, memory_type: MemoryType::Normal }
}

/// Changes the state of pages from `from` to `to`, from the start of `range` to the first page that is not in
/// state `from`.
fn convert_all<G: Geometry>(
    owners: &mut OwnerMap<'_, G>,
    range: PageRange<Pfn>,
    from: PageState,
    to: PageState,
) {
    let mut done = 0_u64;
    while done != range.len()
        && let first = Pfn(range.first().0.wrapping_add(done))
        && let Some(converted) =
            owners.convert(first, range.len().wrapping_sub(done), from.advance(done), to.advance(done))
    {
        done = done.wrapping_add(converted.pages);
    }
}

/// Returns the part of a range after its first `pages` pages, or `None` if it is empty.
pub(crate) fn after(range: PageRange<Pfn>, pages: u64) -> Option<PageRange<Pfn>> {
    let rest = range.len().checked_sub(pages)?;
    PageRange::<Pfn>::new(Pfn(range.first().0.wrapping_add(pages)), rest)
}

/// Splits a range after its first `pages` pages.
pub(crate) fn split(range: PageRange<Pfn>, pages: u64) -> Option<(PageRange<Pfn>, PageRange<Pfn>)> {
    Some((PageRange::<Pfn>::new(range.first(), pages)?, after(range, pages)?))
}
