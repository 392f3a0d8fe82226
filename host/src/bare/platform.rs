//! What the device tree says of the machine, read once, before the MMU is on.
//!
//! It needs no heap and no atomics. What is missing or makes no sense is an error: nothing about the
//! machine is assumed.

mod pci;

use core::fmt;
use core::ops::Range;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};
use heapless::Vec;
use shared_abi::addr::PAGE_SIZE;

pub(crate) use pci::PciHost;

/// CPUs that the host can use.
pub(crate) const MAX_CPUS: usize = 64;
/// Aff0 of a CPU is below this, so that an SGI reaches it without a range selector
/// (GIC architecture, IHI 0069, ICC_SGI1R_EL1.RS).
const SGI_TARGETS: u64 = 16;
/// Banks of RAM.
const MAX_BANKS: usize = 8;
/// Reserved ranges.
const MAX_RESERVED: usize = 16;

/// How PSCI is called (Arm DEN0022, 5.1; `Documentation/devicetree/bindings/arm/psci.yaml`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduit {
    /// By HVC.
    Hvc,
    /// By SMC.
    Smc,
}

/// The machine.
#[derive(Clone, Debug)]
pub(crate) struct Platform {
    /// RAM, in bytes of physical address space.
    pub(crate) ram: Vec<Range<u64>, MAX_BANKS>,
    /// RAM that is not the host's to use: the hypervisor's, and what firmware keeps.
    pub(crate) reserved: Vec<Range<u64>, MAX_RESERVED>,
    /// The device tree itself.
    pub(crate) device_tree: Range<u64>,
    /// What the hypervisor calls the initial RAM disk: the boot image's manifest and its parts.
    pub(crate) image: Option<Range<u64>>,
    /// The console's PL011.
    pub(crate) uart: Range<u64>,
    /// The GIC distributor.
    pub(crate) distributor: Range<u64>,
    /// The redistributors of all CPUs.
    pub(crate) redistributors: Range<u64>,
    /// MPIDR_EL1 affinities of the CPUs.
    pub(crate) cpus: Vec<u64, MAX_CPUS>,
    /// How PSCI is called.
    pub(crate) psci: Conduit,
    /// INTID of the EL1 physical timer.
    pub(crate) physical_timer: u32,
    /// The PCIe root complex, if there is one.
    pub(crate) pci: Option<PciHost>,
}

/// Why a device tree describes no machine that the host runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    /// Something is not there.
    Missing(&'static str),
    /// Something has no meaning here.
    Bad(&'static str),
    /// More of something than there is room for.
    TooMany(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(what) => write!(f, "the device tree has no {what}"),
            Self::Bad(what) => write!(f, "the device tree's {what} makes no sense"),
            Self::TooMany(what) => write!(f, "the device tree has too many {what}"),
        }
    }
}

impl Platform {
    /// Reads a device tree that lies at its own address.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub(crate) fn parse(fdt: Fdt<'_>) -> Result<Self, Error> {
        let base = fdt.data().as_ptr().addr() as u64;
        let gic = compatible(fdt, "arm,gic-v3").ok_or(Error::Missing("GICv3"))?;
        let mut frames = registers(gic);
        Ok(Self {
            ram: ram(fdt)?,
            reserved: reserved(fdt)?,
            device_tree: base..base + fdt.data().len() as u64,
            image: image(fdt)?,
            uart: uart(fdt)?,
            distributor: frames.next().ok_or(Error::Missing("GIC distributor"))?,
            redistributors: frames.next().ok_or(Error::Missing("GIC redistributors"))?,
            cpus: cpus(fdt)?,
            psci: psci(fdt)?,
            physical_timer: physical_timer(fdt)?,
            pci: compatible(fdt, "pci-host-ecam-generic")
                .map(|node| PciHost::parse(fdt, node))
                .transpose()?,
        })
    }

    /// From the lowest byte of RAM to the highest.
    pub(crate) fn ram_span(&self) -> Range<u64> {
        let start = self.ram.iter().map(|bank| bank.start).min().unwrap_or(0);
        let end = self.ram.iter().map(|bank| bank.end).max().unwrap_or(0);
        start..end
    }

    /// Every range of device registers, in whole pages.
    pub(crate) fn device_ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let pci = self.pci.iter();
        [&self.uart, &self.distributor, &self.redistributors]
            .into_iter()
            .chain(pci.flat_map(|pci| [&pci.configuration, &pci.window]))
            .map(|range| range.start / PAGE_SIZE * PAGE_SIZE..range.end.next_multiple_of(PAGE_SIZE))
    }
}

/// The first child of the root that is compatible with `name`.
fn compatible<'a>(fdt: Fdt<'a>, name: &str) -> Option<FdtNode<'a>> {
    let root = fdt.root();
    root.children().find(|node| node.is_compatible(name))
}

/// The `reg` entries of a node that are usable address ranges.
fn registers(node: FdtNode<'_>) -> impl Iterator<Item = Range<u64>> {
    node.reg().ok().flatten().into_iter().flatten().filter_map(|reg| {
        let start = reg.address::<u64>().ok()?;
        let bytes = reg.size::<u64>().ok()?;
        (bytes != 0).then_some(start..start.checked_add(bytes)?)
    })
}

/// A property of one or two cells.
fn number(node: FdtNode<'_>, name: &str) -> Option<u64> {
    let property = node.property(name)?;
    property.value_as::<u64>().or_else(|_| property.value_as::<u32>().map(u64::from)).ok()
}

fn ram(fdt: Fdt<'_>) -> Result<Vec<Range<u64>, MAX_BANKS>, Error> {
    let mut banks = Vec::new();
    let root = fdt.root();
    for node in root.children() {
        if node.name_without_address() == "memory" {
            for bank in registers(node) {
                banks.push(bank).map_err(|_| Error::TooMany("banks of RAM"))?;
            }
        }
    }
    if banks.is_empty() {
        return Err(Error::Missing("memory"));
    }
    Ok(banks)
}

/// The memory reservation block and `/reserved-memory`.
fn reserved(fdt: Fdt<'_>) -> Result<Vec<Range<u64>, MAX_RESERVED>, Error> {
    let mut ranges = Vec::new();
    let block = fdt.memory_reservations().filter_map(|reservation| {
        let start = reservation.address();
        Some(start..start.checked_add(reservation.size())?)
    });
    let parent = fdt.find_node("/reserved-memory");
    let nodes = parent.iter().flat_map(|parent| parent.children());
    for range in block.chain(nodes.flat_map(registers)) {
        ranges.push(range).map_err(|_| Error::TooMany("memory reservations"))?;
    }
    Ok(ranges)
}

fn image(fdt: Fdt<'_>) -> Result<Option<Range<u64>>, Error> {
    let Some(chosen) = fdt.find_node("/chosen") else {
        return Ok(None);
    };
    match (number(chosen, "linux,initrd-start"), number(chosen, "linux,initrd-end")) {
        (None, None) => Ok(None),
        (Some(start), Some(end)) if start < end => Ok(Some(start..end)),
        _ => Err(Error::Bad("initrd range")),
    }
}

/// The PL011 that `/chosen/stdout-path` names by its path, else the first one.
///
/// # Errors
///
/// There is none.
pub(crate) fn uart(fdt: Fdt<'_>) -> Result<Range<u64>, Error> {
    let named = fdt.find_node("/chosen").and_then(|chosen| {
        let path = chosen.property("stdout-path")?.value_as::<&str>().ok()?;
        fdt.find_node(path.split(':').next()?)
    });
    named
        .filter(|node| node.is_compatible("arm,pl011"))
        .or_else(|| compatible(fdt, "arm,pl011"))
        .and_then(|node| registers(node).next())
        .ok_or(Error::Missing("PL011"))
}

fn cpus(fdt: Fdt<'_>) -> Result<Vec<u64, MAX_CPUS>, Error> {
    let mut cpus = Vec::new();
    let node = fdt.find_node("/cpus").ok_or(Error::Missing("CPUs"))?;
    for cpu in node.children() {
        if cpu.name_without_address() != "cpu" {
            continue;
        }
        // A CPU's `reg` is MPIDR_EL1's affinity fields; it has no size.
        let affinity = number(cpu, "reg")
            .filter(|affinity| affinity & 0xff < SGI_TARGETS)
            .ok_or(Error::Bad("CPU affinity"))?;
        cpus.push(affinity).map_err(|_| Error::TooMany("CPUs"))?;
    }
    if cpus.is_empty() {
        return Err(Error::Missing("CPUs"));
    }
    Ok(cpus)
}

/// How PSCI is called.
///
/// # Errors
///
/// The tree does not say.
pub(crate) fn psci(fdt: Fdt<'_>) -> Result<Conduit, Error> {
    let node = fdt.find_node("/psci").ok_or(Error::Missing("PSCI"))?;
    let method = node.property("method").ok_or(Error::Bad("PSCI method"))?;
    match method.value_as::<&str>() {
        Ok("hvc") => Ok(Conduit::Hvc),
        Ok("smc") => Ok(Conduit::Smc),
        _ => Err(Error::Bad("PSCI method")),
    }
}

/// `interrupts` of the timer: secure physical, non-secure physical, virtual, ...
fn physical_timer(fdt: Fdt<'_>) -> Result<u32, Error> {
    /// Which of them is the non-secure EL1 physical timer's.
    const NON_SECURE_PHYSICAL: usize = 1;
    let node = compatible(fdt, "arm,armv8-timer").ok_or(Error::Missing("timer"))?;
    let property = node.property("interrupts").ok_or(Error::Missing("timer interrupts"))?;
    property
        .as_prop_encoded_array([3])
        .ok()
        .and_then(|mut interrupts| interrupts.nth(NON_SECURE_PHYSICAL))
        .and_then(|[interrupt]| intid(interrupt.as_ref().iter().map(|cell| cell.get())))
        .ok_or(Error::Bad("timer interrupts"))
}

/// The INTID of an interrupt specifier of three cells
/// (`Documentation/devicetree/bindings/interrupt-controller/arm,gic-v3.yaml`).
fn intid(mut cells: impl Iterator<Item = u32>) -> Option<u32> {
    const SPI: u32 = 0;
    const PPI: u32 = 1;
    let (kind, number) = (cells.next()?, cells.next()?);
    match kind {
        SPI if number < 988 => Some(32 + number),
        PPI if number < 16 => Some(16 + number),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
