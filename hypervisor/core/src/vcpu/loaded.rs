//! A loaded vCPU: one that a CPU has taken, with the operations on its VM that its exits need.

use arm_psci::ErrorCode;
use shared_abi::addr::{Gfn, Ipa, PageRange};
use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::{ObjectPageState, VcpuIndex, VmHandle};
use shared_abi::kvm::feature;
use shared_abi::vcpu::Exit;

use crate::cpu::registers::VcpuContext;
use crate::hypervisor::Hypervisor;
use crate::limits::CpuIndex;
use crate::machine::event::Event;
use crate::machine::lock::Lock;
use crate::machine::{ContextPage, Machine, Stage2Id};
use crate::memory::object::Presence;
use crate::ownership::page_state::PageState;
use crate::transition::ShareError;
use crate::transition::share::Sharing;
use crate::vcpu::GuestAction;
use crate::vm::mmio_guard::MmioGuard;
use crate::vm::vcpu_ownership::VcpuOwnership;
use crate::vm::{self, Start, Vm, VmSlot, VmState};

/// The content of a guest-physical page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestPage {
    /// No memory object is bound there, so a device may be.
    Unbound,
    /// A page of a bound object, in this state. `Private` and `Shared` mean that the page is mapped now. If
    /// the guest faulted on it, the guest can retry.
    Bound(ObjectPageState),
}

/// The functions of a protected VM.
const PROTECTED_FEATURES: u32 = feature::FEATURES
    | feature::MEMINFO
    | feature::MEM_SHARE
    | feature::MEM_UNSHARE
    | feature::MMIO_GUARD_INFO
    | feature::MMIO_GUARD_ENROLL
    | feature::MMIO_GUARD_MAP
    | feature::MMIO_GUARD_UNMAP
    | feature::MEM_RELINQUISH;

/// The functions of an ordinary VM.
const ORDINARY_FEATURES: u32 = feature::FEATURES;

/// A vCPU that only this CPU may enter. Dropping it parks the vCPU.
#[derive(Debug)]
pub struct LoadedVcpu<'h, 'm, M: Machine> {
    hypervisor: &'h Hypervisor<'m, M>,
    /// The slot of its VM.
    pub(crate) slot: &'h Lock<VmSlot>,
    pub(crate) ownership: &'h VcpuOwnership,
    context: ContextPage,
    stage2_id: Stage2Id,
    /// The functions that the VM is offered ([`kvm::feature`](shared_abi::kvm::feature)).
    features: u32,
    /// Whether it runs; false if it is parked.
    running: bool,
    /// The device page of the last MMIO access. It stays valid until the ownership is revoked.
    device: Option<Gfn>,
    pub(crate) vm: VmHandle,
    pub(crate) vcpu: VcpuIndex,
    cpu: CpuIndex,
}

impl<'h, 'm, M: Machine> LoadedVcpu<'h, 'm, M> {
    /// Takes a vCPU for a CPU. The errors are those of [`Hypervisor::vcpu_load`].
    pub(crate) fn load(
        hypervisor: &'h Hypervisor<'m, M>,
        cpu: CpuIndex,
        vm: VmHandle,
        vcpu: VcpuIndex,
    ) -> Result<Self, CallError> {
        let machine = hypervisor.machine();
        let (index, generation) = vm::vm_slot(vm);
        let slot = hypervisor.slots.get(index).ok_or(CallError::NotFound)?;
        let mut found = slot.lock(machine);
        let found = &mut *found;
        let inside = match &mut found.vm {
            Some(inside) if found.generation == generation => inside,
            _ => return Err(CallError::NotFound),
        };
        match inside.state {
            VmState::Started => {}
            VmState::New | VmState::Stopped => return Err(CallError::Denied),
            VmState::Dying => return Err(CallError::Busy),
        }
        let found = inside.vcpu(vcpu).ok_or(CallError::NotFound)?;
        let ownership = hypervisor.ownership(index, vcpu).ok_or(CallError::NotFound)?;
        if ownership.is_running() {
            return Err(CallError::Busy);
        }
        if !found.on {
            seeded!(OwnershipLeaked => { ownership.take(cpu); });
            return Err(CallError::Denied);
        }
        if !ownership.take(cpu) {
            return Err(CallError::Busy);
        }
        let mut context = ContextPage::new(found.context);
        if let Some(start) = found.start.take() {
            let reset = VcpuContext::new(vcpu, start.entry, start.argument);
            machine.put_context(&mut context, reset);
        }
        let stage2_id = inside.tables.stage2_id();
        if inside.runs_on(cpu, vcpu) {
            machine.forget_previous_vcpu(stage2_id);
        }
        machine.event(|| Event::Load(stage2_id.vmid, vcpu));
        let features = if inside.protected { PROTECTED_FEATURES } else { ORDINARY_FEATURES };
        Ok(Self {
            hypervisor,
            slot,
            ownership,
            context,
            stage2_id,
            features,
            running: true,
            device: None,
            vm,
            vcpu,
            cpu,
        })
    }

    /// Resumes this vCPU if it is `vcpu` of `vm` and this CPU may still resume it. Returns whether it did.
    pub(crate) fn resume(&mut self, vm: VmHandle, vcpu: VcpuIndex) -> bool {
        self.running = self.vm == vm && self.vcpu == vcpu && self.ownership.resume(self.cpu);
        if self.running {
            self.machine().event(|| Event::Load(self.stage2_id.vmid, self.vcpu));
        }
        self.running
    }

    /// Parks the vCPU until it is resumed.
    pub(crate) fn park(&mut self) {
        self.running = false;
        self.machine().event(|| Event::Put(self.stage2_id.vmid, self.vcpu));
        self.ownership.park(self.cpu);
    }
}

impl<M: Machine> LoadedVcpu<'_, '_, M> {
    /// Calls `f` with the VM, under its lock. The VM exists, because teardown fails while a vCPU runs.
    fn with_vm<R>(&self, f: impl FnOnce(&mut Vm) -> R) -> Option<R> {
        self.slot.lock(self.machine()).vm.as_mut().map(f)
    }

    /// The machine that the core runs on.
    pub fn machine(&self) -> &M {
        self.hypervisor.machine()
    }

    /// The value of VTTBR_EL2 while the guest runs.
    pub const fn stage2_id(&self) -> Stage2Id {
        self.stage2_id
    }

    /// Returns the functions that the VM is offered, as FEATURES returns them.
    pub(crate) const fn features(&self) -> u32 {
        self.features
    }

    /// Calls `f` with the vCPU's registers.
    pub fn with_context<R>(&mut self, f: impl FnOnce(&mut VcpuContext) -> R) -> R {
        self.hypervisor.machine().with_context(&mut self.context, f)
    }

    /// Counts an exit to the host and returns the action for it.
    pub(crate) fn exit(&self, exit: Exit) -> GuestAction {
        self.ownership.count_exit();
        GuestAction::Exit(exit)
    }

    /// MEM_SHARE and MEM_UNSHARE: shares private pages with the host in place, or unshares shared pages.
    /// Stops at the first page in another state. Returns the number of converted pages, which is at least 1.
    ///
    /// # Errors
    ///
    /// [`ShareError`]. Nothing has changed then.
    pub(crate) fn convert(&self, pages: PageRange<Gfn>, sharing: Sharing) -> Result<u64, ShareError> {
        let mut slot = self.slot.lock(self.machine());
        self.hypervisor.convert(&mut slot, pages, sharing)
    }

    /// MEM_RELINQUISH: returns a private page to the host. Returns whether a page was present.
    ///
    /// # Errors
    ///
    /// [`CallError::Denied`] if the page is neither private nor absent, [`CallError::NoMemory`] with the
    /// number of pages that the pool lacks. Nothing has changed then.
    pub fn relinquish(&self, gfn: Gfn) -> Result<bool, CallFailure> {
        let mut slot = self.slot.lock(self.machine());
        self.hypervisor.relinquish(&mut slot, gfn)
    }

    /// Returns the content of guest page `gfn`, and whether a device may be there: the page is unbound and
    /// the MMIO guard allows it.
    ///
    /// The last access's device page is cached. After the VM starts, no binding is added, and changing the
    /// MMIO guard revokes the ownership, so the cached page is valid until the ownership is revoked.
    #[inline(always)] // mmio_exit: a cached device page needs no call
    pub(crate) fn classify_or_device(&mut self, gfn: Gfn) -> (GuestPage, bool) {
        if self.device == Some(gfn) && !self.ownership.is_revoked() {
            return (GuestPage::Unbound, true);
        }
        let (page, allowed) = self.classify_and_ask(gfn);
        if allowed {
            self.device = Some(gfn);
        }
        (page, allowed)
    }

    /// Returns the content of guest page `gfn`, and whether a device may be there.
    pub(crate) fn classify_and_ask(&self, gfn: Gfn) -> (GuestPage, bool) {
        let mut slot = self.slot.lock(self.machine());
        let page = self.classify_in(&mut slot, gfn);
        (page, page == GuestPage::Unbound && slot.guard.allows(gfn))
    }

    fn classify_in(&self, slot: &mut VmSlot, gfn: Gfn) -> GuestPage {
        let found = slot.vm.as_ref().and_then(|vm| vm.object_run(gfn));
        let Some((page, _)) = found else {
            return GuestPage::Unbound;
        };
        let Some(object) = vm::object_in(&mut slot.objects, page.object()) else {
            return GuestPage::Unbound;
        };
        GuestPage::Bound(match object.get(self.machine(), page.offset()) {
            Presence::Absent => ObjectPageState::Absent,
            Presence::Poisoned => ObjectPageState::Poisoned,
            Presence::Present(first) => {
                let state = self.hypervisor.host.lock(self.machine()).owners().get(first);
                if state.is_some_and(PageState::host_reaches) {
                    ObjectPageState::Shared
                } else {
                    ObjectPageState::Private
                }
            }
        })
    }

    /// Changes the VM's MMIO guard, under the VM's lock. `f` must not call back into this vCPU.
    pub fn with_guard<R>(&self, f: impl FnOnce(&mut MmioGuard) -> R) -> R {
        let mut slot = self.slot.lock(self.machine());
        if let Some(vm) = &slot.vm {
            self.hypervisor.revoke(vm);
        }
        f(&mut slot.guard)
    }

    /// PSCI CPU_ON: powers vCPU `target` on, to start at `entry` with x0 = `context_id` when the host enters
    /// it next. If several callers race, one succeeds.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMETERS if the VM has no such vCPU, ALREADY_ON if it is on. Nothing has changed then.
    pub fn power_on(&self, target: VcpuIndex, entry: Ipa, context_id: u64) -> Result<(), ErrorCode> {
        self.with_vm(|vm| {
            let vcpu = vm.vcpu(target).ok_or(ErrorCode::InvalidParameters)?;
            let is_on = seeded!(vcpu.on, CpuOnAgain => false);
            if is_on {
                return Err(ErrorCode::AlreadyOn);
            }
            vcpu.on = true;
            vcpu.start = Some(Start { entry, argument: context_id });
            Ok(())
        })
        .unwrap_or(Err(ErrorCode::InvalidParameters))
    }

    /// PSCI CPU_OFF: powers this vCPU off. No CPU enters it again until another vCPU powers it on.
    pub fn power_off(&self) {
        self.with_vm(|vm| {
            if let Some(vcpu) = vm.vcpu(self.vcpu) {
                vcpu.on = false;
            }
            self.ownership.revoke();
        });
    }

    /// PSCI AFFINITY_INFO: returns whether a vCPU is on, or `None` if there is no such vCPU.
    pub fn is_on(&self, target: VcpuIndex) -> Option<bool> {
        self.with_vm(|vm| vm.vcpu(target).map(|vcpu| vcpu.on))?
    }

    /// Stops all vCPUs of the VM for good: for SYSTEM_OFF, SYSTEM_RESET, or a stop by the hypervisor. A vCPU
    /// that runs on another CPU leaves the guest at its next exit to the host. No vCPU is entered again.
    pub fn stop(&self) {
        self.with_vm(|vm| {
            vm.state = VmState::Stopped;
            self.hypervisor.revoke(vm);
        });
    }
}

impl<M: Machine> Drop for LoadedVcpu<'_, '_, M> {
    /// Parks the vCPU, if it runs.
    fn drop(&mut self) {
        if self.running {
            self.park();
        }
    }
}
