//! What the core needs of the machine, and the tokens that say what it may be asked to touch.
//!
//! The core decides, a [`Machine`] does. Its methods are safe because their arguments are proofs: a
//! [`TableRef`], [`Frames`] or [`ContextPage`] is made by the core alone, and only for memory that the
//! ownership records say no host and no guest reaches. An implementation may rely on that, and must
//! itself hold that the memory is RAM which it has mapped.

pub mod event;
pub mod geometry;
pub mod lock;
pub mod maintenance;
pub mod report;
#[cfg(feature = "verify")]
mod wait;

use shared_abi::addr::{Pa, PageRange, Pfn};

use crate::cpu::registers::VcpuContext;
use crate::machine::event::Event;
use crate::machine::geometry::{Geometry, Level};
use crate::machine::report::Milestone;
use crate::machine::report::VmReport;

/// A page that holds a table of 8-byte entries: a translation table or metadata of a VM's. Only the
/// core makes these, for pages in its custody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableRef(Pfn);

impl TableRef {
    pub(crate) const fn new(page: Pfn) -> Self {
        Self(page)
    }

    /// The page.
    pub const fn page(self) -> Pfn {
        self.0
    }

    /// Its address, as a table descriptor or VTTBR_EL2 holds it.
    pub const fn address(self) -> Pa {
        self.0.base()
    }
}

/// Physically contiguous pages in the core's custody: nobody else reaches them while this exists.
///
/// It can't be copied: who holds it decides what becomes of the pages. The exceptions are pages that an
/// ordinary VM was lent, and those that a guest shares when they are taken from it: the host reaches them, so no
/// more than [`Machine::wipe`] and [`Machine::clean`] is ever asked for them.
#[derive(Debug, PartialEq, Eq)]
pub struct Frames(PageRange<Pfn>);

impl Frames {
    pub(crate) const fn new(range: PageRange<Pfn>) -> Self {
        Self(range)
    }

    /// The pages.
    pub const fn range(&self) -> PageRange<Pfn> {
        self.0
    }

    /// The first of the pages alone, for a bug that leaves the others.
    #[cfg(feature = "seeded-bugs")]
    pub fn first_page(&self) -> Self {
        Self(PageRange::<Pfn>::new(self.0.first(), 1).unwrap_or(self.0))
    }
}

/// The right to one vCPU's registers, used by one CPU at a time: the core lends it to the machine only while the
/// vCPU's ownership (`vm/vcpu_ownership.rs`) says that it runs on this CPU, which a `VcpuCache` holds for those it has parked.
#[derive(Debug, PartialEq, Eq)]
pub struct ContextPage(Pfn);

impl ContextPage {
    pub(crate) const fn new(context: Pfn) -> Self {
        Self(context)
    }

    /// The page that the registers live in, from its first byte on.
    pub const fn page(&self) -> Pfn {
        self.0
    }
}

/// A virtual machine identifier, as VTTBR_EL2.VMID takes it. The host's is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vmid(pub u8);

/// A stage-2 address space: what VTTBR_EL2 holds while its owner runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stage2Id {
    /// The address of the first of the concatenated root tables.
    pub root: Pa,
    /// Tags its TLB entries.
    pub vmid: Vmid,
}

/// One leaf that was taken away: TLB maintenance for its first page reaches all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Removed {
    /// First page of the IPA range.
    pub page: u64,
    /// The level of the entry that mapped it.
    pub level: Level,
}

/// The machine below the core.
///
/// Orders that an implementation must hold: a read or write of an entry is a single 64-bit access; a
/// written entry is visible to every table walker after the next call of [`Machine::publish`] or
/// [`Machine::invalidate`]; writes are not moved up before an earlier [`Machine::invalidate`],
/// [`Machine::wipe`] or [`Machine::clean`].
pub trait Machine: Sync {
    /// The shape of its translation tables.
    type Geometry: Geometry;

    /// Reads entry `index` of a table; `index` is below [`Geometry::ENTRIES`].
    fn read_entry(&self, table: TableRef, index: usize) -> u64;

    /// Writes entry `index` of a table; `index` is below [`Geometry::ENTRIES`].
    fn write_entry(&self, table: TableRef, index: usize, value: u64);

    /// Writes all entries of a table that no walker reaches: `first`, and each one `step` more than the
    /// one before it.
    fn fill(&self, table: TableRef, first: u64, step: u64);

    /// Zeroes pages and cleans them to the point of coherency, so that an owner who reads around the
    /// caches finds zeroes too.
    fn wipe(&self, pages: &Frames);

    /// Makes pages ready for a guest that may map them as it likes: cleans and invalidates them to the
    /// point of coherency, and invalidates the instruction caches of all CPUs for them.
    fn clean(&self, pages: &Frames);

    /// Shows the content of one page of `pages`, counted from 0. Nobody else writes it meanwhile.
    fn with_page<R>(&self, pages: &Frames, index: u64, f: impl FnOnce(&[u8; 4096]) -> R) -> R;

    /// Puts the first register state into the page of a vCPU that nobody has loaded yet.
    fn put_context(&self, context_page: &mut ContextPage, context: VcpuContext);

    /// Lends the registers of a vCPU, which [`Machine::put_context`] put there.
    fn with_context<R>(&self, context_page: &mut ContextPage, f: impl FnOnce(&mut VcpuContext) -> R) -> R;

    /// Makes entries that were written over invalid ones visible to all table walkers: DSB ISHST, and
    /// ISB.
    fn publish(&self);

    /// Removes from all TLBs what `removed` names in `stage2_id`, after making the entries' writes
    /// visible: DSB ISHST; with the VMID of `stage2_id` in VTTBR_EL2, TLBI IPAS2E1IS for each; DSB ISH;
    /// TLBI VMALLE1IS (entries that combine both stages); DSB ISH; ISB. The order is
    /// [`Maintenance`](crate::machine::maintenance::Maintenance)'s.
    fn invalidate(&self, stage2_id: Stage2Id, removed: &[Removed]);

    /// Removes everything of `stage2_id` from all TLBs, after making the entries' writes visible: DSB
    /// ISHST; with its VMID in VTTBR_EL2, TLBI VMALLS12E1IS; DSB ISH; ISB.
    fn invalidate_all(&self, stage2_id: Stage2Id);

    /// Another vCPU of this VM ran last on this CPU: with the VMID of `stage2_id` in VTTBR_EL2, TLBI
    /// VMALLE1 and IC IALLU on this CPU alone, then DSB NSH and ISB. The two vCPUs may use one ASID for
    /// different address spaces.
    fn forget_previous_vcpu(&self, stage2_id: Stage2Id);

    /// A VM has started, or is gone: `report` was made under its lock, which is not held any more. A
    /// machine that tells nobody ignores it.
    fn report(&self, milestone: Milestone, report: &VmReport) {
        let _ = (milestone, report);
    }

    /// Notes what happened in the core, which is put together only for a machine that wants to know.
    fn event(&self, event: impl FnOnce() -> Event) {
        let _ = event;
    }
}
