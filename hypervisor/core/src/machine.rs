//! The interface between the core and the hardware, and the tokens that limit what the core can ask of it.
//!
//! The core decides and a [`Machine`] executes. The methods of [`Machine`] are safe because their arguments
//! are proofs: only the core makes a [`TableRef`], [`Frames`] or [`ContextPage`], and only for memory that
//! neither the host nor a guest reaches according to the page states ([`Frames`] lists the exceptions). An
//! implementation may rely on that. It must itself ensure that the memory is RAM and mapped at EL2.

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

/// A page that holds a table of 8-byte entries: a translation table or a VM's metadata. Only the core makes
/// these, and only for pages that neither the host nor a guest reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableRef(Pfn);

impl TableRef {
    pub(crate) const fn new(page: Pfn) -> Self {
        Self(page)
    }

    /// The page that holds the table.
    pub const fn page(self) -> Pfn {
        self.0
    }

    /// The physical address of the table, in the form that a table descriptor or VTTBR_EL2 holds.
    pub const fn address(self) -> Pa {
        self.0.base()
    }
}

/// Physically contiguous pages that neither the host nor a guest reaches while this value exists.
///
/// The type is not `Copy` or `Clone`, so the holder alone decides the next use of the pages. There are two
/// exceptions: pages that are lent to an ordinary VM, and pages that a guest still shares when they are
/// reclaimed. The host reaches both, so the core passes them only to [`Machine::wipe`] and
/// [`Machine::clean`].
#[derive(Debug, PartialEq, Eq)]
pub struct Frames(PageRange<Pfn>);

impl Frames {
    pub(crate) const fn new(range: PageRange<Pfn>) -> Self {
        Self(range)
    }

    /// The range of physical pages.
    pub const fn range(&self) -> PageRange<Pfn> {
        self.0
    }

    /// Returns the first page only, for a bug that omits the others.
    #[cfg(feature = "seeded-bugs")]
    pub fn first_page(&self) -> Self {
        Self(PageRange::<Pfn>::new(self.0.first(), 1).unwrap_or(self.0))
    }
}

/// Exclusive access to one vCPU's registers. The core lends it to the machine only while the vCPU's ownership
/// (`vm/vcpu_ownership.rs`) says that the vCPU runs on this CPU. The per-CPU `VcpuCache` keeps it for a vCPU
/// that this CPU has parked.
#[derive(Debug, PartialEq, Eq)]
pub struct ContextPage(Pfn);

impl ContextPage {
    pub(crate) const fn new(context: Pfn) -> Self {
        Self(context)
    }

    /// The page that holds the registers, at offset 0.
    pub const fn page(&self) -> Pfn {
        self.0
    }
}

/// A virtual machine identifier, as in VTTBR_EL2.VMID. The host has VMID 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vmid(pub u8);

/// The identity of a stage-2 address space: the value of VTTBR_EL2 while its owner runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stage2Id {
    /// The physical address of the first of the concatenated root tables.
    pub root: Pa,
    /// The VMID that tags its TLB entries.
    pub vmid: Vmid,
}

/// A leaf descriptor that was removed. TLB maintenance for its first page covers the whole leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Removed {
    /// The first page of the IPA range.
    pub page: u64,
    /// The level of the table entry that held the leaf.
    pub level: Level,
}

/// The hardware below the core.
///
/// An implementation must keep these orders:
///
/// - A read or write of an entry is a single 64-bit access.
/// - A written entry is visible to every table walker after the next call of [`Machine::publish`] or
///   [`Machine::invalidate`].
/// - No write moves ahead of an earlier [`Machine::invalidate`], [`Machine::wipe`] or [`Machine::clean`].
pub trait Machine: Sync {
    /// The geometry of the translation tables.
    type Geometry: Geometry;

    /// Reads entry `index` of a table; `index` is below [`Geometry::ENTRIES`].
    fn read_entry(&self, table: TableRef, index: usize) -> u64;

    /// Writes entry `index` of a table; `index` is below [`Geometry::ENTRIES`].
    fn write_entry(&self, table: TableRef, index: usize, value: u64);

    /// Writes all entries of a table that no walker reaches. Entry 0 becomes `first`; each further entry is
    /// `step` more than the previous one.
    fn fill(&self, table: TableRef, first: u64, step: u64);

    /// Zeroes pages and cleans them to the point of coherency, so that an owner with a non-cacheable mapping
    /// also reads zeroes.
    fn wipe(&self, pages: &Frames);

    /// Prepares pages for a guest that may map them with any attributes: cleans and invalidates them to the
    /// point of coherency, and invalidates the instruction caches of all CPUs for them.
    fn clean(&self, pages: &Frames);

    /// Calls `f` with the content of page `index` of `pages`, counted from 0. No other party writes the page
    /// during the call.
    fn with_page<R>(&self, pages: &Frames, index: u64, f: impl FnOnce(&[u8; 4096]) -> R) -> R;

    /// Writes the initial registers into the context page of a vCPU that no CPU has loaded yet.
    fn put_context(&self, context_page: &mut ContextPage, context: VcpuContext);

    /// Calls `f` with the registers of a vCPU, which [`Machine::put_context`] initialized.
    fn with_context<R>(&self, context_page: &mut ContextPage, f: impl FnOnce(&mut VcpuContext) -> R) -> R;

    /// Makes entries that replaced invalid ones visible to all table walkers: DSB ISHST, then ISB.
    fn publish(&self);

    /// Makes earlier table writes visible, then invalidates the `removed` leaves of `stage2_id` in all TLBs.
    /// The sequence is DSB ISHST; then, with the VMID of `stage2_id` in VTTBR_EL2, TLBI IPAS2E1IS for each
    /// leaf; DSB ISH; TLBI VMALLE1IS for the entries that combine both stages; DSB ISH; ISB.
    /// [`Maintenance`](crate::machine::maintenance::Maintenance) defines the order.
    fn invalidate(&self, stage2_id: Stage2Id, removed: &[Removed]);

    /// Makes earlier table writes visible, then removes all entries of `stage2_id` from all TLBs: DSB ISHST;
    /// with its VMID in VTTBR_EL2, TLBI VMALLS12E1IS; DSB ISH; ISB.
    fn invalidate_all(&self, stage2_id: Stage2Id);

    /// Removes the stage-1 translations and cached instructions of another vCPU of the same VM, which ran
    /// last on this CPU. Two vCPUs may use one ASID for different address spaces. With the VMID of
    /// `stage2_id` in VTTBR_EL2: TLBI VMALLE1 and IC IALLU on this CPU only, then DSB NSH and ISB.
    fn forget_previous_vcpu(&self, stage2_id: Stage2Id);

    /// Reports that a VM has started or ended. The core makes `report` under the VM's lock and releases the
    /// lock before this call. The default implementation ignores it.
    fn report(&self, milestone: Milestone, report: &VmReport) {
        let _ = (milestone, report);
    }

    /// Records an event. The default implementation does not call the closure, so no event is built.
    fn event(&self, event: impl FnOnce() -> Event) {
        let _ = event;
    }
}
