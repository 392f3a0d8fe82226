//! The PCIe root complex (`Documentation/devicetree/bindings/pci/host-generic-pci.yaml`; PCI Bus
//! Binding to IEEE 1275).

use core::ops::Range;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};
use heapless::Vec;

use super::{Error, intid, number, registers};

/// Entries of `interrupt-map`: four pins for each of four devices, after the mask.
const MAX_INTERRUPTS: usize = 32;

/// The first cell of a PCI address: which space.
mod space {
    /// The bits that say so.
    pub(super) const MASK: u32 = 0x0300_0000;
    /// Memory in the lower 4 GiB.
    pub(super) const MEMORY_32: u32 = 0x0200_0000;
    /// Bits 15 to 11: the device's number on its bus.
    pub(super) const DEVICE_SHIFT: u32 = 11;
}

/// A root complex that is configured through ECAM.
#[derive(Clone, Debug)]
pub(crate) struct PciHost {
    /// Configuration space.
    pub(crate) configuration: Range<u64>,
    /// Where memory BARs may be placed: addresses that are the same on the bus and for CPUs.
    pub(crate) window: Range<u64>,
    /// Device and pin as the map has them, after the mask, and the INTID.
    interrupts: Vec<(u32, u32, u32), MAX_INTERRUPTS>,
    /// Masks for device and pin.
    interrupt_mask: (u32, u32),
}

impl PciHost {
    pub(super) fn parse(fdt: Fdt<'_>, node: FdtNode<'_>) -> Result<Self, Error> {
        Ok(Self {
            configuration: registers(node).next().ok_or(Error::Missing("PCIe configuration space"))?,
            window: window(node)?,
            interrupts: interrupts(fdt, node)?,
            interrupt_mask: interrupt_mask(node)?,
        })
    }

    /// The INTID of a device on the root bus, by its number there and its interrupt pin (1 is
    /// INTA#).
    pub(crate) fn interrupt(&self, device: u8, pin: u8) -> Option<u32> {
        let (device_mask, pin_mask) = self.interrupt_mask;
        let device = (u32::from(device) << space::DEVICE_SHIFT) & device_mask;
        let pin = u32::from(pin) & pin_mask;
        self.interrupts.iter().find(|entry| (entry.0, entry.1) == (device, pin)).map(|entry| entry.2)
    }
}

/// The 32-bit memory window, where the bus sees CPU addresses.
fn window(node: FdtNode<'_>) -> Result<Range<u64>, Error> {
    let ranges = node.ranges().ok().flatten().ok_or(Error::Missing("PCIe ranges"))?;
    for range in ranges {
        let [code, high, low] = range.child_bus_address.as_ref() else {
            return Err(Error::Bad("PCIe ranges"));
        };
        if code.get() & space::MASK != space::MEMORY_32 {
            continue;
        }
        let bus = u64::from(high.get()) << 32 | u64::from(low.get());
        let address = range.parent_bus_address::<u64>();
        let bytes = range.length::<u64>();
        return match (address, bytes) {
            (Ok(address), Ok(bytes)) if address == bus && bytes <= u64::from(u32::MAX) - bus => {
                Ok(address..address + bytes)
            }
            _ => Err(Error::Bad("PCIe memory window")),
        };
    }
    Err(Error::Missing("32-bit PCIe memory window"))
}

fn interrupt_mask(node: FdtNode<'_>) -> Result<(u32, u32), Error> {
    let property = node.property("interrupt-map-mask").ok_or(Error::Missing("PCIe interrupt map"))?;
    let mut array = property.as_prop_encoded_array([3, 1]).map_err(|_| Error::Bad("PCIe interrupt map"))?;
    array
        .next()
        .and_then(|[address, pin]| Some((first(address)?, first(pin)?)))
        .ok_or(Error::Bad("PCIe interrupt map"))
}

/// `interrupt-map`: PCI address (3 cells), pin (1), controller (1), its address, its specifier (3).
fn interrupts(fdt: Fdt<'_>, node: FdtNode<'_>) -> Result<Vec<(u32, u32, u32), MAX_INTERRUPTS>, Error> {
    const BAD: Error = Error::Bad("PCIe interrupt map");
    let gic = super::compatible(fdt, "arm,gic-v3").ok_or(Error::Missing("GICv3"))?;
    // An interrupt parent's missing #address-cells counts as 0 here, unlike elsewhere.
    let address_cells = number(gic, "#address-cells").unwrap_or(0);
    let property = node.property("interrupt-map").ok_or(Error::Missing("PCIe interrupt map"))?;
    let entries =
        property.as_prop_encoded_array([3, 1, 1, address_cells.min(2) as usize, 3]).map_err(|_| BAD)?;
    let mut interrupts = Vec::new();
    for [address, pin, controller, _, specifier] in entries {
        if gic.phandle().ok().flatten() != first(controller) {
            return Err(BAD);
        }
        let intid = intid(specifier.as_ref().iter().map(|cell| cell.get())).ok_or(BAD)?;
        let entry = (first(address).ok_or(BAD)?, first(pin).ok_or(BAD)?, intid);
        interrupts.push(entry).map_err(|_| Error::TooMany("PCIe interrupts"))?;
    }
    Ok(interrupts)
}

fn first(cells: dtoolkit::Cells<'_>) -> Option<u32> {
    cells.as_ref().first().map(|cell| cell.get())
}
