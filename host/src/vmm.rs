//! What to do about each exit of a vCPU.
//!
//! A front end keeps one [`Vmm`] behind one lock. For each vCPU, on any CPU, it runs this loop. The lock is free
//! while the vCPU runs and while it waits for an interrupt. [`Vmm::handle`] of a block request holds the lock
//! until the disk is done, so the lock's waiters must sleep, and must still take the disk's interrupt:
//!
//! ```ignore
//! match vmm.lock().poll(vcpu, now) {
//!     Next::Enter => {
//!         let (entry, timer) = vmm.lock().entry(vcpu);
//!         set_physical_timer_interrupt_active(timer);
//!         let exit = hypervisor.vcpu_run(vm, vcpu, &entry);
//!         let outcome = vmm.lock().handle(vcpu, exit);
//!         kick(outcome.kick);
//!     }
//!     Next::Wait { deadline } => sleep_until_kicked_or(deadline),
//!     Next::Off => sleep_until_kicked(),
//!     Next::End(end) => break,
//! }
//! ```
//!
//! Each [`Vmm::entry`] is followed by one [`Vmm::handle`] of the same vCPU.

use alloc::vec::Vec;
use core::fmt;

use shared_abi::addr::Gfn;
use shared_abi::host_call::{VcpuIndex, VmHandle};
use shared_abi::record;
use shared_abi::vcpu::{Entry, Exit, ExitRecord, Resume, StopReason};

use crate::attack::private_page;
use crate::bits;
use crate::hypervisor::{Launch, Refusal};
use crate::layout::GuestLayout;
use crate::machine::MAX_VCPUS;
use crate::pl011::Pl011;
use crate::platform::{Platform, Resources};
use crate::vgic::Vgic;
use crate::virtio::queue::QueueError;
use crate::vm::{GuestVm, Teardown, VmError};

mod devices;
#[cfg(test)]
mod tests;

use devices::VirtioDevice;

/// What the front end does with a vCPU next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Take [`Vmm::entry`] and enter it.
    Enter,
    /// It waits for an interrupt: poll it again when it is kicked, or at the deadline.
    Wait {
        /// A value of CNTVCT_EL0, if its timer is armed.
        deadline: Option<u64>,
    },
    /// It is off: poll it again when it is kicked.
    Off,
    /// The VM has ended; no vCPU of it is entered again.
    End(End),
}

/// How a VM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// PSCI SYSTEM_OFF.
    Off,
    /// PSCI SYSTEM_RESET.
    Reset,
    /// All its vCPUs turned themselves off.
    AllCpusOff,
    /// The hypervisor stopped it.
    Stopped(StopReason),
    /// The VMM could not go on.
    Failed(VmError),
}

impl From<End> for record::GuestEnd {
    fn from(end: End) -> Self {
        match end {
            End::Off => Self::Off,
            End::Reset => Self::Reset,
            End::AllCpusOff | End::Stopped(_) | End::Failed(_) => Self::Stopped,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest asked for a reset"),
            Self::AllCpusOff => f.write_str("all vCPUs of the guest are off"),
            Self::Stopped(StopReason::Poisoned(gfn)) => {
                write!(f, "the guest touched the reclaimed page {:#x}", gfn.0)
            }
            Self::Stopped(StopReason::Exception(class)) => {
                write!(f, "the guest took an exception of class {class:#x} to EL2")
            }
            Self::Failed(error) => write!(f, "the VMM can't go on: {error}"),
        }
    }
}

/// Some vCPUs of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuSet(u32);

impl VcpuSet {
    /// Whether a vCPU is among them.
    #[must_use]
    pub const fn contains(self, vcpu: VcpuIndex) -> bool {
        self.0 & (1 << vcpu.0) != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// They, in order.
    pub fn iter(self) -> impl Iterator<Item = VcpuIndex> {
        bits::places(self.0.into()).map(VcpuIndex)
    }

    fn insert(&mut self, vcpu: VcpuIndex) {
        self.0 |= 1 << vcpu.0;
    }
}

/// Something that happened besides, which the front end may want to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The host has attacked a private page.
    Attack(private_page::AttackOutcome),
    /// A driver broke its virtqueue; its device waits for a reset.
    BrokenQueue(QueueError),
}

/// What came of an exit, beside what [`Vmm::poll`] says of the vCPU from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitOutcome {
    /// Other vCPUs that have a reason to be polled now: those that run are to exit, those that wait or
    /// are off are to be woken.
    pub kick: VcpuSet,
    /// What happened besides.
    pub notice: Option<Notice>,
}

/// What a VM has cost the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Exits that the VMM handled.
    pub exits: u64,
    /// Bytes copied between shared memory and the VMM's own.
    pub copied_bytes: u64,
    /// Block requests served.
    pub requests: u64,
}

/// Whether a vCPU can be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VcpuState {
    Off,
    Ready,
    Waiting { deadline: Option<u64> },
}

#[derive(Debug)]
struct Vcpu {
    run: VcpuState,
    /// The end of the access that its last exit was about.
    resume: Resume,
}

/// What a VM is made from, beside what its memory and devices follow from.
pub struct VmmConfig<'a, P: Platform> {
    /// What the guest finds.
    pub layout: &'a GuestLayout<'a>,
    /// Whether its memory is private by default.
    pub protected: bool,
    /// Whether the host attacks a private page at the first block request.
    pub attack: bool,
    /// Its disk; a block device without one reads as an empty slot.
    pub disk: Option<P::Disk>,
    /// Where its virtio console and its PL011 print.
    pub console: P::Console,
}

/// A running VM and its devices.
pub struct Vmm<P: Platform> {
    resources: Resources<P>,
    console: P::Console,
    vm: GuestVm,
    /// A layout has no more than fit.
    vcpus: heapless::Vec<Vcpu, { MAX_VCPUS as usize }>,
    gic: Vgic,
    uart: Pl011,
    virtio: Vec<VirtioDevice<P>>,
    /// The page to attack at the first block request.
    attack: Option<Gfn>,
    /// vCPUs that the exit at hand started.
    started: VcpuSet,
    notice: Option<Notice>,
    cost: Cost,
    end: Option<End>,
}

impl<P: Platform> Vmm<P> {
    /// Launches a VM; vCPU 0 can be entered.
    ///
    /// # Errors
    ///
    /// [`VmError`] if it can't be made.
    pub fn new(mut resources: Resources<P>, config: VmmConfig<'_, P>) -> Result<(Self, Launch), VmError> {
        let layout = config.layout;
        let (vm, launch) = GuestVm::launch(&mut resources, layout, config.protected)?;
        let vcpu = |index| Vcpu {
            run: if index == 0 { VcpuState::Ready } else { VcpuState::Off },
            resume: Resume::Continue,
        };
        let vmm = Self {
            virtio: devices::virtio(&layout.devices, config.disk),
            resources,
            console: config.console,
            vm,
            vcpus: (0..layout.vcpus).map(vcpu).collect(),
            gic: Vgic::new(layout.vcpus),
            uart: Pl011::new(),
            attack: config.attack.then_some(layout.entry.page()),
            started: VcpuSet::default(),
            notice: None,
            cost: Cost::default(),
            end: None,
        };
        Ok((vmm, launch))
    }

    /// The VM's handle, for [`crate::hypervisor::HostCalls::vcpu_run`].
    #[must_use]
    pub const fn vm_handle(&self) -> VmHandle {
        self.vm.handle()
    }

    /// The VM.
    #[must_use]
    pub const fn vm(&self) -> &GuestVm {
        &self.vm
    }

    /// What it has cost.
    #[must_use]
    pub const fn cost(&self) -> Cost {
        self.cost
    }

    /// What to do with a vCPU now. `now` reads CNTVCT_EL0, if that matters.
    pub fn poll(&mut self, vcpu: VcpuIndex, now: impl Fn() -> u64) -> Next {
        if let Some(end) = self.end {
            return Next::End(end);
        }
        let Some(state) = self.vcpus.get_mut(vcpu.0 as usize) else {
            return Next::Off;
        };
        match state.run {
            VcpuState::Off => Next::Off,
            VcpuState::Ready => Next::Enter,
            VcpuState::Waiting { deadline } => {
                if deadline.is_some_and(|deadline| deadline <= now()) {
                    self.gic.expire_timer(vcpu);
                } else if !self.gic.has_pending(vcpu) {
                    return Next::Wait { deadline };
                }
                state.run = VcpuState::Ready;
                Next::Enter
            }
        }
    }

    /// What to enter a vCPU with, and whether the physical interrupt of the virtual timer (PPI 27) is to
    /// be active meanwhile on the CPU that enters it, as GICR_ISACTIVER0 and GICR_ICACTIVER0 set it.
    #[inline(always)] // what goes into registers at once is not to go through memory before
    pub fn entry(&mut self, vcpu: VcpuIndex) -> (Entry, bool) {
        let resume = self
            .vcpus
            .get_mut(vcpu.0 as usize)
            .map_or(Resume::Continue, |state| core::mem::replace(&mut state.resume, Resume::Continue));
        let (list_registers, timer_active) = self.gic.enter(vcpu);
        (Entry { resume, list_registers }, timer_active)
    }

    /// Handles an exit, or the hypervisor's refusal to enter.
    pub fn handle(&mut self, vcpu: VcpuIndex, exit: Result<ExitRecord, Refusal>) -> ExitOutcome {
        match exit {
            Ok(ExitRecord { exit, list_registers, timer_fired }) => {
                self.cost.exits += 1;
                self.gic.fold(vcpu, &list_registers, timer_fired);
                if let Err(error) = self.dispatch(vcpu, exit) {
                    self.stop(End::Failed(error));
                }
            }
            Err(refusal) => self.stop(End::Failed(refusal.into())),
        }
        ExitOutcome { kick: self.others_to_kick(vcpu), notice: self.notice.take() }
    }

    /// Ends the VM, however it stands, and looks at all that comes back.
    ///
    /// # Errors
    ///
    /// [`VmError`] if the hypervisor does not end it.
    pub fn destroy(self) -> Result<Teardown, VmError> {
        let mut resources = self.resources;
        self.vm.destroy(&mut resources)
    }

    fn dispatch(&mut self, vcpu: VcpuIndex, exit: Exit) -> Result<(), VmError> {
        match exit {
            Exit::Interrupted => {}
            Exit::Wfi { deadline } => {
                if !self.gic.has_pending(vcpu) {
                    self.set_run(vcpu, VcpuState::Waiting { deadline });
                }
            }
            Exit::MmioRead { ipa, size } => {
                let value = self.mmio_read(ipa, size);
                self.set_resume(vcpu, value.map_or(Resume::Abort, Resume::MmioRead));
            }
            Exit::MmioWrite { ipa, size, value } => {
                let done = self.mmio_write(ipa, size, value);
                self.set_resume(vcpu, done.map_or(Resume::Abort, |()| Resume::MmioWritten));
            }
            Exit::MemoryFault { gfn } => self.vm.populate(&mut self.resources, gfn)?,
            Exit::Relinquished { gfn } => self.vm.relinquished(&mut self.resources, gfn),
            Exit::NeedPages { pages } => self.vm.top_up(&mut self.resources, pages)?,
            Exit::Sgi { sgi1r } => self.gic.send_sgi(vcpu, sgi1r),
            Exit::CpuOn { vcpu: target } => {
                if (target.0 as usize) < self.vcpus.len() {
                    self.set_run(target, VcpuState::Ready);
                    self.started.insert(target);
                }
            }
            Exit::CpuOff => {
                self.set_run(vcpu, VcpuState::Off);
                if self.vcpus.iter().all(|state| state.run == VcpuState::Off) {
                    self.stop(End::AllCpusOff);
                }
            }
            Exit::SystemOff => self.stop(End::Off),
            Exit::SystemReset => self.stop(End::Reset),
            Exit::Stopped(reason) => self.stop(End::Stopped(reason)),
        }
        Ok(())
    }

    /// The first end counts: what vCPUs do afterwards follows from it.
    fn stop(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    fn set_run(&mut self, vcpu: VcpuIndex, run: VcpuState) {
        if let Some(state) = self.vcpus.get_mut(vcpu.0 as usize) {
            state.run = run;
        }
    }

    fn set_resume(&mut self, vcpu: VcpuIndex, resume: Resume) {
        if let Some(state) = self.vcpus.get_mut(vcpu.0 as usize) {
            state.resume = resume;
        }
    }

    /// All of them when the VM has ended; otherwise those that were just started, and those that an
    /// interrupt waits for.
    fn others_to_kick(&mut self, current: VcpuIndex) -> VcpuSet {
        let mut kick = core::mem::take(&mut self.started);
        for other in (0..self.vcpus.len() as u32).map(VcpuIndex).filter(|other| *other != current) {
            let off = self.vcpus.get(other.0 as usize).is_none_or(|state| state.run == VcpuState::Off);
            if self.end.is_some() || (!off && self.gic.has_pending(other)) {
                kick.insert(other);
            }
        }
        kick
    }
}
