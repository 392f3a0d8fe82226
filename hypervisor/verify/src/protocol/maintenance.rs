//! Barriers and TLB invalidations.

use hyp_core::machine::Vmid;
use hyp_core::machine::event::{Barrier, Scope};

use super::Checker;
use super::rule::Rule;
use super::space::SpaceState;

impl Checker {
    pub(super) fn barrier(&mut self, cpu: usize, barrier: Barrier) {
        let mut complete = false;
        for space in self.spaces.values_mut() {
            match barrier {
                Barrier::DsbIshst => complete |= !space.wait(cpu, false).is_empty(),
                Barrier::DsbIsh => complete |= !space.wait(cpu, true).is_empty(),
                Barrier::DsbNsh => {}
                Barrier::Isb => space.synchronize(cpu),
            }
        }
        let cpu = self.cpu(cpu);
        cpu.owes_isb |= complete;
        cpu.barrier(barrier);
    }

    pub(super) fn invalidate(&mut self, cpu: usize, vmid: Vmid, scope: Scope) -> Result<(), Rule> {
        if let Scope::CombinedHere | Scope::InstructionsHere = scope {
            self.cpu(cpu).forget(vmid.0, scope);
            return Ok(());
        }
        let used = match self.spaces.get_mut(&vmid.0) {
            Some(space) => space.invalidate(cpu, scope)?,
            None => false,
        };
        let meant = |space: &SpaceState| {
            let mut removals = space.removals.iter();
            removals.any(|removal| match scope {
                Scope::Ipa(page) => removal.cpu == cpu && removal.covers(page),
                _ => removal.cpu == cpu,
            })
        };
        if !used && scope != Scope::Combined && self.spaces.values().any(meant) {
            return Err(Rule::RightVmid);
        }
        Ok(())
    }
}
