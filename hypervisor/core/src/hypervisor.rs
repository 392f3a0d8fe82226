//! The way in: one [`Hypervisor`] for the machine, shared by all CPUs.

use core::sync::atomic::{AtomicU64, Ordering};

use shared_abi::addr::{Ipa, PageRange, Pfn};
use shared_abi::error::CallError;
use shared_abi::host_call::{ObjectHandle, VcpuIndex, VmHandle};
use shared_abi::record::Digest;

use crate::limits::{MAX_OBJECTS, MAX_VCPUS, MAX_VMS, ObjectIndex};
use crate::machine::event::Event;
use crate::machine::lock::{Lock, LockId};
use crate::machine::report::VmReport;
use crate::machine::{Machine, Stage2Id};
use crate::ownership::host::{self, HostMemory};
use crate::vcpu::loaded::LoadedVcpu;
use crate::vm::vcpu_ownership::VcpuOwnership;
use crate::vm::{self, ObjectSlot, Vm, VmSlot};

/// A physical CPU, counted from 0. The binary gives each CPU one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuIndex(pub usize);

/// What [`Hypervisor::new`] has to know of the machine, and the memory that it keeps.
#[derive(Debug)]
pub struct Setup<'m> {
    /// RAM: at most [`MAX_REGIONS`] ranges, ascending and apart.
    pub ram: &'m [PageRange<Pfn>],
    /// The hypervisor's own part of it: image, stacks, `owners`, `tables`, and whatever else the host
    /// shall never reach. At most [`MAX_RESERVED`] ranges.
    pub reserved: &'m [PageRange<Pfn>],
    /// Device addresses that the host shall never reach, at most [`MAX_DENIED`] ranges; all else
    /// below 2^40 that is no RAM is a device of the host's.
    pub denied_devices: &'m [PageRange<Pfn>],
    /// Memory for the ownership records: [`Needs::records`] of them. The content does not matter.
    pub owners: &'m mut [u64],
    /// Pages for the host's stage-2 tables: [`Needs::tables`] of them, the first at an even page
    /// number, all in `reserved`. The content does not matter.
    pub tables: PageRange<Pfn>,
    /// How many CPUs there are; at most [`MAX_CPUS`].
    pub cpus: usize,
    /// The launch measurement that the manifest names, if it does.
    pub expected: Option<Digest>,
}

/// How much memory the core keeps for a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Ownership records, of 8 bytes each.
    pub owners: usize,
    /// Pages for the host's stage-2 tables.
    pub tables: u64,
}

/// Most ranges of RAM.
pub const MAX_REGIONS: usize = 8;
/// Most ranges of the hypervisor's own memory.
pub const MAX_RESERVED: usize = 16;
/// Most ranges of denied device addresses.
pub const MAX_DENIED: usize = 16;
/// Most physical CPUs.
pub const MAX_CPUS: usize = 64;

/// Why the core can't work on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// Too many ranges, or too many CPUs.
    #[error("too many ranges or CPUs")]
    TooMany,
    /// RAM is not ascending, overlaps, or lies beyond the 40 bits that stage 2 translates.
    #[error("the RAM ranges are out of order or out of reach")]
    Ram,
    /// A reserved range, or the tables, are not where they have to be.
    #[error("a reserved range is not in RAM, or the tables are not reserved")]
    Reserved,
    /// Too little room for records or tables: see [`Needs`].
    #[error("too little room for the records or the tables")]
    TooSmall,
}

/// Why a host call failed, and how far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallFailure {
    /// x0.
    pub error: CallError,
    /// x1: what the call documents beside the error, else 0.
    pub value: u64,
}

impl CallFailure {
    /// [`CallError::Again`] after `pages` pages.
    pub(crate) const fn again(pages: u64) -> Self {
        Self { error: CallError::Again, value: pages }
    }

    /// [`CallError::NoMemory`]: the pool is short of `pages` pages.
    pub(crate) const fn no_memory(pages: u64) -> Self {
        Self { error: CallError::NoMemory, value: pages }
    }
}

impl From<CallError> for CallFailure {
    fn from(error: CallError) -> Self {
        Self { error, value: 0 }
    }
}

/// What kind of access of the host's faulted at stage 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostAccess {
    /// A load, a cache maintenance operation, or a stage-1 walk.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// What to do about a stage-2 fault of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostAbort {
    /// The host may reach it, now at least: run the instruction again.
    Retry,
    /// It may not: the host takes an abort.
    Inject,
}

/// The ownership core of one machine.
///
/// Locks, in the order in which they are taken: one VM's slot, then the host's memory. No CPU holds two
/// places at a time, and none is held while a guest or the host runs.
#[derive(Debug)]
pub struct Hypervisor<'m, M: Machine> {
    pub(crate) machine: M,
    pub(crate) host: Lock<HostMemory<'m, M::Geometry>>,
    pub(crate) slots: [Lock<VmSlot>; MAX_VMS],
    /// Of the vCPUs of each place.
    pub(crate) ownerships: [[VcpuOwnership; MAX_VCPUS]; MAX_VMS],
    pub(crate) expected: Option<Digest>,
    host_stage2_id: Stage2Id,
    cpus: usize,
    /// Aborts that were injected into the host.
    host_aborts: AtomicU64,
}

impl<'m, M: Machine> Hypervisor<'m, M> {
    /// How much memory a machine with this RAM and these denied devices takes.
    pub fn needs(ram: &[PageRange<Pfn>], denied_devices: &[PageRange<Pfn>]) -> Needs {
        host_memory::needs::<M::Geometry>(ram, denied_devices)
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

    /// The machine below.
    pub const fn machine(&self) -> &M {
        &self.machine
    }

    /// What VTTBR_EL2 holds while the host runs.
    pub const fn host_stage2_id(&self) -> Stage2Id {
        self.host_stage2_id
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

    /// Takes a vCPU for `cpu`, to be entered there.
    ///
    /// # Errors
    ///
    /// [`CallError::NotFound`] for a handle that names nothing and an index without vCPU,
    /// [`CallError::Busy`] for a vCPU that is loaded or a VM that is dying, [`CallError::Denied`] for
    /// one that has not started, has stopped, or is powered off.
    pub fn vcpu_load(
        &self,
        cpu: CpuIndex,
        vm: VmHandle,
        vcpu: VcpuIndex,
    ) -> Result<LoadedVcpu<'_, 'm, M>, CallError> {
        if cpu.0 >= self.cpus {
            return Err(CallError::InvalidParameter);
        }
        LoadedVcpu::ownership(self, cpu, vm, vcpu)
    }

    /// The ownership of a vCPU of the VM at `slot`.
    pub(crate) fn ownership(&self, slot: usize, vcpu: VcpuIndex) -> Option<&VcpuOwnership> {
        self.ownerships.get(slot)?.get(usize::try_from(vcpu.0).ok()?)
    }

    /// The ownership of the vCPUs of a VM, also while their registers have been taken from them.
    pub(crate) fn ownerships_of(&self, vm: &Vm) -> impl Iterator<Item = &VcpuOwnership> {
        let vcpus = usize::try_from(vm.report.vcpus).unwrap_or(MAX_VCPUS);
        self.ownerships.get(usize::from(vm.index.0)).into_iter().flatten().take(vcpus)
    }

    /// Has each vCPU of a VM be looked at again before it is entered again.
    pub(crate) fn revoke(&self, vm: &Vm) {
        self.ownerships_of(vm).for_each(VcpuOwnership::revoke);
    }

    /// The report of a VM, with what its vCPUs have counted.
    pub(crate) fn report(&self, vm: &Vm) -> VmReport {
        let mut report = vm.report;
        for [hypercalls, exits] in self.ownerships_of(vm).map(VcpuOwnership::counts) {
            report.hypercalls = report.hypercalls.wrapping_add(hypercalls);
            report.exits = report.exits.wrapping_add(exits);
        }
        report
    }

    /// Works on a VM and its objects, under its lock.
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

    /// Works on an object and its VM, which is not being torn down, under the VM's lock.
    pub(crate) fn with_object<R>(
        &self,
        handle: ObjectHandle,
        f: impl FnOnce(&mut Vm, ObjectIndex, &mut ObjectSlot) -> Result<R, CallFailure>,
    ) -> Result<R, CallFailure> {
        let (slot, index, generation) = vm::object_slot(handle);
        let slot = self.slots.get(slot).ok_or(CallError::NotFound)?;
        let mut slot = slot.lock(&self.machine);
        let slot = &mut *slot;
        let object = slot
            .objects
            .get_mut(usize::from(index.0))
            .filter(|object| object.generation == generation || seeded!(StaleObject))
            .filter(|object| object.object.is_some())
            .ok_or(CallError::NotFound)?;
        let vm = slot.vm.as_mut().ok_or(CallError::NotFound)?;
        seeded!(vm.is_alive()?, DyingVm => ());
        f(vm, index, object)
    }
}
