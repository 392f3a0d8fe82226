//! Implements the core's [`Machine`] trait on hardware.
//!
//! All RAM is identity mapped, writable and never executable ([`super::stage1`]). The core passes tokens that prove
//! which pages it may access.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use hyp_core::cpu::registers::VcpuContext;
use hyp_core::machine::event::Event;
use hyp_core::machine::geometry::{Geometry, Granule4K};
use hyp_core::machine::report::{Milestone, VmReport};
use hyp_core::machine::{ContextPage, Frames, Machine, Removed, Stage2Id, TableRef};
use shared_abi::addr::{PAGE_SHIFT, PAGE_SIZE, Pfn};
use shared_abi::record::Record;

use super::{console, maintenance};
use crate::arch;

/// The machine on metal: the CPU and memory that this runs on.
#[derive(Debug)]
pub(crate) struct El2;

/// The machine that the core drives.
#[cfg(not(feature = "seeded-bugs"))]
pub(crate) type CoreMachine = El2;
/// The machine that the core drives. It can inject seeded bugs into the core's requests.
#[cfg(feature = "seeded-bugs")]
pub(crate) type CoreMachine = hyp_verify::seeded::SeededMachine<El2>;

/// The machine that the core is made with.
#[cfg(not(feature = "seeded-bugs"))]
pub(crate) const CORE_MACHINE: CoreMachine = El2;
/// The machine that the core is made with.
#[cfg(feature = "seeded-bugs")]
pub(crate) const CORE_MACHINE: CoreMachine = CoreMachine::new(El2);

impl El2 {
    /// Records that EL1 runs next.
    pub(crate) fn note_entry(&self) {
        self.event(|| Event::Enter(arch::read!("vttbr_el2")));
    }
}

/// Returns the pointer to a page in the identity map.
fn page_pointer<T>(page: Pfn) -> *mut T {
    core::ptr::with_exposed_provenance_mut(page.base().0 as usize)
}

fn entry(table: TableRef, index: usize) -> &'static AtomicU64 {
    assert!(index < Granule4K::ENTRIES);
    // SAFETY: the core makes a `TableRef` only for pages in its custody, which are RAM and mapped (`stage1`). The
    // index is in the page, as was just asserted. Table walkers and other CPUs access the entry only as a whole.
    unsafe { AtomicU64::from_ptr(page_pointer::<u64>(table.page()).wrapping_add(index)) }
}

/// Writes a page of 8-byte entries: `first`, then each one `step` more than the one before it.
///
/// # Safety
///
/// `page` is a page of mapped RAM that no other code uses.
unsafe fn fill(page: *mut u64, first: u64, step: u64) {
    // SAFETY: the caller gives a page of mapped RAM that no other code uses. The loop ends at the end of the page, so
    // it stores to that page only.
    unsafe {
        asm!(
            "2:",
            ".rept 16",
            "stp {even}, {odd}, [{at}], #16",
            "add {even}, {even}, {step}",
            "add {odd}, {odd}, {step}",
            ".endr",
            "cmp {at}, {end}",
            "b.ne 2b",
            at = inout(reg) page => _,
            end = in(reg) page.wrapping_byte_add(PAGE_SIZE as usize),
            even = inout(reg) first => _,
            odd = inout(reg) first.wrapping_add(step) => _,
            step = in(reg) step.wrapping_mul(2),
            options(nostack),
        );
    }
}

impl Machine for El2 {
    type Geometry = Granule4K;

    fn read_entry(&self, table: TableRef, index: usize) -> u64 {
        entry(table, index).load(Ordering::Relaxed)
    }

    fn write_entry(&self, table: TableRef, index: usize, value: u64) {
        entry(table, index).store(value, Ordering::Release);
        self.event(|| Event::Write { table: table.page(), index, value });
    }

    fn fill(&self, table: TableRef, first: u64, step: u64) {
        // SAFETY: the core makes a `TableRef` only for pages in its custody, which are RAM and mapped (`stage1`). By
        // the contract of `Machine::fill` no walker reaches the table, so only this CPU uses it until a later store
        // with release semantics links it.
        unsafe { fill(page_pointer(table.page()), first, step) };
        #[cfg(feature = "trace")]
        for (index, entry) in (0..Granule4K::ENTRIES).zip(0..) {
            let value = first.wrapping_add(step.wrapping_mul(entry));
            self.event(|| Event::Write { table: table.page(), index, value });
        }
    }

    fn wipe(&self, pages: &Frames) {
        let range = pages.range();
        // SAFETY: `Frames` proves that the pages are in the core's custody, and the core does not rely on their
        // content. They are RAM and mapped (`stage1`).
        unsafe { maintenance::wipe(range.first().base().0, range.len() << PAGE_SHIFT) };
        self.event(|| Event::Wipe(range));
    }

    fn clean(&self, pages: &Frames) {
        let range = pages.range();
        maintenance::clean(range.first().base().0, range.len() << PAGE_SHIFT);
        self.event(|| Event::Clean(range));
    }

    fn with_page<R>(&self, pages: &Frames, index: u64, f: impl FnOnce(&[u8; 4096]) -> R) -> R {
        let range = pages.range();
        assert!(index < range.len());
        let page = Pfn(range.first().0 + index);
        // SAFETY: the core makes `Frames` only for pages in its custody, which are RAM and mapped (`stage1`). The
        // borrow keeps them in custody while `f` runs, so no other code writes the page.
        f(unsafe { &*page_pointer::<[u8; 4096]>(page) })
    }

    fn put_context(&self, context_page: &mut ContextPage, context: VcpuContext) {
        // SAFETY: the core uses a `ContextPage` only while this CPU owns the vCPU. The token is borrowed mutably, so
        // no other reference to its page exists. The page is in the core's custody, is mapped RAM (`stage1`), and is
        // larger than a context (the core asserts that at `VcpuContext`).
        unsafe { page_pointer::<VcpuContext>(context_page.page()).write(context) };
    }

    fn with_context<R>(&self, context_page: &mut ContextPage, f: impl FnOnce(&mut VcpuContext) -> R) -> R {
        // SAFETY: the core uses a `ContextPage` only while this CPU owns the vCPU. The token is borrowed mutably, so
        // no other reference to its page exists. The page is in the core's custody and is mapped RAM (`stage1`).
        // `put_context` wrote a context there before any CPU could own the vCPU.
        f(unsafe { &mut *page_pointer::<VcpuContext>(context_page.page()) })
    }

    fn publish(&self) {
        maintenance::publish();
    }

    fn invalidate(&self, stage2_id: Stage2Id, removed: &[Removed]) {
        maintenance::invalidate(stage2_id, removed);
    }

    fn invalidate_all(&self, stage2_id: Stage2Id) {
        maintenance::invalidate_all(stage2_id);
    }

    fn forget_previous_vcpu(&self, stage2_id: Stage2Id) {
        maintenance::forget_previous_vcpu(stage2_id);
    }

    /// Reports the facts for which the tool does not rely on the host.
    fn report(&self, milestone: Milestone, report: &VmReport) {
        let &VmReport { protected, vcpus, measurement, populated, returned, hypercalls, exits, .. } = report;
        console::record(&match (milestone, measurement) {
            (Milestone::Started { expected: measured }, Some(measurement)) => {
                Record::VmStart { protected, measured, measurement, vcpus, pages: populated }
            }
            (Milestone::Started { .. }, None) => return,
            (Milestone::Ended, _) => Record::VmEnd { pages_returned: returned, hypercalls, exits },
        });
    }

    #[cfg(feature = "trace")]
    fn event(&self, event: impl FnOnce() -> Event) {
        super::trace::record(event());
    }
}
