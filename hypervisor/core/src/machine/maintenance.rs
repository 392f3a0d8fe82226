//! The instruction sequences of TLB maintenance: each maintenance method of
//! [`Machine`](crate::machine::Machine) as an ordered list of instructions (Arm ARM DDI0487, D8.17: TLB
//! maintenance; break-before-make).
//!
//! The sequences are separate from the instructions, so that tests run the same order as the hardware.

use crate::machine::Stage2Id;
use crate::machine::event::{Barrier, Scope};

/// The single maintenance instructions, and the sequences that are built from them.
pub trait Maintenance {
    /// Executes a barrier.
    fn barrier(&self, barrier: Barrier);

    /// Executes an invalidation for the VMID in VTTBR_EL2.
    fn forget(&self, scope: Scope);

    /// Calls `f` with `stage2_id` in VTTBR_EL2, then restores VTTBR_EL2.
    fn in_stage2(&self, stage2_id: Stage2Id, f: impl FnOnce());

    /// Implements [`Machine::publish`](crate::machine::Machine::publish).
    fn publish(&self) {
        self.barrier(Barrier::DsbIshst);
        self.barrier(Barrier::Isb);
    }

    /// Implements [`Machine::invalidate`](crate::machine::Machine::invalidate) for the leaves that start at
    /// these pages.
    fn invalidate(&self, stage2_id: Stage2Id, first_pages: impl Iterator<Item = u64>) {
        self.barrier(Barrier::DsbIshst);
        self.in_stage2(stage2_id, || {
            for page in first_pages {
                self.forget(Scope::Ipa(page));
            }
            self.barrier(Barrier::DsbIsh);
            // Entries that combine both stages are tagged with the virtual address only, so TLBI by IPA
            // misses them.
            self.forget(Scope::Combined);
            self.barrier(Barrier::DsbIsh);
            self.barrier(Barrier::Isb);
        });
    }

    /// Implements [`Machine::invalidate_all`](crate::machine::Machine::invalidate_all).
    fn invalidate_all(&self, stage2_id: Stage2Id) {
        self.barrier(Barrier::DsbIshst);
        self.in_stage2(stage2_id, || {
            self.forget(Scope::All);
            self.barrier(Barrier::DsbIsh);
            self.barrier(Barrier::Isb);
        });
    }

    /// Implements [`Machine::forget_previous_vcpu`](crate::machine::Machine::forget_previous_vcpu).
    fn forget_previous_vcpu(&self, stage2_id: Stage2Id) {
        self.in_stage2(stage2_id, || {
            self.forget(Scope::CombinedHere);
            self.forget(Scope::InstructionsHere);
            self.barrier(Barrier::DsbNsh);
            self.barrier(Barrier::Isb);
        });
    }
}
