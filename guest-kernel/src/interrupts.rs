//! Interrupts: a GICv3, the virtual timer's PPI and the SPIs of virtio-mmio devices.
//!
//! A handler quiets the device and returns. What woke up is for the code to find out that waits in
//! [`time::wait_until`](crate::time::wait_until).

use core::fmt;
use core::ptr::{self, NonNull};

use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicCpuInterface, GicV3};
use arm_gic::{IntId, InterruptGroup, Trigger};
use bare_rt::el1::cpu;
use bare_rt::el1::lock::IrqLock;
use heapless::Vec;
use safe_mmio::UniqueMmioPointer;
use safe_mmio::fields::ReadWrite;

use crate::machine::{Gic, VirtioSlot};
use crate::time;

/// The CPU that runs all of this, as the redistributors count.
const BOOT_CPU: usize = 0;
/// Lower than any interrupt's: all are let through.
const LOWEST_PRIORITY: u8 = 0xff;
const DEVICE_PRIORITY: u8 = 0x80;
/// InterruptStatus and InterruptACK of virtio-mmio (virtio 1.3, 4.2.2).
const VIRTIO_INTERRUPT_STATUS: u64 = 0x60;
const VIRTIO_INTERRUPT_ACK: u64 = 0x64;

/// Whose interrupt an INTID is.
#[derive(Clone, Copy, Debug)]
struct Source {
    intid: IntId,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Timer,
    /// A virtio-mmio device with its registers at this address.
    Virtio(u64),
}

static SOURCES: IrqLock<Vec<Source, 33>> = IrqLock::new(Vec::new());

/// The interrupt controller could not be brought up, or an interrupt not enabled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Error;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the GICv3 does not behave like one")
    }
}

impl core::error::Error for Error {}

/// The interrupt controller.
pub(crate) struct Interrupts(GicV3<'static>);

impl Interrupts {
    /// Brings up distributor, redistributor and CPU interface. Nothing is enabled yet.
    ///
    /// # Safety
    ///
    /// Called once. The ranges of `gic` are mapped as a device and used by nothing else.
    pub(crate) unsafe fn new(gic: &Gic) -> Result<Self, Error> {
        let distributor = NonNull::new(ptr::with_exposed_provenance_mut::<Gicd>(gic.distributor as usize));
        let redistributor =
            NonNull::new(ptr::with_exposed_provenance_mut::<GicrSgi>(gic.redistributor as usize));
        let (distributor, redistributor) = distributor.zip(redistributor).ok_or(Error)?;
        // SAFETY: the caller calls this once, with the distributor mapped as a device and used by nothing
        // else.
        let distributor = unsafe { UniqueMmioPointer::new(distributor) };
        // SAFETY: the caller calls this once, with the redistributor mapped as a device and used by nothing
        // else. The driver gets one CPU, so that it uses the first redistributor alone.
        let mut gic = unsafe { GicV3::new(distributor, redistributor, BOOT_CPU + 1) }.map_err(|_| Error)?;
        gic.setup(BOOT_CPU);
        GicCpuInterface::set_priority_mask(LOWEST_PRIORITY);
        Ok(Self(gic))
    }

    /// Lets the virtual timer interrupt.
    pub(crate) fn enable_timer(&mut self, intid: u32) -> Result<(), Error> {
        self.enable(intid, Kind::Timer, Trigger::Level)
    }

    /// Lets a virtio-mmio device interrupt. Its registers are mapped.
    pub(crate) fn enable_virtio(&mut self, slot: &VirtioSlot) -> Result<(), Error> {
        let trigger = if slot.interrupt.edge { Trigger::Edge } else { Trigger::Level };
        let kind = Kind::Virtio(slot.registers.start);
        self.enable(slot.interrupt.intid, kind, trigger)
    }

    fn enable(&mut self, intid: u32, kind: Kind, trigger: Trigger) -> Result<(), Error> {
        let intid = if intid < 32 { IntId::ppi(intid - 16) } else { IntId::spi(intid - 32) };
        SOURCES.lock().push(Source { intid, kind }).map_err(|_| Error)?;
        let cpu = Some(BOOT_CPU);
        let gic = &mut self.0;
        gic.set_interrupt_priority(intid, cpu, DEVICE_PRIORITY).map_err(|_| Error)?;
        if !intid.is_private() {
            gic.set_trigger(intid, cpu, trigger).map_err(|_| Error)?;
            gic.distributor().set_routing(intid, Some(cpu::mpidr())).map_err(|_| Error)?;
        }
        gic.enable_interrupt(intid, cpu, true).map_err(|_| Error)
    }
}

/// Takes one pending interrupt. An INTID that nobody enabled is ended and forgotten.
pub(crate) fn handle() {
    GicCpuInterface::handle_interrupt(InterruptGroup::Group1, |intid| {
        let sources = SOURCES.lock();
        for source in sources.iter().filter(|source| source.intid == intid) {
            match source.kind {
                Kind::Timer => time::interrupt(),
                Kind::Virtio(registers) => acknowledge(registers),
            }
        }
    });
}

/// Tells a virtio-mmio device that its interrupt was seen.
fn acknowledge(registers: u64) {
    let register = |offset| {
        let address = (registers + offset) as usize;
        let register = NonNull::new(ptr::with_exposed_provenance_mut::<ReadWrite<u32>>(address))
            .expect("a device is not at address 0");
        // SAFETY: `enable_virtio` was called for registers that are mapped as a device. The transport
        // accesses these two on a driver's request only, and no driver here makes it.
        unsafe { UniqueMmioPointer::new(register) }
    };
    let pending = register(VIRTIO_INTERRUPT_STATUS).read();
    register(VIRTIO_INTERRUPT_ACK).write(pending);
}
