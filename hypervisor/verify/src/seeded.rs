//! A machine that makes mistakes: the seeded bugs of what the core asks of its machine.
//!
//! [`SeededMachine`] is between the core and any machine, the fake one and that on metal. With one of its bugs
//! on it drops or falsifies a wipe, an invalidation, a barrier or an entry. With none it passes everything on.
//! The bugs of decisions have their places in the core (`hyp_core::seeded`).

use core::ops::Deref;

use hyp_core::cpu::registers::VcpuContext;
use hyp_core::machine::event::{Barrier, Event, Scope};
use hyp_core::machine::geometry::Level;
use hyp_core::machine::maintenance::Maintenance;
use hyp_core::machine::report::{Milestone, VmReport};
use hyp_core::machine::{ContextPage, Frames, Machine, Removed, Stage2Id, TableRef, Vmid};
use hyp_core::seeded::{Bug, is_on};
use hyp_core::verify::ObjectView;

/// The VMID of the host.
const HOST: Vmid = Vmid(0);

/// A machine with bugs that can be switched on.
#[derive(Debug, Default)]
pub struct SeededMachine<M>(M);

impl<M> SeededMachine<M> {
    /// Wraps a machine.
    pub const fn new(machine: M) -> Self {
        Self(machine)
    }
}

impl<M> Deref for SeededMachine<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0
    }
}

impl<M: Machine + Maintenance> Machine for SeededMachine<M> {
    type Geometry = M::Geometry;

    fn read_entry(&self, table: TableRef, index: usize) -> u64 {
        self.0.read_entry(table, index)
    }

    fn write_entry(&self, table: TableRef, index: usize, value: u64) {
        let forgotten = is_on(Bug::PoisonForgotten) && value == ObjectView::POISONED;
        self.0.write_entry(table, index, if forgotten { ObjectView::ABSENT } else { value });
    }

    fn fill(&self, table: TableRef, first: u64, step: u64) {
        Machine::fill(&self.0, table, first, step);
    }

    fn wipe(&self, pages: &Frames) {
        if is_on(Bug::WipeForgotten) {
            return;
        }
        if is_on(Bug::FirstPageWiped) {
            return self.0.wipe(&pages.first_page());
        }
        self.0.wipe(pages);
    }

    fn clean(&self, pages: &Frames) {
        if is_on(Bug::KeptUncleaned) {
            return;
        }
        if is_on(Bug::FirstPageCleaned) {
            return self.0.clean(&pages.first_page());
        }
        self.0.clean(pages);
    }

    fn with_page<R>(&self, pages: &Frames, index: u64, f: impl FnOnce(&[u8; 4096]) -> R) -> R {
        self.0.with_page(pages, if is_on(Bug::FirstPageMeasured) { 0 } else { index }, f)
    }

    fn put_context(&self, context_page: &mut ContextPage, context: VcpuContext) {
        if !is_on(Bug::StartForgotten) {
            self.0.put_context(context_page, context);
        }
    }

    fn with_context<R>(&self, context_page: &mut ContextPage, f: impl FnOnce(&mut VcpuContext) -> R) -> R {
        self.0.with_context(context_page, f)
    }

    fn publish(&self) {
        if !is_on(Bug::Unpublished) {
            Machine::publish(&self.0);
        }
    }

    fn invalidate(&self, stage2_id: Stage2Id, removed: &[Removed]) {
        let forgotten = usize::from(is_on(Bug::LeafForgotten));
        let leaves = removed.iter().skip(forgotten);
        let leaves = leaves.filter(|leaf| leaf.level == Level::Three || !is_on(Bug::NoBreak));
        Maintenance::invalidate(self, stage2_id, leaves.map(|leaf| leaf.page));
    }

    fn invalidate_all(&self, stage2_id: Stage2Id) {
        let bug = if stage2_id.vmid == HOST { Bug::RangeCutShort } else { Bug::VmidReused };
        if !is_on(bug) {
            Maintenance::invalidate_all(self, stage2_id);
        }
    }

    fn forget_previous_vcpu(&self, stage2_id: Stage2Id) {
        if !is_on(Bug::PreviousVcpu) {
            Maintenance::forget_previous_vcpu(self, stage2_id);
        }
    }

    fn report(&self, milestone: Milestone, report: &VmReport) {
        self.0.report(milestone, report);
    }

    fn event(&self, event: impl FnOnce() -> Event) {
        self.0.event(event);
    }
}

/// The instructions of an invalidation. What [`Machine::publish`] takes is not among them.
impl<M: Machine + Maintenance> Maintenance for SeededMachine<M> {
    fn barrier(&self, barrier: Barrier) {
        let forgotten = match barrier {
            Barrier::DsbIshst => is_on(Bug::TlbiTooEarly),
            Barrier::DsbIsh | Barrier::DsbNsh => is_on(Bug::TlbiUnfinished),
            Barrier::Isb => is_on(Bug::IsbForgotten),
        };
        if !forgotten {
            self.0.barrier(barrier);
        }
    }

    fn forget(&self, scope: Scope) {
        match scope {
            Scope::Combined if is_on(Bug::CombinedKept) => {}
            Scope::Combined if is_on(Bug::OtherCpusForgotten) => self.0.forget(Scope::CombinedHere),
            Scope::InstructionsHere if is_on(Bug::InstructionsKept) => {}
            _ => self.0.forget(scope),
        }
    }

    fn in_stage2(&self, stage2_id: Stage2Id, f: impl FnOnce()) {
        let vmid = if is_on(Bug::WrongVmid) { HOST } else { stage2_id.vmid };
        self.0.in_stage2(Stage2Id { vmid, ..stage2_id }, f);
    }
}
