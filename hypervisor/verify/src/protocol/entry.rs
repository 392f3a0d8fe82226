//! Entries to EL1: the locks that the CPU holds, its loaded vCPU, and VTTBR_EL2.

use hyp_core::machine::Vmid;
use hyp_core::machine::lock::LockId;
use shared_abi::addr::Pfn;

use super::rule::Rule;
use super::{Checker, HOST};

impl Checker {
    pub(super) fn take(&mut self, cpu: usize, lock: LockId) -> Result<(), Rule> {
        if self.cpus.values().any(|cpu| cpu.holds(lock)) {
            return Err(Rule::LockOrder);
        }
        self.cpu(cpu).take(lock)
    }

    pub(super) fn release(&mut self, cpu: usize, lock: LockId) -> Result<(), Rule> {
        self.cpu(cpu).release(lock)?;
        for space in self.spaces.values_mut().filter(|space| space.lock == lock) {
            space.changed = false;
            space.owes(cpu)?;
        }
        if self.cpu(cpu).owes_isb {
            return Err(Rule::Synchronized);
        }
        Ok(())
    }

    pub(super) fn holds_nothing(&mut self, cpu: usize) -> Result<(), Rule> {
        if self.cpu(cpu).is_free() { Ok(()) } else { Err(Rule::LockHeld) }
    }

    pub(super) fn load(&mut self, cpu: usize, vmid: Vmid, vcpu: u32) -> Result<(), Rule> {
        let forgot = self.cpu(cpu).take_forgotten(vmid.0);
        let space = self.spaces.get_mut(&vmid.0).ok_or(Rule::Stream)?;
        if space.loaded.insert(vcpu, cpu).is_some() {
            return Err(Rule::OneCpu);
        }
        let last = space.last.insert(cpu, vcpu);
        if last.is_some_and(|last| last != vcpu) && !forgot {
            return Err(Rule::PreviousVcpu);
        }
        (space.quiet, space.reusable, space.over) = (false, false, false);
        Ok(())
    }

    pub(super) fn enter(&mut self, cpu: usize, vttbr: u64) -> Result<(), Rule> {
        /// VTTBR_EL2: VMID from bit 48, CnP in bit 0, the table's address in between.
        const VMID_SHIFT: u32 = 48;
        const ADDRESS: u64 = 0x0000_ffff_ffff_fffe;
        self.holds_nothing(cpu)?;
        for space in self.spaces.values() {
            space.owes(cpu)?;
        }
        let vmid = u8::try_from(vttbr >> VMID_SHIFT).map_err(|_| Rule::Vttbr)?;
        let space = self.spaces.get(&vmid).ok_or(Rule::Vttbr)?;
        let root = Pfn(space.root).base().0;
        let here = vmid == HOST || space.loaded.values().any(|on| *on == cpu);
        if vttbr & 1 != 0 || vttbr & ADDRESS != root || !here {
            return Err(Rule::Vttbr);
        }
        Ok(())
    }
}
