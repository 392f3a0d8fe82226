//! The device tree that the hypervisor boots with, and the one that the host gets.
//!
//! [`Platform::parse`] reads what EL2 has to know of the machine, so that no address of any machine is
//! in the code. [`filter`] copies the tree for the host without what the host must not use: whatever
//! [`Platform`] denies it is left out, by one and the same rule.

mod filter;
mod platform;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

pub use filter::{Edits, filter};
pub use platform::{Conduit, DeviceRange, MAX_SEED_BYTES, Platform};

/// Why a device tree is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceTreeError {
    /// No device tree, or one that contradicts itself.
    #[error("malformed device tree")]
    Malformed,
    /// More of something than the hypervisor has room for.
    #[error("too many {0} in the device tree")]
    TooMany(&'static str),
    /// Something that the hypervisor can't do without is not there.
    #[error("no {0} in the device tree")]
    Missing(&'static str),
    /// The filtered tree does not fit in the memory that it is to go to.
    #[error("no room for the filtered device tree")]
    NoRoom,
}

/// The largest device tree that the boot protocol allows (Documentation/arch/arm64/booting.rst).
pub const MAX_BYTES: usize = 2 << 20;

/// How long the device tree is that starts with these bytes, by its header.
///
/// # Errors
///
/// [`DeviceTreeError::Malformed`] if none starts there, or one longer than [`MAX_BYTES`].
pub fn total_bytes(start: &[u8; 8]) -> Result<usize, DeviceTreeError> {
    const MAGIC: [u8; 4] = 0xd00d_feed_u32.to_be_bytes();
    let [m0, m1, m2, m3, length @ ..] = *start;
    let bytes = u32::from_be_bytes(length) as usize;
    if [m0, m1, m2, m3] == MAGIC && bytes <= MAX_BYTES { Ok(bytes) } else { Err(DeviceTreeError::Malformed) }
}

/// Devices that the host must not have, by `compatible`: they write to memory around stage 2 (fw_cfg,
/// virtio-mmio, ITS), belong to the hypervisor (SMMU), or are hidden from it (PMU). The flash is the
/// firmware's.
const WITHHELD: [&str; 6] =
    ["arm,armv8-pmuv3", "arm,gic-v3-its", "arm,smmu-v3", "cfi-flash", "qemu,fw-cfg-mmio", "virtio,mmio"];

/// The `compatible` of the consoles.
const PL011: &str = "arm,pl011";

/// Whether the host gets to see `node`, at the top level of the tree or below an interrupt controller.
fn withheld(node: FdtNode<'_>, hypervisor_console: Option<&str>) -> bool {
    let console = hypervisor_console == Some(node.name()) && is_compatible(node, PL011);
    console || WITHHELD.iter().any(|name| is_compatible(node, name))
}

/// Whether `name` is one of the node's `compatible` strings.
fn is_compatible(node: FdtNode<'_>, name: &str) -> bool {
    node.property("compatible").is_some_and(|property| {
        property.value().split(|&byte| byte == 0).any(|compatible| compatible == name.as_bytes())
    })
}

/// The NUL-terminated string that a property holds.
fn string<'a>(node: FdtNode<'a>, name: &str) -> Option<&'a str> {
    node.property(name)?.value_as::<&str>().ok()
}

/// The node, at the top level, that is the host's console: what `/chosen/stdout-path` names, by path or
/// alias, else the first PL011.
fn host_console<'a>(tree: Fdt<'a>) -> Option<FdtNode<'a>> {
    let named = || {
        let chosen = tree.root().child("chosen")?;
        let path = string(chosen, "stdout-path")?.split(':').next()?;
        let path = if path.starts_with('/') { path } else { string(tree.root().child("aliases")?, path)? };
        let name = path.strip_prefix('/')?;
        pl011s(tree).find(|node| node.name() == name)
    };
    named().or_else(|| pl011s(tree).next())
}

/// The node that is the hypervisor's console: the first PL011 that is not the host's.
fn hypervisor_console<'a>(tree: Fdt<'a>) -> Option<FdtNode<'a>> {
    let host = host_console(tree)?;
    pl011s(tree).find(|node| node.name() != host.name())
}

/// The PL011s at the top level, in the order of the tree.
fn pl011s<'a>(tree: Fdt<'a>) -> impl Iterator<Item = FdtNode<'a>> {
    let root = tree.root();
    root.children().filter(|&node| is_compatible(node, PL011))
}

/// Checks a tree, once and whole.
fn open(blob: &[u8]) -> Result<Fdt<'_>, DeviceTreeError> {
    Fdt::new(blob).map_err(|_| DeviceTreeError::Malformed)
}

#[cfg(test)]
mod tests;
