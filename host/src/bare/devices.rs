//! The machine's virtio devices: one queue, one request at a time, and sleep until it is done.

use core::sync::atomic::{AtomicU64, Ordering};

use bare_rt::el1::cpu;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::{DeviceType, Transport};
use virtio_guard::{AccessPlatform, GuardedTransport};

use super::block::Disk;
use super::console_port::ConsolePort;
use super::dma::Dma;
use super::pcie::{self, Found};
use super::platform::Platform;
use super::{cpus, interrupts, power};

/// The host's transport. With VIRTIO_F_ACCESS_PLATFORM QEMU sends the device's accesses through the SMMU. Nobody
/// programs the SMMU yet, so it confines no device.
pub(crate) type HostTransport = GuardedTransport<PciTransport>;

/// Devices that the host drives: a disk, a console.
const MAX_LINES: usize = 4;

/// INTID (upper half) and address of the ISR status register (lower half) of each device; 0 is none.
/// INTx lines and BARs of the 32-bit window fit.
static LINES: [AtomicU64; MAX_LINES] = [const { AtomicU64::new(0) }; MAX_LINES];
/// The CPUs that wait for a device, one bit each.
static WAITING: AtomicU64 = AtomicU64::new(0);

/// The devices that were found.
pub(crate) struct Devices {
    /// The first disk.
    pub(crate) disk: Option<Disk>,
    /// The first console.
    pub(crate) console: Option<ConsolePort>,
}

/// Finds and starts the machine's devices. One that can't be used is the end of the host: it was
/// given for a purpose.
pub(crate) fn start(platform: &Platform) -> Devices {
    let mut devices = Devices { disk: None, console: None };
    let Some(pci) = &platform.pci else {
        return devices;
    };
    // SAFETY: this is the one call; `boot` mapped what the device tree says of the root complex.
    let found =
        unsafe { pcie::enumerate(pci) }.unwrap_or_else(|error| power::refuse(format_args!("{error}")));
    for (line, device) in LINES.iter().zip(found) {
        let Found { transport, intid, isr } = device;
        line.store(u64::from(intid) << 32 | isr, Ordering::Release);
        if let Err(error) = interrupts::enable_device(intid) {
            power::refuse(format_args!("{error}"));
        }
        let kind = transport.device_type();
        let transport = GuardedTransport::new(transport, AccessPlatform::Required)
            .unwrap_or_else(|error| power::refuse(format_args!("{kind:?}: {error}")));
        let result = match kind {
            DeviceType::Block if devices.disk.is_none() => {
                Disk::new(transport).map(|disk| devices.disk = Some(disk))
            }
            DeviceType::Console if devices.console.is_none() => {
                ConsolePort::new(transport).map(|console| devices.console = Some(console))
            }
            _ => Ok(()),
        };
        if let Err(error) = result {
            power::refuse(format_args!("{kind:?}: {error}"));
        }
    }
    devices
}

/// Takes back the interrupt of every device on a line, and wakes whoever waits for one.
pub(crate) fn acknowledge(intid: u32) {
    for line in &LINES {
        let line = line.load(Ordering::Acquire);
        if line >> 32 == u64::from(intid) {
            let isr = core::ptr::with_exposed_provenance::<u8>((line & 0xffff_ffff) as usize);
            // SAFETY: `start` stored the address of a mapped device register. Reading it has no effect
            // but to take the interrupt back; the driver never reads it itself.
            unsafe { isr.read_volatile() };
        }
    }
    let waiting = WAITING.load(Ordering::SeqCst);
    for number in 0..cpus::present() {
        if waiting & 1 << number != 0 && number != cpus::current() {
            interrupts::kick(number);
        }
    }
}

/// Sleeps until `done`, which a device's interrupt makes true.
fn wait_until(mut done: impl FnMut() -> bool) {
    let this = 1 << cpus::current();
    WAITING.fetch_or(this, Ordering::SeqCst);
    while !done() {
        // Interrupts are masked: one that comes after `done` looked ends the wait at once.
        cpu::wfi();
        interrupts::drain();
    }
    WAITING.fetch_and(!this, Ordering::SeqCst);
}

/// Makes one request on a queue and sleeps until the device is done; how many bytes it wrote.
///
/// # Errors
///
/// The queue's, or the device answered a request that was not made.
pub(crate) fn request<'a, const SIZE: usize>(
    queue: &mut VirtQueue<Dma, SIZE>,
    transport: &mut HostTransport,
    number: u16,
    inputs: &'a [&'a [u8]],
    outputs: &'a mut [&'a mut [u8]],
) -> virtio_drivers::Result<u32> {
    // SAFETY: `inputs` and `outputs` are borrowed until this function returns. It returns only after the device
    // has used its one request, so the device, which QEMU implements, accesses no buffer later. Nothing confines a
    // device that does: nobody programs the SMMU.
    let token = unsafe { queue.add(inputs, outputs)? };
    if queue.should_notify() {
        transport.notify(number);
    }
    wait_until(|| queue.can_pop());
    // SAFETY: `inputs` and `outputs` are the buffers that `add` above gave `token` for.
    unsafe { queue.pop_used(token, inputs, outputs) }
}
