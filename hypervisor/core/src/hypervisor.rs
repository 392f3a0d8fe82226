//! The entry point of the core: one [`Hypervisor`] for the machine, shared by all CPUs.

use core::sync::atomic::{AtomicU64, Ordering};

use shared_abi::addr::{Ipa, PageRange, Pfn};
use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::{ObjectHandle, VcpuIndex, VmHandle};
use shared_abi::record::Digest;

use crate::limits::{CpuIndex, MAX_CPUS, MAX_OBJECTS, MAX_VCPUS, MAX_VMS, ObjectIndex};
use crate::machine::event::Event;
use crate::machine::lock::{Lock, LockId};
use crate::machine::report::VmReport;
use crate::machine::{Machine, Stage2Id};
use crate::ownership::host::{self, HostAbort, HostAccess, HostMemory};
use crate::ownership::setup::{Needs, Setup, SetupError};
use crate::vm::vcpu_ownership::VcpuOwnership;
use crate::vm::{self, ObjectSlot, Vm, VmSlot};

/// All state of the core for one machine.
///
/// Lock order: one VM's slot, then the host's memory. A CPU holds at most one slot at a time, and holds no
/// lock while a guest or the host runs.
#[derive(Debug)]
pub struct Hypervisor<'m, M: Machine> {
    pub(crate) machine: M,
    pub(crate) host: Lock<HostMemory<'m, M::Geometry>>,
    pub(crate) slots: [Lock<VmSlot>; MAX_VMS],
    /// The ownership of each vCPU, by VM slot and vCPU index.
    pub(crate) ownerships: [[VcpuOwnership; MAX_VCPUS]; MAX_VMS],
    pub(crate) expected: Option<Digest>,
    host_stage2_id: Stage2Id,
    cpus: usize,
    /// Number of aborts injected into the host.
    host_aborts: AtomicU64,
}

impl<'m, M: Machine> Hypervisor<'m, M> {
    /// Returns how much memory the core needs on a machine with this RAM and these denied devices.
    pub fn needs(ram: &[PageRange<Pfn>], denied_devices: &[PageRange<Pfn>]) -> Needs {
        host::needs::<M::Geometry>(ram, denied_devices)
    }

    /// Takes over the machine. The host owns all RAM except the reserved ranges, and the host's stage-2
    /// tables map it.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the setup is inconsistent. Nothing has changed then.
    pub fn new(machine: M, setup: Setup<'m>) -> Result<Self, SetupError> {
        if setup.cpus > MAX_CPUS {
            return Err(SetupError::TooMany);
        }
        let (cpus, expected) = (setup.cpus, setup.expected);
        let host = HostMemory::new(&machine, setup)?;
        machine.event(|| Event::Stage2Id(host.stage2_id()));
        Ok(Self {
            host_stage2_id: host.stage2_id(),
            host: Lock::new(LockId::HOST, host),
            slots: core::array::from_fn(|index| Lock::new(LockId::slot(index), VmSlot::default())),
            ownerships: [const { [const { VcpuOwnership::new() }; MAX_VCPUS] }; MAX_VMS],
            machine,
            expected,
            cpus,
            host_aborts: AtomicU64::new(0),
        })
    }

    /// The machine that the core runs on.
    pub const fn machine(&self) -> &M {
        &self.machine
    }

    /// The value of VTTBR_EL2 while the host runs.
    pub const fn host_stage2_id(&self) -> Stage2Id {
        self.host_stage2_id
    }

    /// Decides about a host stage-2 fault at `ipa`. It reads the page state again under the lock, and maps a
    /// device range at its first access.
    pub fn host_abort(&self, ipa: Ipa, access: HostAccess) -> HostAbort {
        self.host.lock(&self.machine).abort(&self.machine, ipa.page().0, access)
    }

    /// Counts an abort injected into the host.
    pub(crate) fn count_host_abort(&self) {
        self.host_aborts.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of host accesses that were refused with an abort.
    pub fn host_aborts(&self) -> u64 {
        self.host_aborts.load(Ordering::Relaxed)
    }

    /// Returns whether the machine has this CPU.
    pub(crate) const fn has_cpu(&self, cpu: CpuIndex) -> bool {
        cpu.0 < self.cpus
    }

    /// Returns the ownership of a vCPU of the VM in slot `slot`.
    pub(crate) fn ownership(&self, slot: usize, vcpu: VcpuIndex) -> Option<&VcpuOwnership> {
        self.ownerships.get(slot)?.get(usize::try_from(vcpu.0).ok()?)
    }

    /// Returns the ownership of each vCPU of a VM. The count comes from the VM's report, so it includes vCPUs
    /// whose registers teardown has already removed.
    pub(crate) fn ownerships_of(&self, vm: &Vm) -> impl Iterator<Item = &VcpuOwnership> {
        let vcpus = usize::try_from(vm.report.vcpus).unwrap_or(MAX_VCPUS);
        self.ownerships.get(usize::from(vm.index.0)).into_iter().flatten().take(vcpus)
    }

    /// Revokes the ownership of each vCPU of a VM, so that a CPU checks the VM again before it enters one.
    pub(crate) fn revoke(&self, vm: &Vm) {
        seeded!(RevokeForgotten => return);
        self.ownerships_of(vm).for_each(VcpuOwnership::revoke);
    }

    /// Returns the report on a VM, including the counts of its vCPUs.
    pub(crate) fn report(&self, vm: &Vm) -> VmReport {
        let mut report = vm.report;
        for [hypercalls, exits] in self.ownerships_of(vm).map(VcpuOwnership::counts) {
            report.hypercalls = report.hypercalls.wrapping_add(hypercalls);
            report.exits = report.exits.wrapping_add(exits);
        }
        report
    }

    /// Runs `f` on a VM and its objects, under the VM's lock.
    pub(crate) fn with_vm<R>(
        &self,
        handle: VmHandle,
        f: impl FnOnce(&mut Vm, &mut [ObjectSlot; MAX_OBJECTS]) -> Result<R, CallFailure>,
    ) -> Result<R, CallFailure> {
        let (slot, generation) = vm::vm_slot(handle);
        let slot = self.slots.get(slot).ok_or(CallError::NotFound)?;
        seeded!(LockOrder => drop((self.host.lock(&self.machine), slot.lock(&self.machine))));
        let mut slot = slot.lock(&self.machine);
        let slot = &mut *slot;
        match &mut slot.vm {
            Some(vm) if slot.generation == generation => f(vm, &mut slot.objects),
            _ => Err(CallError::NotFound.into()),
        }
    }

    /// Runs `f` on an object and its VM, under the VM's lock. Fails if the VM is being torn down.
    pub(crate) fn with_object<R>(
        &self,
        handle: ObjectHandle,
        f: impl FnOnce(&mut Vm, ObjectIndex, &mut ObjectSlot) -> Result<R, CallFailure>,
    ) -> Result<R, CallFailure> {
        let (slot, index, generation) = vm::object_slot(handle);
        let slot = self.slots.get(slot).ok_or(CallError::NotFound)?;
        let mut slot = slot.lock(&self.machine);
        let slot = &mut *slot;
        let object = slot.objects.get_mut(usize::from(index.0)).ok_or(CallError::NotFound)?;
        let stale = seeded!(object.generation != generation, StaleObject => false);
        if stale || object.object.is_none() {
            return Err(CallError::NotFound.into());
        }
        let vm = slot.vm.as_mut().ok_or(CallError::NotFound)?;
        seeded!(vm.is_alive()?, DyingVm => ());
        f(vm, index, object)
    }
}
