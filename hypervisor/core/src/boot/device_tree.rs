//! The device tree from the firmware, and the copy that the host gets.
//!
//! [`Platform::parse`] reads the platform description for EL2, so that the code holds no address of a
//! machine. [`filter`] makes the host's copy. One rule decides for both: each device that [`Platform`] denies
//! the host is absent from the copy.

mod filter;
mod platform;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

pub use filter::{Edits, filter};
pub use platform::{Conduit, DeviceRange, MAX_SEED_BYTES, Platform};

/// Why a device tree was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceTreeError {
    /// No device tree, or an inconsistent one.
    #[error("malformed device tree")]
    Malformed,
    /// More items of a kind than the hypervisor has room for.
    #[error("too many {0} in the device tree")]
    TooMany(&'static str),
    /// A node or property that the hypervisor requires is missing.
    #[error("no {0} in the device tree")]
    Missing(&'static str),
    /// The filtered tree does not fit in its output buffer.
    #[error("no room for the filtered device tree")]
    NoRoom,
}

/// The largest device tree that the boot protocol allows, in bytes (Documentation/arch/arm64/booting.rst).
pub const MAX_BYTES: usize = 2 << 20;

/// Returns the length in bytes of the device tree that starts with these bytes, from its header.
///
/// # Errors
///
/// [`DeviceTreeError::Malformed`] if the magic number is wrong or the length exceeds [`MAX_BYTES`].
pub fn total_bytes(start: &[u8; 8]) -> Result<usize, DeviceTreeError> {
    const MAGIC: [u8; 4] = 0xd00d_feed_u32.to_be_bytes();
    let [m0, m1, m2, m3, length @ ..] = *start;
    let bytes = u32::from_be_bytes(length) as usize;
    if [m0, m1, m2, m3] == MAGIC && bytes <= MAX_BYTES { Ok(bytes) } else { Err(DeviceTreeError::Malformed) }
}

/// Devices withheld from the host, by `compatible`. Some can write memory and bypass stage 2 (fw_cfg,
/// virtio-mmio, ITS). The hypervisor owns the SMMU, and the firmware owns the flash. The PMU is hidden,
/// because EL2 does not switch it.
const WITHHELD: [&str; 6] =
    ["arm,armv8-pmuv3", "arm,gic-v3-its", "arm,smmu-v3", "cfi-flash", "qemu,fw-cfg-mmio", "virtio,mmio"];

/// The `compatible` string of a console.
const PL011: &str = "arm,pl011";

/// Returns whether `node` is withheld from the host. `node` is at the top level of the tree or below an
/// interrupt controller.
fn withheld(node: FdtNode<'_>, hypervisor_console: Option<&str>) -> bool {
    let console = hypervisor_console == Some(node.name()) && is_compatible(node, PL011);
    console || WITHHELD.iter().any(|name| is_compatible(node, name))
}

/// Returns whether `name` is one of the node's `compatible` strings.
fn is_compatible(node: FdtNode<'_>, name: &str) -> bool {
    node.property("compatible").is_some_and(|property| {
        property.value().split(|&byte| byte == 0).any(|compatible| compatible == name.as_bytes())
    })
}

/// Returns the NUL-terminated string in property `name`.
fn string<'a>(node: FdtNode<'a>, name: &str) -> Option<&'a str> {
    node.property(name)?.value_as::<&str>().ok()
}

/// Returns the top-level node of the host's console: the node that `/chosen/stdout-path` names, by path or
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

/// Returns the node of the hypervisor's console: the first PL011 that is not the host's.
fn hypervisor_console<'a>(tree: Fdt<'a>) -> Option<FdtNode<'a>> {
    let host = host_console(tree)?;
    pl011s(tree).find(|node| node.name() != host.name())
}

/// Returns the top-level PL011 nodes, in tree order.
fn pl011s<'a>(tree: Fdt<'a>) -> impl Iterator<Item = FdtNode<'a>> {
    let root = tree.root();
    root.children().filter(|&node| is_compatible(node, PL011))
}

/// Checks the whole tree once.
fn open(blob: &[u8]) -> Result<Fdt<'_>, DeviceTreeError> {
    Fdt::new(blob).map_err(|_| DeviceTreeError::Malformed)
}

#[cfg(test)]
mod tests;
