//! The way in: one [`Hypervisor`] for the machine, shared by all CPUs.

use core::sync::atomic::{AtomicU64, Ordering};

use shared_abi::addr::{Ipa, PageRange, Pfn};
use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::{ObjectHandle, VcpuIndex, VmHandle};
use shared_abi::record::Digest;

use crate::limits::{CpuIndex, MAX_CPUS, MAX_OBJECTS, MAX_VCPUS, MAX_VMS, ObjectIndex};
use crate::machine::event::Event;
use crate::machine::lock::{Lock, LockId};
use crate::machine::report::VmReport;
use crate::machine::{Machine, Space};
use crate::ownership::host::{self, HostAbort, HostAccess, HostMemory};
use crate::ownership::setup::{Needs, Setup, SetupError};
use crate::vm::vcpu_ownership::Claim;
use crate::vm::{self, ObjectPlace, Vm, VmPlace};

/// The ownership core of one machine.
///
/// Locks, in the order in which they are taken: one VM's place, then the host's memory. No CPU holds two
/// places at a time, and none is held while a guest or the host runs.
#[derive(Debug)]
pub struct Hypervisor<'m, M: Machine> {
    pub(crate) machine: M,
    pub(crate) host: Lock<HostMemory<'m, M::Geometry>>,
    pub(crate) places: [Lock<VmPlace>; MAX_VMS],
    /// Of the vCPUs of each place.
    pub(crate) claims: [[Claim; MAX_VCPUS]; MAX_VMS],
    pub(crate) expected: Option<Digest>,
    host_space: Space,
    cpus: usize,
    /// Aborts that were injected into the host.
    host_aborts: AtomicU64,
}

impl<'m, M: Machine> Hypervisor<'m, M> {
    /// How much memory a machine with this RAM and these denied devices takes.
    pub fn needs(ram: &[PageRange<Pfn>], denied_devices: &[PageRange<Pfn>]) -> Needs {
        host::needs::<M::Geometry>(ram, denied_devices)
    }

    /// Takes the machine: all RAM becomes the host's but for the reserved ranges, and the host's
    /// stage-2 tables say so.
    ///
    /// # Errors
    ///
    /// [`SetupError`] where the setup contradicts itself; nothing was done then.
    pub fn new(machine: M, setup: Setup<'m>) -> Result<Self, SetupError> {
        if setup.cpus > MAX_CPUS {
            return Err(SetupError::TooMany);
        }
        let (cpus, expected) = (setup.cpus, setup.expected);
        let host = HostMemory::new(&machine, setup)?;
        machine.event(|| Event::Space(host.space()));
        Ok(Self {
            host_space: host.space(),
            host: Lock::new(LockId::HOST, host),
            places: core::array::from_fn(|index| Lock::new(LockId::place(index), VmPlace::default())),
            claims: [const { [const { Claim::new() }; MAX_VCPUS] }; MAX_VMS],
            machine,
            expected,
            cpus,
            host_aborts: AtomicU64::new(0),
        })
    }

    /// The machine below.
    pub const fn machine(&self) -> &M {
        &self.machine
    }

    /// What VTTBR_EL2 holds while the host runs.
    pub const fn host_space(&self) -> Space {
        self.host_space
    }

    /// Decides about a stage-2 fault of the host's at `ipa`: the record is read again under the lock,
    /// and device ranges are mapped here, on their first touch.
    pub fn host_abort(&self, ipa: Ipa, access: HostAccess) -> HostAbort {
        self.host.lock(&self.machine).abort(&self.machine, ipa.page().0, access)
    }

    /// Counts an abort that is injected into the host.
    pub(crate) fn count_host_abort(&self) {
        self.host_aborts.fetch_add(1, Ordering::Relaxed);
    }

    /// How many accesses of the host's were refused.
    pub fn host_aborts(&self) -> u64 {
        self.host_aborts.load(Ordering::Relaxed)
    }

    /// Whether the machine has this CPU.
    pub(crate) const fn has_cpu(&self, cpu: CpuIndex) -> bool {
        cpu.0 < self.cpus
    }

    /// The claim to a vCPU of the VM at `place`.
    pub(crate) fn claim(&self, place: usize, vcpu: VcpuIndex) -> Option<&Claim> {
        self.claims.get(place)?.get(usize::try_from(vcpu.0).ok()?)
    }

    /// The claims to the vCPUs of a VM, also while their registers have been taken from them.
    pub(crate) fn claims_of(&self, vm: &Vm) -> impl Iterator<Item = &Claim> {
        let vcpus = usize::try_from(vm.report.vcpus).unwrap_or(MAX_VCPUS);
        self.claims.get(usize::from(vm.index.0)).into_iter().flatten().take(vcpus)
    }

    /// Has each vCPU of a VM be looked at again before it is entered again.
    pub(crate) fn revoke(&self, vm: &Vm) {
        self.claims_of(vm).for_each(Claim::revoke);
    }

    /// The report of a VM, with what its vCPUs have counted.
    pub(crate) fn report(&self, vm: &Vm) -> VmReport {
        let mut report = vm.report;
        for [hypercalls, exits] in self.claims_of(vm).map(Claim::counts) {
            report.hypercalls = report.hypercalls.wrapping_add(hypercalls);
            report.exits = report.exits.wrapping_add(exits);
        }
        report
    }

    /// Works on a VM and its objects, under its lock.
    pub(crate) fn with_vm<R>(
        &self,
        handle: VmHandle,
        f: impl FnOnce(&mut Vm, &mut [ObjectPlace; MAX_OBJECTS]) -> Result<R, CallFailure>,
    ) -> Result<R, CallFailure> {
        let (place, generation) = vm::vm_place(handle);
        let place = self.places.get(place).ok_or(CallError::NotFound)?;
        seeded!(LockOrder => drop((self.host.lock(&self.machine), place.lock(&self.machine))));
        let mut place = place.lock(&self.machine);
        let place = &mut *place;
        match &mut place.vm {
            Some(vm) if place.generation == generation => f(vm, &mut place.objects),
            _ => Err(CallError::NotFound.into()),
        }
    }

    /// Works on an object and its VM, which is not being torn down, under the VM's lock.
    pub(crate) fn with_object<R>(
        &self,
        handle: ObjectHandle,
        f: impl FnOnce(&mut Vm, ObjectIndex, &mut ObjectPlace) -> Result<R, CallFailure>,
    ) -> Result<R, CallFailure> {
        let (place, index, generation) = vm::object_place(handle);
        let place = self.places.get(place).ok_or(CallError::NotFound)?;
        let mut place = place.lock(&self.machine);
        let place = &mut *place;
        let object = place
            .objects
            .get_mut(usize::from(index.0))
            .filter(|object| object.generation == generation || seeded!(StaleObject))
            .filter(|object| object.object.is_some())
            .ok_or(CallError::NotFound)?;
        let vm = place.vm.as_mut().ok_or(CallError::NotFound)?;
        seeded!(vm.is_alive()?, DyingVm => ());
        f(vm, index, object)
    }
}
