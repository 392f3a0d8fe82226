//! A guest of the tests: its VM, and its turns.

use bootimg::Kind;
use host::config::HostConfig;
use host::hypervisor::HostCalls as _;
use host::layout::{GuestConfig, GuestLayout};
use host::machine::UART_BASE;
use host::platform::{Platform, Resources};
use host::vmm::{End, Next, Vmm, VmmConfig};
use shared_abi::addr::Ipa;
use shared_abi::host_call::VcpuIndex;
use shared_abi::record::Record;
use shared_abi::vcpu::{Exit, ExitRecord};

use super::console::Lines;
use crate::bare::block::Disk;
use crate::bare::boot_image::BootImage;
use crate::bare::guest::Error;
use crate::bare::hypercall::El2;
use crate::bare::memory::MachineFrames;
use crate::bare::tolerant::TolerantMemory;
use crate::bare::{console, interrupts, timer};

/// The one vCPU of a guest.
const VCPU: VcpuIndex = VcpuIndex(0);
/// UARTFR of the guest's PL011 (Arm DDI 0183, 3.3.3): the payload reads it to end its turn, and for nothing
/// else.
const TURN_ENDS: Ipa = Ipa(UART_BASE.0 + 0x18);

/// The bare-metal machine, with a console that two guests share.
pub(super) struct Shared;

impl Platform for Shared {
    type Hypervisor = El2;
    type Memory = TolerantMemory;
    type Frames = MachineFrames;
    type Disk = Disk;
    type Console = Lines;
}

/// A guest.
pub(super) struct Party {
    vmm: Vmm<Shared>,
    /// Turns so far.
    pub(super) turns: u64,
    end: Option<End>,
}

impl Party {
    /// Makes a VM of the image's payload with these boot arguments.
    ///
    /// # Errors
    ///
    /// The payload, or the VM can't be made.
    pub(super) fn launch(image: &BootImage, config: &HostConfig, bootargs: &str) -> Result<Self, Error> {
        let payload = image.content(Kind::Payload);
        let layout = GuestLayout::new(&GuestConfig {
            vcpus: 1,
            memory_bytes: config.memory_bytes,
            devices: &[],
            bootargs,
            payload: payload.ok_or(Error::NoPart(Kind::Payload))?,
            initrd: image.content(Kind::Initrd).unwrap_or_default(),
        })?;
        let resources = Resources { hypervisor: El2::Plain, memory: TolerantMemory, frames: MachineFrames };
        let settings = VmmConfig {
            layout: &layout,
            protected: config.protected,
            attack: false,
            disk: None,
            console: Lines::default(),
        };
        let (vmm, _) = Vmm::new(resources, settings)?;
        console::record(&Record::Vm {
            object_bytes: vmm.vm().object_bytes(),
            pages_donated: vmm.vm().pages_donated(),
            vcpus: 1,
        });
        Ok(Self { vmm, turns: 0, end: None })
    }

    /// Runs it on this CPU to the end of its turn. Returns false if the guest has ended.
    ///
    /// A guest that waits is entered again at once: WFI may end at any time.
    pub(super) fn turn(&mut self) -> bool {
        self.turns += 1;
        loop {
            if let Next::End(end) = self.vmm.poll(VCPU, timer::now) {
                self.end = Some(end);
                return false;
            }
            let (entry, timer_active) = self.vmm.entry(VCPU);
            interrupts::set_virtual_timer_active(timer_active);
            let exit = El2::Plain.vcpu_run(self.vmm.vm_handle(), VCPU, &entry);
            interrupts::drain();
            let over =
                matches!(&exit, Ok(ExitRecord { exit: Exit::MmioRead { ipa, .. }, .. }) if *ipa == TURN_ENDS);
            self.vmm.handle(VCPU, exit);
            if over {
                return true;
            }
        }
    }

    /// Exits that the VMM handled.
    pub(super) const fn exits(&self) -> u64 {
        self.vmm.cost().exits
    }

    /// Reports its end and takes everything back.
    ///
    /// # Errors
    ///
    /// The VM can't be ended.
    pub(super) fn destroy(self) -> Result<(), Error> {
        let cost = self.vmm.cost();
        let end = self.end.unwrap_or(End::AllCpusOff);
        console::record(&Record::GuestEnd {
            reason: end.into(),
            pages_donated: self.vmm.vm().pages_donated(),
            exits: cost.exits,
            copied_bytes: cost.copied_bytes,
            requests: cost.requests,
        });
        let teardown = self.vmm.destroy()?;
        console::record(&Record::Teardown {
            pages_returned: teardown.pages_returned,
            pages_nonzero: teardown.pages_nonzero,
        });
        match end {
            End::Failed(error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}
