//! The state of a CPU, as the stream tells it.

use std::collections::BTreeMap;
use std::vec::Vec;

use hyp_core::machine::event::{Barrier, Scope};
use hyp_core::machine::lock::LockId;

use super::rule::Rule;

/// How far a CPU has come with the invalidation for a VM's previous vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Forgetting {
    translations: bool,
    instructions: bool,
    waited: bool,
    done: bool,
}

/// A CPU.
#[derive(Clone, Debug, Default)]
pub(super) struct CpuState {
    held: Vec<LockId>,
    /// Maintenance is complete, but this CPU has not executed an ISB since.
    pub(super) owes_isb: bool,
    /// By VMID.
    forgetting: BTreeMap<u8, Forgetting>,
}

impl CpuState {
    pub(super) fn holds(&self, lock: LockId) -> bool {
        self.held.contains(&lock)
    }

    pub(super) const fn is_free(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes a lock. Its rank must be later than that of all locks that the CPU holds.
    pub(super) fn take(&mut self, lock: LockId) -> Result<(), Rule> {
        let is_late = |held: &LockId| lock != LockId::HOST || *held == LockId::HOST;
        if self.held.iter().any(is_late) {
            return Err(Rule::LockOrder);
        }
        self.held.push(lock);
        Ok(())
    }

    pub(super) fn release(&mut self, lock: LockId) -> Result<(), Rule> {
        let before = self.held.len();
        self.held.retain(|held| *held != lock);
        if self.held.len() == before {
            return Err(Rule::Stream);
        }
        Ok(())
    }

    pub(super) fn barrier(&mut self, barrier: Barrier) {
        for forgetting in self.forgetting.values_mut() {
            match barrier {
                Barrier::DsbNsh | Barrier::DsbIsh => {
                    forgetting.waited = forgetting.translations && forgetting.instructions;
                }
                Barrier::Isb => forgetting.done |= forgetting.waited,
                Barrier::DsbIshst => {}
            }
        }
        if barrier == Barrier::Isb {
            self.owes_isb = false;
        }
    }

    /// Invalidates on this CPU only.
    pub(super) fn forget(&mut self, vmid: u8, scope: Scope) {
        let forgetting = self.forgetting.entry(vmid).or_default();
        match scope {
            Scope::CombinedHere => forgetting.translations = true,
            Scope::InstructionsHere => forgetting.instructions = true,
            Scope::Ipa(_) | Scope::Combined | Scope::All => {}
        }
    }

    /// Returns true if the CPU has invalidated for the previous vCPU since the last load, and clears that.
    pub(super) fn take_forgotten(&mut self, vmid: u8) -> bool {
        let forgetting = self.forgetting.remove(&vmid).unwrap_or_default();
        forgetting.done
    }
}
