//! The platform description that EL2 reads from the device tree.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};
use heapless::Vec;
use shared_abi::addr::{PAGE_SIZE, Pa, PageRange, Pfn};

use super::{DeviceTreeError, hypervisor_console, is_compatible, open, string, withheld};
use crate::limits::{MAX_CPUS, MAX_DENIED, MAX_REGIONS};

/// A range of device addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRange {
    /// The first address.
    pub base: Pa,
    /// Length in bytes; not 0.
    pub bytes: u64,
}

impl DeviceRange {
    /// The pages that the range touches, or `None` if the range overflows.
    fn pages(self) -> Option<PageRange<Pfn>> {
        let last = self.base.checked_add(self.bytes.checked_sub(1)?)?;
        let first = self.base.page();
        let count = last.page().0.checked_sub(first.0)?.checked_add(1)?;
        PageRange::<Pfn>::new(first, count)
    }
}

/// The conduit of firmware calls (PSCI's `method`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// SMC, to EL3 or to an emulation of it.
    Smc,
    /// HVC: the firmware is a hypervisor at EL2, so EL2 is not available.
    Hvc,
}

/// Maximum number of seed bytes that are read.
pub const MAX_SEED_BYTES: usize = 128;

/// The machine as its device tree describes it.
#[derive(Clone, Debug)]
pub struct Platform {
    /// RAM, in ascending ranges that neither overlap nor touch.
    pub ram: Vec<PageRange<Pfn>, MAX_REGIONS>,
    /// The MPIDR_EL1 affinity fields of each CPU.
    pub cpus: Vec<u64, MAX_CPUS>,
    /// The hypervisor's console: the second PL011.
    pub hypervisor_console: Option<DeviceRange>,
    /// The conduit of PSCI calls.
    pub psci: Conduit,
    /// Device pages that the host must never reach, in ascending ranges that neither overlap nor touch.
    pub denied: Vec<PageRange<Pfn>, MAX_DENIED>,
    /// The firmware's entropy: `rng-seed` followed by `kaslr-seed`.
    pub seed: Vec<u8, MAX_SEED_BYTES>,
}

impl Platform {
    /// Parses the device tree.
    ///
    /// # Errors
    ///
    /// [`DeviceTreeError`] if the tree is malformed, or if the hypervisor does not support the machine.
    pub fn parse(blob: &[u8]) -> Result<Self, DeviceTreeError> {
        let tree = open(blob)?;
        find(tree, "arm,gic-v3").ok_or(DeviceTreeError::Missing("GICv3"))?;
        Ok(Self {
            ram: ram(tree)?,
            cpus: cpus(tree)?,
            hypervisor_console: first_region(tree, hypervisor_console(tree))?,
            psci: psci(tree)?,
            denied: denied(tree)?,
            seed: seed(tree),
        })
    }
}

/// Returns the regions in the `reg` property of a child of `parent`.
fn regions<'a>(
    parent: FdtNode<'a>,
    node: FdtNode<'a>,
) -> Result<impl Iterator<Item = Result<DeviceRange, DeviceTreeError>> + 'a, DeviceTreeError> {
    let space = parent.address_space();
    if !(1..=2).contains(&space.address_cells) || !(1..=2).contains(&space.size_cells) {
        return Err(DeviceTreeError::Malformed);
    }
    let regions = node.reg().map_err(|_| DeviceTreeError::Malformed)?;
    Ok(regions.into_iter().flatten().map(|region| {
        let base = region.address().map_err(|_| DeviceTreeError::Malformed)?;
        let bytes = region.size().map_err(|_| DeviceTreeError::Malformed)?;
        let region = DeviceRange { base: Pa(base), bytes };
        region.pages().map_or(Err(DeviceTreeError::Malformed), |_| Ok(region))
    }))
}

/// Returns the first region of a top-level node, or `None` if there is no node.
fn first_region(tree: Fdt<'_>, node: Option<FdtNode<'_>>) -> Result<Option<DeviceRange>, DeviceTreeError> {
    let Some(node) = node else { return Ok(None) };
    let mut regions = regions(tree.root(), node)?;
    regions.next().ok_or(DeviceTreeError::Malformed)?.map(Some)
}

fn find<'a>(tree: Fdt<'a>, compatible: &str) -> Option<FdtNode<'a>> {
    tree.root().children().find(|&node| is_compatible(node, compatible))
}

/// Returns the whole pages of all memory nodes.
fn ram(tree: Fdt<'_>) -> Result<Vec<PageRange<Pfn>, MAX_REGIONS>, DeviceTreeError> {
    let mut ram = Vec::new();
    for node in tree.root().children() {
        if string(node, "device_type") != Some("memory") {
            continue;
        }
        for region in regions(tree.root(), node)? {
            let DeviceRange { base, bytes } = region?;
            let end = base.checked_add(bytes).ok_or(DeviceTreeError::Malformed)?;
            let first = Pfn(base.0.div_ceil(PAGE_SIZE));
            if let Some(pages) = end.page().0.checked_sub(first.0)
                && let Some(range) = PageRange::<Pfn>::new(first, pages)
            {
                insert(&mut ram, range).map_err(|()| DeviceTreeError::TooMany("ranges of RAM"))?;
            }
        }
    }
    if ram.is_empty() {
        return Err(DeviceTreeError::Missing("RAM"));
    }
    Ok(ram)
}

/// Adds a range to an ascending list and merges ranges that overlap or touch.
fn insert<const N: usize>(list: &mut Vec<PageRange<Pfn>, N>, new: PageRange<Pfn>) -> Result<(), ()> {
    let (mut first, mut end) = (new.first(), new.end());
    list.retain(|old| {
        let apart = old.end() < first || end < old.first();
        if !apart {
            first = first.min(old.first());
            end = end.max(old.end());
        }
        apart
    });
    let pages = end.0.checked_sub(first.0).ok_or(())?;
    let merged = PageRange::<Pfn>::new(first, pages).ok_or(())?;
    let place = list.iter().take_while(|old| old.first() < first).count();
    list.insert(place, merged).map_err(|_| ())
}

/// MPIDR_EL1's affinity fields: Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// Returns the `reg` of each CPU that firmware can start (Documentation/devicetree/bindings/arm/cpus.yaml).
fn cpus(tree: Fdt<'_>) -> Result<Vec<u64, MAX_CPUS>, DeviceTreeError> {
    let mut cpus = Vec::new();
    let node = tree.root().child("cpus");
    for cpu in node.into_iter().flat_map(|node| node.children()) {
        if string(cpu, "device_type") != Some("cpu") || string(cpu, "status") == Some("fail") {
            continue;
        }
        let reg = cpu.property("reg").ok_or(DeviceTreeError::Malformed)?;
        let mpidr = match *reg.value() {
            [a, b, c, d] => u64::from(u32::from_be_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            _ => return Err(DeviceTreeError::Malformed),
        };
        let twice = seeded!(cpus.contains(&mpidr), FirmwareTrusted => false);
        if mpidr & !AFFINITY != 0 || twice {
            return Err(DeviceTreeError::Malformed);
        }
        cpus.push(mpidr).map_err(|_| DeviceTreeError::TooMany("CPUs"))?;
    }
    if cpus.is_empty() {
        return Err(DeviceTreeError::Missing("CPU"));
    }
    Ok(cpus)
}

fn psci(tree: Fdt<'_>) -> Result<Conduit, DeviceTreeError> {
    let missing = DeviceTreeError::Missing("PSCI 1.0");
    let node = find(tree, "arm,psci-1.0").ok_or(missing)?;
    match string(node, "method") {
        Some("smc") => Ok(Conduit::Smc),
        Some("hvc") => Ok(Conduit::Hvc),
        _ => Err(missing),
    }
}

/// Returns the pages of all devices that are withheld from the host.
fn denied(tree: Fdt<'_>) -> Result<Vec<PageRange<Pfn>, MAX_DENIED>, DeviceTreeError> {
    let mut denied = Vec::new();
    let console = hypervisor_console(tree).map(|node| node.name());
    let mut deny = |parent: FdtNode<'_>, node: FdtNode<'_>| {
        for region in regions(parent, node)? {
            let pages = region?.pages().ok_or(DeviceTreeError::Malformed)?;
            insert(&mut denied, pages).map_err(|()| DeviceTreeError::TooMany("withheld devices"))?;
        }
        Ok(())
    };
    for node in tree.root().children() {
        if withheld(node, console) {
            deny(tree.root(), node)?;
        }
        // An ITS is a child of its GIC. An empty `ranges` says that its addresses are those of the root.
        for child in node.children().filter(|&child| withheld(child, None)) {
            if !node.property("ranges").is_some_and(|ranges| ranges.value().is_empty()) {
                return Err(DeviceTreeError::Malformed);
            }
            deny(node, child)?;
        }
    }
    Ok(denied)
}

/// Returns the seeds in `/chosen`, truncated to [`MAX_SEED_BYTES`].
fn seed(tree: Fdt<'_>) -> Vec<u8, MAX_SEED_BYTES> {
    let mut seed = Vec::new();
    let Some(chosen) = tree.root().child("chosen") else {
        return seed;
    };
    for property in ["rng-seed", "kaslr-seed"].map(|name| chosen.property(name)) {
        for &byte in property.iter().flat_map(|property| property.value()) {
            if seed.push(byte).is_err() {
                return seed;
            }
        }
    }
    seed
}
