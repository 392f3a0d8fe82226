//! The checks after every step. For every page and every party, tables and TLBs give exactly the access that the
//! specification allows, and no content reaches a party that must not have it.

use std::vec::Vec;

use hyp_core::machine::Stage2Id;
use hyp_core::machine::geometry::Geometry;
use shared_abi::addr::Pfn;

use super::{Divergence, HOST_BYTE, PUBLIC_BYTE, Pair, agree};
use crate::fake::tlb::Map;
use crate::spec::{HostReach, SpecOwner, SpecVmState};

impl<G: Geometry> Pair<'_, '_, G> {
    /// Compares the core with the specification, for every page and every party.
    ///
    /// # Errors
    ///
    /// [`Divergence`] if they disagree.
    pub fn agree(&mut self) -> Result<(), Divergence> {
        self.check_host()?;
        self.check_guests()?;
        let violations = self.real.machine().violations();
        agree!(violations.is_empty(), "break-before-make: {violations:?}");
        if let Err(difference) = crate::oracle::check(self.real) {
            return Err(Divergence(std::string::ToString::to_string(&difference)));
        }
        Ok(())
    }

    /// Checks the content of each page that has a new owner, and then fills the page as that owner would.
    pub(super) fn check_content(&mut self) -> Result<(), Divergence> {
        let machine = self.real.machine();
        let mut changed = Vec::new();
        for (page, old) in (0..).zip(&mut self.owners) {
            let new = self.spec.owners.get(&page).copied();
            if *old != new {
                changed.push((page, *old, new));
                *old = new;
            }
        }
        let sound = changed.is_empty() || self.spec.is_sound();
        agree!(sound, "the specification gave a page away twice, or lost one: {changed:?}");
        for (page, old, new) in changed {
            if !self.checking_content {
                // The host keeps the content that it finds.
                self.fill(page, new.filter(|owner| *owner != SpecOwner::Host));
                continue;
            }
            let byte = machine.uniform_byte(Pfn(page));
            match (old, new) {
                (Some(SpecOwner::Host), Some(SpecOwner::Private(_) | SpecOwner::Lent(_))) => {
                    agree!(
                        byte == Some(HOST_BYTE) || byte == Some(0),
                        "page {page} came to a guest with {byte:?}"
                    );
                }
                (Some(SpecOwner::Private(_) | SpecOwner::Shared(_)), Some(SpecOwner::Host)) => {
                    agree!(byte == Some(0), "page {page} came back to the host with {byte:?}");
                }
                (Some(SpecOwner::Lent(_)), Some(SpecOwner::Host)) => {
                    agree!(byte == Some(PUBLIC_BYTE), "lent page {page} came back with {byte:?}");
                }
                (Some(SpecOwner::Pool(_)), Some(SpecOwner::Host)) => {
                    agree!(byte == Some(0), "page {page} of a pool came back with {byte:?}");
                }
                (Some(SpecOwner::Private(old)), Some(SpecOwner::Shared(new)))
                | (Some(SpecOwner::Shared(old)), Some(SpecOwner::Private(new))) => {
                    agree!(old == new, "page {page} went from VM to VM");
                    agree!(
                        byte == Some(self.secret) || byte == Some(PUBLIC_BYTE),
                        "sharing changed page {page} to {byte:?}"
                    );
                }
                (Some(SpecOwner::Host), Some(SpecOwner::Pool(_))) => {}
                change => agree!(false, "page {page} went {change:?}"),
            }
            self.fill(page, new);
        }
        Ok(())
    }

    /// Fills a page as its new owner would.
    fn fill(&self, page: u64, owner: Option<SpecOwner>) {
        let byte = match owner {
            Some(SpecOwner::Host) => HOST_BYTE,
            Some(SpecOwner::Private(_)) => self.secret,
            Some(SpecOwner::Lent(_)) => PUBLIC_BYTE,
            _ => return,
        };
        self.real.machine().fill(Pfn(page), byte);
    }

    fn check_host(&self) -> Result<(), Divergence> {
        let translations = self.translations(self.real.host_stage2_id())?;
        for (page, found) in (0..).zip(translations) {
            let Some(found) = found else {
                let may = self.spec.host_reach(page) == HostReach::Yes;
                agree!(!may, "the host does not reach page {page}");
                continue;
            };
            agree!(found.page.0 == page, "the host reaches {} at page {page}", found.page.0);
            match self.spec.host_reach(page) {
                HostReach::Yes => {
                    let memory = found.normal && found.executable;
                    agree!(memory, "page {page} is no memory to the host");
                }
                HostReach::Device => {
                    let device = found.device && !found.executable;
                    agree!(device, "device page {page} is memory");
                }
                HostReach::No => agree!(false, "the host reaches page {page}"),
            }
        }
        Ok(())
    }

    fn check_guests(&self) -> Result<(), Divergence> {
        for (vm, stage2_id) in &self.stage2_ids {
            // A dying VM's tables are being freed: no CPU walks them.
            if self.spec.vms.get(vm).is_none_or(|vm| vm.state == SpecVmState::Dying) {
                continue;
            }
            for (gfn, found) in (0..).zip(self.translations(*stage2_id)?) {
                let reached = found.map(|found| found.page.0);
                let expected = self.spec.guest_reach(*vm, gfn);
                agree!(
                    reached == expected,
                    "VM {:#x} reaches {reached:?} at guest page {gfn}, expected {expected:?}",
                    vm.0
                );
                let memory = found.is_none_or(|found| found.normal && found.executable);
                agree!(memory, "guest page {gfn} is no memory");
            }
        }
        Ok(())
    }

    /// Returns the translations of an address space. Its TLBs must hold exactly these.
    fn translations(&self, stage2_id: Stage2Id) -> Result<Map, Divergence> {
        let (found, remembered) = self.real.machine().translations(stage2_id);
        agree!(
            remembered == found,
            "VMID {}: TLBs know {remembered:?}, tables say {found:?}",
            stage2_id.vmid.0
        );
        let usable = found.iter().flatten().all(|found| found.usable && found.plain);
        agree!(usable, "VMID {}: a page is mapped and unusable", stage2_id.vmid.0);
        Ok(found)
    }
}
