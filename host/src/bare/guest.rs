//! The guest that the boot image holds, from its configuration to the last page that comes back.

use core::fmt;

use bootimg::Kind;
use host::config::{ConfigError, Disk as DiskMode, GuestKind, HostConfig};
use host::layout::{GuestConfig, GuestLayout, LayoutError};
use host::platform::{Platform, Resources};
use host::vm::VmError;
use host::vmm::{End, Vmm, VmmConfig};
use shared_abi::record::Record;

use super::bench::Bench;
use super::block::Disk;
use super::boot_image::BootImage;
use super::console;
use super::console_port::ConsolePort;
use super::devices::Devices;
use super::hypercall::El2;
use super::memory::MachineFrames;
use super::scheduler;
use super::tolerant::TolerantMemory;

/// The bare-metal front end of the VMM library.
pub(crate) struct BareMetal;

impl Platform for BareMetal {
    type Hypervisor = El2;
    type Memory = TolerantMemory;
    type Frames = MachineFrames;
    type Disk = Disk;
    type Console = ConsolePort;
}

/// Why the guest does not run, or not to an end of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Error {
    /// The image has no such part.
    NoPart(Kind),
    /// The host's arguments.
    Config(ConfigError),
    /// The machine lacks a device that the arguments ask for.
    NoDevice(&'static str),
    /// The guest's memory.
    Layout(LayoutError),
    /// The VM can't be made or ended.
    Vm(VmError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPart(kind) => write!(f, "the boot image has no {kind}"),
            Self::Config(error) => error.fmt(f),
            Self::NoDevice(what) => write!(f, "the machine has no virtio {what} on PCIe"),
            Self::Layout(error) => error.fmt(f),
            Self::Vm(error) => error.fmt(f),
        }
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<LayoutError> for Error {
    fn from(error: LayoutError) -> Self {
        Self::Layout(error)
    }
}

impl From<VmError> for Error {
    fn from(error: VmError) -> Self {
        Self::Vm(error)
    }
}

/// Makes the VM, runs it to its end on all CPUs, and takes everything back.
///
/// # Errors
///
/// As [`Error`] says.
pub(crate) fn run(image: &BootImage, devices: Devices) -> Result<(), Error> {
    let config: HostConfig = image.text(Kind::HostArgs).parse()?;
    let (bench, hypervisor) = match config.kind {
        GuestKind::Bench => (Some(Bench::new()?), El2::Timed),
        GuestKind::Demo | GuestKind::Foreign => (None, El2::Plain),
    };
    let vmm = launch(image, &config, devices, hypervisor)?;
    console::record(&Record::Vm {
        object_bytes: vmm.vm().object_bytes(),
        pages_donated: vmm.vm().pages_donated(),
        vcpus: config.vcpus.into(),
    });

    let (vmm, end) = scheduler::run(vmm, config.vcpus, hypervisor);
    if let Some(bench) = bench {
        bench.report();
    }
    let cost = vmm.cost();
    console::record(&Record::GuestEnd {
        reason: end.into(),
        pages_donated: vmm.vm().pages_donated(),
        exits: cost.exits,
        copied_bytes: cost.copied_bytes,
        requests: cost.requests,
    });
    console::line(format_args!("{end}"));

    let teardown = vmm.destroy()?;
    console::record(&Record::Teardown {
        pages_returned: teardown.pages_returned,
        pages_nonzero: teardown.pages_nonzero,
    });
    match end {
        End::Failed(error) => Err(error.into()),
        _ => Ok(()),
    }
}

fn launch(
    image: &BootImage,
    config: &HostConfig,
    devices: Devices,
    hypervisor: El2,
) -> Result<Vmm<BareMetal>, Error> {
    let payload = image.content(Kind::Payload);
    let virtio: heapless::Vec<_, { host::machine::MAX_VIRTIO }> = config.virtio_devices().collect();
    let layout = GuestLayout::new(&GuestConfig {
        vcpus: config.vcpus,
        memory_bytes: config.memory_bytes,
        devices: &virtio,
        bootargs: image.text(Kind::GuestArgs),
        payload: payload.ok_or(Error::NoPart(Kind::Payload))?,
        initrd: image.content(Kind::Initrd).unwrap_or_default(),
    })?;
    let disk = match config.disk {
        DiskMode::None => None,
        mode => {
            let mut disk = devices.disk.ok_or(Error::NoDevice("disk"))?;
            if mode == DiskMode::ReadOnly {
                disk.forbid_writes();
            }
            Some(disk)
        }
    };
    let resources = Resources { hypervisor, memory: TolerantMemory, frames: MachineFrames };
    let settings = VmmConfig {
        layout: &layout,
        protected: config.protected,
        attack: config.attack,
        disk,
        console: devices.console.ok_or(Error::NoDevice("console"))?,
    };
    let (vmm, launch) = Vmm::new(resources, settings)?;
    console::line(format_args!(
        "the VM starts, {} as {}",
        if launch.measured { "measured" } else { "not measured" },
        launch.measurement
    ));
    Ok(vmm)
}
