//! What the device tree says about the machine, checked.
//!
//! The host wrote the device tree. A range of it is used only after it was found to be where such a
//! range may be: memory page aligned and in one piece around the payload, the payload, the tree and
//! the initrd apart from each other, devices outside memory. What fails that is an error or, for a
//! device that a payload can do without, a device that is not there.

use core::fmt;
use core::ops::Range;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use heapless::{String, Vec};
use shared_abi::addr::PAGE_SIZE;

/// Stage 1 maps the lower 512 GiB; nothing above is used.
const ADDRESS_LIMIT: u64 = 1 << 39;
/// Bytes of a GICv3 redistributor without virtual LPIs: two frames of 64 KiB.
const REDISTRIBUTOR_BYTES: u64 = 0x2_0000;
/// Bytes of a GICv3 distributor.
const DISTRIBUTOR_BYTES: u64 = 0x1_0000;
/// Bytes of the registers of virtio-mmio before the configuration space (virtio 1.3, 4.2.2).
const VIRTIO_MMIO_BYTES: u64 = 0x100;
/// INTID of PPI 0 and of SPI 0.
const FIRST_PPI: u32 = 16;
const FIRST_SPI: u32 = 32;
/// INTIDs from here on are special (GICv3, 2.2.1).
const INTID_LIMIT: u32 = 1020;
/// Which of the `interrupts` of `arm,armv8-timer` is the virtual timer's.
const VIRTUAL_TIMER: usize = 2;

/// A range of addresses, half open.
pub type Span = Range<u64>;

/// What is wrong with a device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It is no device tree.
    Malformed,
    /// A memory node is missing, overlaps another, or is not aligned to pages.
    Memory,
    /// This part is not in memory, or overlaps another part.
    Placement(&'static str),
    /// More banks or reservations than are supported.
    TooMany,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the device tree is malformed"),
            Self::Memory => f.write_str("the device tree's memory nodes make no sense"),
            Self::Placement(part) => write!(f, "the {part} lies where it must not"),
            Self::TooMany => f.write_str("the device tree has too many memory ranges"),
        }
    }
}

impl core::error::Error for Error {}

/// How SMCCC calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// By HVC.
    Hvc,
    /// By SMC.
    Smc,
}

/// An interrupt of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// INTID of the GIC.
    pub intid: u32,
    /// Edge triggered, else level sensitive.
    pub edge: bool,
}

/// A GICv3: base addresses of the distributor and of the boot CPU's redistributor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gic {
    /// GICD, 64 KiB.
    pub distributor: u64,
    /// The first GICR, 128 KiB.
    pub redistributor: u64,
}

impl Gic {
    /// The registers of the distributor.
    #[must_use]
    pub const fn distributor_span(&self) -> Span {
        self.distributor..self.distributor + DISTRIBUTOR_BYTES
    }

    /// The registers of the boot CPU's redistributor.
    #[must_use]
    pub const fn redistributor_span(&self) -> Span {
        self.redistributor..self.redistributor + REDISTRIBUTOR_BYTES
    }
}

/// A place where a virtio-mmio device may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtioSlot {
    /// Its registers.
    pub registers: Span,
    /// Its interrupt.
    pub interrupt: Interrupt,
}

/// The machine, as far as a payload needs it.
#[derive(Clone, Debug)]
pub struct Platform {
    /// Banks of RAM: page aligned, apart from each other.
    pub ram: Vec<Span, 8>,
    /// The payload itself.
    pub image: Span,
    /// The device tree.
    pub tree: Span,
    /// The initrd, if there is one.
    pub initrd: Option<Span>,
    /// Memory that the tree reserves.
    pub reserved: Vec<Span, 16>,
    /// How PSCI and the hypervisor are called, if they can be.
    pub conduit: Option<Conduit>,
    /// The interrupt controller.
    pub gic: Option<Gic>,
    /// INTID of the virtual timer.
    pub timer: Option<u32>,
    /// Base address of a PL011.
    pub uart: Option<u64>,
    /// Where virtio devices may be, in the tree's order.
    pub virtio: Vec<VirtioSlot, 32>,
    /// `/chosen/bootargs`; empty if there is none, or it is too long.
    pub bootargs: String<512>,
}

impl Platform {
    /// Reads and checks the device tree `bytes`, which lies at address `tree`, for a payload at
    /// `image`.
    ///
    /// # Errors
    ///
    /// As [`Error`] says. A device that fails a check is left out instead.
    pub fn parse(bytes: &[u8], tree: u64, image: Span) -> Result<Self, Error> {
        let fdt = Fdt::new(bytes).map_err(|_| Error::Malformed)?;
        let tree = tree..tree.saturating_add(bytes.len() as u64);
        let mut machine = Self {
            ram: banks(fdt)?,
            image,
            tree,
            initrd: initrd(fdt)?,
            reserved: reservations(fdt)?,
            conduit: None,
            gic: None,
            timer: None,
            uart: None,
            virtio: Vec::new(),
            bootargs: String::new(),
        };
        machine.check_placement()?;
        if let Some(chosen) = fdt.find_node("/chosen")
            && let Some(text) = string(chosen, "bootargs")
        {
            machine.bootargs = String::try_from(text).unwrap_or_default();
        }
        for node in fdt.root().children() {
            machine.add_device(node);
        }
        Ok(machine)
    }

    fn check_placement(&self) -> Result<(), Error> {
        let in_ram = |part: &Span| {
            let fits = |bank: &Span| bank.start <= part.start && part.end <= bank.end;
            !part.is_empty() && self.ram.iter().any(fits)
        };
        let parts = [
            ("payload", Some(&self.image)),
            ("device tree", Some(&self.tree)),
            ("initrd", self.initrd.as_ref()),
        ];
        for (index, (name, part)) in parts.iter().enumerate() {
            let Some(part) = part else { continue };
            let others = parts[..index].iter().filter_map(|(_, other)| *other);
            if !in_ram(part) || others.into_iter().any(|other| overlap(part, other)) {
                return Err(Error::Placement(name));
            }
        }
        Ok(())
    }

    fn add_device(&mut self, node: FdtNode<'_>) {
        let registers = |index| {
            let registers = span(node, index)?;
            self.is_outside_ram(&registers).then_some(registers)
        };
        if is_compatible(node, "arm,psci-1.0") {
            self.conduit = match string(node, "method") {
                Some("hvc") => Some(Conduit::Hvc),
                Some("smc") => Some(Conduit::Smc),
                _ => None,
            };
        } else if is_compatible(node, "arm,gic-v3") {
            self.gic = registers(0)
                .zip(registers(1))
                .map(|(distributor, redistributor)| Gic {
                    distributor: distributor.start,
                    redistributor: redistributor.start,
                })
                .filter(|gic| {
                    let spans = [gic.distributor_span(), gic.redistributor_span()];
                    spans.iter().all(|span| span.start.is_multiple_of(PAGE_SIZE) && self.is_outside_ram(span))
                });
        } else if is_compatible(node, "arm,armv8-timer") {
            self.timer = interrupt(node, VIRTUAL_TIMER)
                .map(|interrupt| interrupt.intid)
                .filter(|intid| (FIRST_PPI..FIRST_SPI).contains(intid));
        } else if is_compatible(node, "arm,pl011") {
            self.uart = self.uart.or_else(|| registers(0).map(|span| span.start));
        } else if is_compatible(node, "virtio,mmio")
            && let Some((registers, interrupt)) = registers(0).zip(interrupt(node, 0))
            && registers.end - registers.start >= VIRTIO_MMIO_BYTES
            && interrupt.intid >= FIRST_SPI
        {
            // Slots beyond the limit are not used.
            let _ = self.virtio.push(VirtioSlot { registers, interrupt });
        }
    }

    /// Whether no page of `span` is RAM.
    fn is_outside_ram(&self, span: &Span) -> bool {
        let pages = pages_around(span);
        pages.end <= ADDRESS_LIMIT && !self.ram.iter().any(|bank| overlap(bank, &pages))
    }

    /// The largest range of whole pages of RAM that nothing occupies.
    #[must_use]
    pub fn free_memory(&self) -> Option<Span> {
        let taken = || {
            [&self.image, &self.tree].into_iter().chain(&self.initrd).chain(&self.reserved).map(pages_around)
        };
        let mut largest: Option<Span> = None;
        for bank in &self.ram {
            // A free range starts where the bank starts, or where something ends.
            let starts =
                taken().map(|part| part.end).chain([bank.start]).filter(|start| bank.contains(start));
            for start in starts {
                let end = taken()
                    .filter(|part| part.end > start)
                    .map(|part| part.start.max(start))
                    .fold(bank.end, u64::min);
                if largest.as_ref().is_none_or(|best| end - start > best.end - best.start) {
                    largest = Some(start..end);
                }
            }
        }
        largest.filter(|span| !span.is_empty())
    }
}

/// The whole pages that `span` has a byte of.
#[must_use]
pub fn pages_around(span: &Span) -> Span {
    let mask = PAGE_SIZE - 1;
    span.start & !mask..span.end.saturating_add(mask) & !mask
}

fn overlap(a: &Span, b: &Span) -> bool {
    a.start < b.end && b.start < a.end
}

/// The RAM of all memory nodes.
fn banks(fdt: Fdt<'_>) -> Result<Vec<Span, 8>, Error> {
    let mut banks: Vec<Span, 8> = Vec::new();
    let is_memory = |node: &FdtNode<'_>| string(*node, "device_type") == Some("memory");
    for node in fdt.root().children().filter(is_memory) {
        let mut index = 0;
        while let Some(bank) = span(node, index) {
            let aligned = bank.start.is_multiple_of(PAGE_SIZE) && bank.end.is_multiple_of(PAGE_SIZE);
            if !aligned || bank.end > ADDRESS_LIMIT || banks.iter().any(|other| overlap(&bank, other)) {
                return Err(Error::Memory);
            }
            banks.push(bank).map_err(|_| Error::TooMany)?;
            index += 1;
        }
    }
    if banks.is_empty() {
        return Err(Error::Memory);
    }
    Ok(banks)
}

/// `/reserved-memory` and the memory reservation block.
fn reservations(fdt: Fdt<'_>) -> Result<Vec<Span, 16>, Error> {
    let mut reserved = Vec::new();
    let mut add = |span: Span| reserved.push(span).map_err(|_| Error::TooMany);
    for reservation in fdt.memory_reservations() {
        let start = reservation.address();
        let end = start.checked_add(reservation.size()).ok_or(Error::Malformed)?;
        add(start..end)?;
    }
    if let Some(parent) = fdt.find_node("/reserved-memory") {
        for span in parent.children().filter_map(|node| span(node, 0)) {
            add(span)?;
        }
    }
    Ok(reserved)
}

/// `/chosen/linux,initrd-start` and `-end`.
fn initrd(fdt: Fdt<'_>) -> Result<Option<Span>, Error> {
    let Some(chosen) = fdt.find_node("/chosen") else {
        return Ok(None);
    };
    let bounds = ["linux,initrd-start", "linux,initrd-end"].map(|name| number(chosen, name));
    match bounds {
        [None, None] => Ok(None),
        [Some(start), Some(end)] if start == end => Ok(None),
        [Some(start), Some(end)] => Ok(Some(start..end)),
        _ => Err(Error::Placement("initrd")),
    }
}

/// Entry number `index` of `reg`, if it is there, not empty, and has an end.
fn span(node: FdtNode<'_>, index: usize) -> Option<Span> {
    let reg = node.reg().ok()??.nth(index)?;
    let start = reg.address::<u64>().ok()?;
    let end = start.checked_add(reg.size::<u64>().ok()?)?;
    (start < end).then_some(start..end)
}

/// Entry number `index` of `interrupts`, as the GIC's binding has them: type, number, flags.
fn interrupt(node: FdtNode<'_>, index: usize) -> Option<Interrupt> {
    const SPI: u32 = 0;
    const PPI: u32 = 1;
    const EDGE_RISING: u32 = 1;
    let property = node.property("interrupts")?;
    let (cells, _) = property.value().as_chunks::<4>();
    let mut cells = cells.iter().skip(3 * index).map(|c| u32::from_be_bytes(*c));
    let (kind, number, flags) = (cells.next()?, cells.next()?, cells.next()?);
    let intid = match kind {
        SPI => number.checked_add(FIRST_SPI)?,
        PPI if number < FIRST_SPI - FIRST_PPI => number + FIRST_PPI,
        _ => return None,
    };
    (intid < INTID_LIMIT).then_some(Interrupt { intid, edge: flags & EDGE_RISING != 0 })
}

fn is_compatible(node: FdtNode<'_>, name: &str) -> bool {
    node.compatible().is_some_and(|mut names| names.any(|n| n == name))
}

fn string<'a>(node: FdtNode<'a>, name: &str) -> Option<&'a str> {
    node.property(name)?.value_as::<&'a str>().ok()
}

/// A number of one or two cells.
fn number(node: FdtNode<'_>, name: &str) -> Option<u64> {
    let property = node.property(name)?;
    match *property.value() {
        [a, b, c, d] => Some(u32::from_be_bytes([a, b, c, d]).into()),
        [a, b, c, d, e, f, g, h] => Some(u64::from_be_bytes([a, b, c, d, e, f, g, h])),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
