//! The machine below the core: [`Machine`] on metal.
//!
//! All RAM is mapped at its own address, writable and never executable (`mmu.rs`). What the core may
//! touch of it, it proves by the tokens that it passes.

use core::sync::atomic::{AtomicU64, Ordering};

use hyp_core::cpu::registers::VcpuContext;
use hyp_core::machine::event::Event;
use hyp_core::machine::geometry::{Geometry, Granule4K};
use hyp_core::machine::report::{Milestone, VmReport};
use hyp_core::machine::{ContextPage, Frames, Machine, Removed, Stage2Id, TableRef};
use shared_abi::addr::{PAGE_SHIFT, Pfn};
use shared_abi::record::Record;

use crate::{arch, console, maintenance};

/// The CPU and memory that this runs on.
#[derive(Debug)]
pub(crate) struct El2;

impl El2 {
    /// Notes that EL1 runs next.
    pub(crate) fn note_entry(&self) {
        self.event(|| Event::Enter(arch::read!("vttbr_el2")));
    }
}

/// The pointer to a page in the identity map.
fn page_pointer<T>(page: Pfn) -> *mut T {
    core::ptr::with_exposed_provenance_mut(page.base().0 as usize)
}

fn entry(table: TableRef, index: usize) -> &'static AtomicU64 {
    assert!(index < Granule4K::ENTRIES);
    // SAFETY: the core makes a `TableRef` only for pages in its custody, which are RAM and mapped (`mmu`); the
    // index is within the page, as was just seen; table walkers and other CPUs use it by single 64-bit accesses
    // only.
    unsafe { AtomicU64::from_ptr(page_pointer::<u64>(table.page()).wrapping_add(index)) }
}

impl Machine for El2 {
    type Geometry = Granule4K;

    fn read_entry(&self, table: TableRef, index: usize) -> u64 {
        entry(table, index).load(Ordering::Relaxed)
    }

    #[inline]
    fn write_entry(&self, table: TableRef, index: usize, value: u64) {
        entry(table, index).store(value, Ordering::Release);
        self.event(|| Event::Write { table: table.page(), index, value });
    }

    fn fill(&self, table: TableRef, first: u64, step: u64) {
        // SAFETY: the core makes a `TableRef` only for pages in its custody, which are RAM and mapped (`mmu`); by
        // the contract of `Machine::fill` no walker reaches the table, so that this CPU is alone with it until it
        // is linked, by a release.
        unsafe { arch::fill(page_pointer(table.page()), first, step) };
        #[cfg(feature = "trace")]
        for (index, entry) in (0..Granule4K::ENTRIES).zip(0..) {
            let value = first.wrapping_add(step.wrapping_mul(entry));
            self.event(|| Event::Write { table: table.page(), index, value });
        }
    }

    fn wipe(&self, pages: &Frames) {
        let range = pages.range();
        // SAFETY: `Frames` proves that the pages are in the core's custody, who relies on none of their content;
        // they are RAM and mapped (`mmu.rs`).
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
        // SAFETY: the core makes `Frames` only for pages in its custody, which are RAM and mapped (`mmu`), and the
        // borrow keeps them so that nobody writes the page while `f` runs.
        f(unsafe { &*page_pointer::<[u8; 4096]>(page) })
    }

    fn put_context(&self, context_page: &mut ContextPage, context: VcpuContext) {
        // SAFETY: the core uses a `ContextPage` only while the vCPU is this CPU's, and it is borrowed mutably,
        // so no other reference to its page exists; the page is the core's then, RAM, mapped (`mmu`), and larger
        // than a context (asserted in vcpu.rs).
        unsafe { page_pointer::<VcpuContext>(context_page.page()).write(context) };
    }

    #[inline(always)]
    fn with_context<R>(&self, context_page: &mut ContextPage, f: impl FnOnce(&mut VcpuContext) -> R) -> R {
        // SAFETY: the core uses a `ContextPage` only while the vCPU is this CPU's, and it is borrowed mutably,
        // so no other reference to its page exists; the page is the core's then, RAM and mapped (`mmu`), and
        // `put_context` has put a context there before the vCPU could be taken.
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

    /// Reports what the tool wants to know from the hypervisor rather than from the host.
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
        crate::trace::record(event());
    }
}
