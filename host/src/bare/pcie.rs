//! Finding the virtio devices on the PCIe root bus, and giving them addresses.

use alloc::vec::Vec;

use virtio_drivers::transport::pci::bus::{
    BarInfo, Cam, Command, ConfigurationAccess, DeviceFunction, MemoryBarType, MmioCam, PCI_CAP_ID_VNDR,
    PciRoot,
};
use virtio_drivers::transport::pci::{
    PciTransport, VIRTIO_PCI_CAP_ISR_CFG, VirtioPciError, virtio_device_type,
};

use super::dma::Dma;
use super::platform::PciHost;

/// The root bus. Devices behind bridges are not looked for.
const ROOT_BUS: u8 = 0;
/// The configuration register whose second byte is the interrupt pin (PCI 3.0, 6.2.4).
const INTERRUPT_LINE: u8 = 0x3c;
/// Offsets in a virtio capability (virtio 1.3, 4.1.4).
const CAPABILITY_BAR: u8 = 4;
const CAPABILITY_OFFSET: u8 = 8;

/// A virtio device, ready to be negotiated with.
pub(crate) struct Found {
    /// Its registers.
    pub(crate) transport: PciTransport,
    /// INTID of its INTx line.
    pub(crate) intid: u32,
    /// Address of its ISR status register, a byte: reading it takes the interrupt back
    /// (virtio 1.3, 4.1.4.5).
    pub(crate) isr: u64,
}

/// Why a device can't be used.
#[derive(Clone, Debug)]
pub(crate) enum Error {
    /// Its BARs make no sense.
    Bars,
    /// The window is full.
    NoRoom,
    /// Its interrupt pin leads nowhere.
    NoInterrupt,
    /// It has no ISR status register.
    NoIsr,
    /// The driver's reason.
    Virtio(VirtioPciError),
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Bars => f.write_str("a PCIe device has invalid BARs"),
            Self::NoRoom => f.write_str("the PCIe memory window is full"),
            Self::NoInterrupt => f.write_str("a PCIe device has no interrupt line"),
            Self::NoIsr => f.write_str("a virtio device has no ISR status register"),
            Self::Virtio(error) => write!(f, "PCIe: {error}"),
        }
    }
}

/// Finds all virtio devices, assigns their BARs and lets them use memory.
///
/// # Errors
///
/// The first device that can't be used.
///
/// # Safety
///
/// Called once. Configuration space (256 MiB) and window are mapped as devices for good.
pub(crate) unsafe fn enumerate(host: &PciHost) -> Result<Vec<Found>, Error> {
    let base = core::ptr::with_exposed_provenance_mut(host.configuration.start as usize);
    // SAFETY: the caller calls this once, with configuration space mapped as a device for good.
    let registers = unsafe { MmioCam::new(base, Cam::Ecam) };
    // SAFETY: the loop below only reads through the copy, and only registers that the device never changes.
    let constants = unsafe { registers.unsafe_clone() };
    let mut root = PciRoot::new(registers);
    let mut next = host.window.start;
    let mut found = Vec::new();
    let virtio = root.enumerate_bus(ROOT_BUS).filter(|(_, info)| virtio_device_type(info).is_some());
    for (function, _) in virtio.collect::<Vec<_>>() {
        let bars = place_bars(&mut root, function, &mut next, host.window.end)?;
        root.set_command(function, Command::MEMORY_SPACE | Command::BUS_MASTER);
        let pin = constants.read_word(function, INTERRUPT_LINE).to_le_bytes()[1];
        found.push(Found {
            intid: host.interrupt(function.device, pin).ok_or(Error::NoInterrupt)?,
            isr: isr(&root, &constants, function, &bars).ok_or(Error::NoIsr)?,
            transport: PciTransport::new::<Dma, _>(&mut root, function).map_err(Error::Virtio)?,
        });
    }
    Ok(found)
}

/// Places the memory BARs of a function in the window from `next` on; their addresses.
fn place_bars(
    root: &mut PciRoot<MmioCam<'_>>,
    function: DeviceFunction,
    next: &mut u64,
    end: u64,
) -> Result<[u64; 6], Error> {
    let mut addresses = [0; 6];
    let bars = root.bars(function).map_err(|_| Error::Bars)?;
    for (index, bar) in (0_u8..).zip(bars) {
        let Some(BarInfo::Memory { address_type, size, .. }) = bar else {
            continue;
        };
        // A BAR of size 0 is none; one that is not a power of two can't be aligned.
        if size == 0 {
            continue;
        }
        if !size.is_power_of_two() {
            return Err(Error::Bars);
        }
        let address = next.next_multiple_of(size);
        *next = address.checked_add(size).ok_or(Error::NoRoom)?;
        if *next > end {
            return Err(Error::NoRoom);
        }
        match address_type {
            MemoryBarType::Width64 => root.set_bar_64(function, index, address),
            MemoryBarType::Width32 => {
                let address = u32::try_from(address).map_err(|_| Error::NoRoom)?;
                root.set_bar_32(function, index, address);
            }
            MemoryBarType::Below1MiB => return Err(Error::Bars),
        }
        addresses[usize::from(index)] = address;
    }
    Ok(addresses)
}

/// Where a virtio device's ISR status register is.
fn isr(
    root: &PciRoot<MmioCam<'_>>,
    constants: &MmioCam<'_>,
    function: DeviceFunction,
    bars: &[u64; 6],
) -> Option<u64> {
    let capability = root.capabilities(function).find(|capability| {
        let [_, kind] = capability.private_header.to_le_bytes();
        capability.id == PCI_CAP_ID_VNDR && kind == VIRTIO_PCI_CAP_ISR_CFG
    })?;
    let read = |field| constants.read_word(function, capability.offset.checked_add(field)?).into();
    let bar: Option<u32> = read(CAPABILITY_BAR);
    let offset: Option<u32> = read(CAPABILITY_OFFSET);
    let [bar, ..] = bar?.to_le_bytes();
    let base = bars.get(usize::from(bar)).filter(|base| **base != 0)?;
    base.checked_add(offset?.into())
}
