//! A vCPU that a CPU has claimed, and all that handling its exits needs of its VM.

use shared_abi::addr::{Gfn, Ipa};
use shared_abi::host_call::{PageState, VcpuIndex, VmHandle};

use crate::guard::MmioGuard;
use crate::hypervisor::{CpuIndex, Hypervisor};
use crate::machine::{Machine, Space, VcpuClaim};
use crate::vcpu::VcpuContext;

/// What is at a guest-physical page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestPage {
    /// No memory object is bound there: a device may be.
    Unbound,
    /// A page of a bound object, in this state. `Private` and `Shared` mean that the page is mapped
    /// now, whatever it was when the guest faulted: enter it again.
    Bound(PageState),
}

/// Why a guest's share or unshare was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ShareError {
    /// The page is not there yet: the host has to populate it, then the call runs again.
    #[error("the page is absent")]
    Absent,
    /// No page of the guest's, or not in the state that the call needs.
    #[error("not the guest's, or not in that state")]
    Denied,
}

/// Why a vCPU could not be started by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PowerOnError {
    /// The VM has no such vCPU.
    #[error("no such vCPU")]
    NoSuchVcpu,
    /// It is running, or about to.
    #[error("already on")]
    AlreadyOn,
}

/// A vCPU that this CPU, and no other, may enter. Dropping it gives the vCPU back.
#[derive(Debug)]
pub struct Loaded<'h, 'm, M: Machine> {
    hypervisor: &'h Hypervisor<'m, M>,
    vm: VmHandle,
    vcpu: VcpuIndex,
    cpu: CpuIndex,
    space: Space,
    protected: bool,
    claim: VcpuClaim,
    /// Hypercalls answered and exits taken since it was loaded.
    hypercalls: u64,
    exits: u64,
}

impl<M: Machine> Loaded<'_, '_, M> {
    /// The machine below.
    #[must_use]
    pub fn machine(&self) -> &M {
        self.hypervisor.machine()
    }

    /// What VTTBR_EL2 holds while the guest runs.
    #[must_use]
    pub const fn space(&self) -> Space {
        self.space
    }

    /// The VM.
    #[must_use]
    pub const fn vm(&self) -> VmHandle {
        self.vm
    }

    /// The vCPU, within the VM.
    #[must_use]
    pub const fn vcpu(&self) -> VcpuIndex {
        self.vcpu
    }

    /// The CPU that has claimed it.
    #[must_use]
    pub const fn cpu(&self) -> CpuIndex {
        self.cpu
    }

    /// Whether the VM's memory is kept from the host.
    #[must_use]
    pub const fn is_protected(&self) -> bool {
        self.protected
    }

    /// Works on the vCPU's registers.
    pub fn with_context<R>(&mut self, f: impl FnOnce(&mut VcpuContext) -> R) -> R {
        self.hypervisor.machine().with_context(&mut self.claim, f)
    }

    /// MEM_SHARE: lends a private page to the host, in place.
    ///
    /// # Errors
    ///
    /// [`ShareError`]; nothing was done then.
    pub fn share(&self, gfn: Gfn) -> Result<(), ShareError> {
        let _ = gfn;
        Err(ShareError::Denied)
    }

    /// MEM_UNSHARE: takes a shared page back from the host, at once.
    ///
    /// # Errors
    ///
    /// [`ShareError::Denied`]; nothing was done then.
    pub fn unshare(&self, gfn: Gfn) -> Result<(), ShareError> {
        let _ = gfn;
        Err(ShareError::Denied)
    }

    /// What is at `gfn` at this moment.
    #[must_use]
    pub fn classify(&self, gfn: Gfn) -> GuestPage {
        let _ = gfn;
        GuestPage::Unbound
    }

    /// Works on the VM's MMIO guard, under the VM's lock: `f` must not call back into this vCPU.
    pub fn with_guard<R>(&self, f: impl FnOnce(&mut MmioGuard) -> R) -> R {
        f(&mut MmioGuard::default())
    }

    /// PSCI CPU_ON: claims vCPU `target` for power-on at `entry`, x0 = `context_id`. Of many who try
    /// at once, one gets it. It starts there the next time the host enters it.
    ///
    /// # Errors
    ///
    /// [`PowerOnError`]; nothing was done then.
    pub fn power_on(
        &self,
        target: VcpuIndex,
        entry: Ipa,
        context_id: u64,
    ) -> Result<(), PowerOnError> {
        let _ = (target, entry, context_id);
        Err(PowerOnError::NoSuchVcpu)
    }

    /// PSCI CPU_OFF: this vCPU is not entered again until another starts it.
    pub fn power_off(&self) {}

    /// PSCI AFFINITY_INFO: whether a vCPU is on; `None` if there is none of that index.
    #[must_use]
    pub fn is_on(&self, target: VcpuIndex) -> Option<bool> {
        let _ = target;
        None
    }

    /// Ends the VM's run for good, every vCPU's of it: SYSTEM_OFF, SYSTEM_RESET, or a stop by the
    /// hypervisor. Other CPUs notice at their next exit.
    pub fn stop(&self) {}

    /// Whether the VM's run was ended; the caller then leaves the guest.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        false
    }

    /// Counts a hypercall that the hypervisor answered.
    pub const fn count_hypercall(&mut self) {
        self.hypercalls = self.hypercalls.wrapping_add(1);
    }

    /// Counts an exit to the host.
    pub const fn count_exit(&mut self) {
        self.exits = self.exits.wrapping_add(1);
    }
}
