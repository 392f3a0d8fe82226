//! The host's copy of the device tree. `dtoolkit` edits a copy of the original in place, so nodes and
//! properties that the hypervisor does not know stay unchanged.

use dtoolkit::fdt::{FdtNode, FdtProperty};
use dtoolkit::fdt_mut::{FdtMut, FdtNodeMut, SliceBuffer};
use dtoolkit::{Node, Property};
use shared_abi::addr::{Pa, PageRange, Pfn};

use super::{DeviceTreeError, hypervisor_console, open, withheld};

/// Additions to the host's copy.
#[derive(Clone, Copy, Debug)]
pub struct Edits<'a> {
    /// Start and end of the memory that holds the manifest and the image parts: `/chosen/linux,initrd-start`
    /// and `-end`.
    pub initrd: Option<(Pa, Pa)>,
    /// Memory that the host does not own, for the memory reservation block.
    pub reserved: &'a [PageRange<Pfn>],
}

/// `/chosen` properties that the copy omits: the seeds are for the hypervisor only, and the ramdisk is set
/// anew.
const CHOSEN_DROPPED: [&str; 4] = ["rng-seed", "kaslr-seed", "linux,initrd-start", "linux,initrd-end"];

/// Properties that refer to withheld devices.
const DROPPED: [&str; 5] = ["iommu-map", "iommu-map-mask", "iommus", "msi-map", "msi-parent"];

/// Maximum nesting depth of nodes: editing recurses on a small stack.
const MAX_DEPTH: usize = 16;

type Editor<'a, 'o> = FdtNodeMut<'a, SliceBuffer<'o>>;

/// Writes the host's copy of the tree `blob` to `out` and returns its length in bytes. During editing the
/// copy takes as much room as the original and the additions of `edits` together.
///
/// # Errors
///
/// [`DeviceTreeError::Malformed`] if the tree is malformed, [`DeviceTreeError::Missing`] if it has no
/// `/chosen`, [`DeviceTreeError::NoRoom`] if `out` is too short, [`DeviceTreeError::TooMany`] if nodes nest
/// too deep. The content of `out` is not a valid tree then.
pub fn filter(blob: &[u8], edits: &Edits<'_>, out: &mut [u8]) -> Result<usize, DeviceTreeError> {
    let original = open(blob)?;
    let console = hypervisor_console(original).map(|node| node.name());
    let gone = |node: FdtNode<'_>| withheld(node, console);

    // Sibling nodes with one name make a tree malformed, and only the first would be edited.
    for name in ["chosen", "aliases"] {
        let found = original.root().children();
        if found.filter(|node| node.name() == name).count() > 1 {
            return Err(DeviceTreeError::Malformed);
        }
    }
    copy(blob, edits.reserved, out)?;
    let mut tree = FdtMut::from_slice(out).map_err(|_| DeviceTreeError::Malformed)?;
    let mut root = tree.root_mut();
    while remove_child(&mut root, gone) {}
    drop_references(&mut root, 0)?;
    if let Some(mut aliases) = root.child_mut("aliases") {
        let dangling = |alias: FdtProperty<'_>| {
            let path = alias.value_as::<&str>().ok();
            path.and_then(|path| original.find_node(path)).is_some_and(gone)
        };
        while remove_property(&mut aliases, dangling) {}
    }
    let mut chosen = root.child_mut("chosen").ok_or(DeviceTreeError::Missing("/chosen"))?;
    while remove_property(&mut chosen, |property| CHOSEN_DROPPED.contains(&property.name())) {}
    for (name, address) in edits
        .initrd
        .iter()
        .flat_map(|(start, end)| [("linux,initrd-start", start), ("linux,initrd-end", end)])
    {
        chosen.add_property(name, address.0).map_err(|_| DeviceTreeError::NoRoom)?;
    }
    Ok(tree.as_read_only().data().len())
}

/// Copies the tree and adds memory reservations before its own.
fn copy(blob: &[u8], reserved: &[PageRange<Pfn>], out: &mut [u8]) -> Result<(), DeviceTreeError> {
    // Offsets of header fields (Devicetree Specification 0.4, section 5.2): the positions of the blocks,
    // which a checked tree has in this order, and the length of the structure block.
    const RESERVATIONS: usize = 16;
    const STRUCTURE: usize = 8;
    const STRINGS: usize = 12;
    const END: usize = 4;
    const STRUCTURE_BYTES: usize = 36;
    const STRINGS_BYTES: usize = 32;
    /// The token that ends the structure block.
    const FDT_END: usize = 9;
    /// The size of a reservation: address and length, in bytes.
    const ENTRY_BYTES: usize = 16;

    let structure_end = word(blob, STRUCTURE)?.saturating_add(word(blob, STRUCTURE_BYTES)?);
    if word(blob, structure_end.saturating_sub(4))? != FDT_END {
        return Err(DeviceTreeError::Malformed);
    }
    let strings = blob
        .get(word(blob, STRINGS)?..)
        .and_then(|rest| rest.get(..word(blob, STRINGS_BYTES).ok()?))
        .ok_or(DeviceTreeError::Malformed)?;
    // The editor reads all strings, including unreferenced ones.
    if core::str::from_utf8(strings).is_err() || strings.last().is_some_and(|last| *last != 0) {
        return Err(DeviceTreeError::Malformed);
    }
    let place = word(blob, RESERVATIONS)?;
    let added = reserved.len().saturating_mul(ENTRY_BYTES);
    let (head, rest) = blob.split_at_checked(place).ok_or(DeviceTreeError::Malformed)?;
    let room = out.get_mut(..blob.len().saturating_add(added)).ok_or(DeviceTreeError::NoRoom)?;
    let (new_head, room) = room.split_at_mut(place);
    let (new, new_rest) = room.split_at_mut(added);
    new_head.copy_from_slice(head);
    new_rest.copy_from_slice(rest);
    for (entry, range) in new.chunks_exact_mut(ENTRY_BYTES).zip(reserved) {
        let (start, end) = (range.first().base().0, range.end().base().0);
        let words = [start, end.wrapping_sub(start)].map(u64::to_be_bytes);
        entry.copy_from_slice(words.as_flattened());
    }
    for field in [STRUCTURE, STRINGS, END] {
        let moved = u32::try_from(word(blob, field)?.saturating_add(added));
        let moved = moved.map_err(|_| DeviceTreeError::NoRoom)?;
        if let Some(field) = new_head.get_mut(field..).and_then(|rest| rest.first_chunk_mut()) {
            *field = moved.to_be_bytes();
        }
    }
    Ok(())
}

/// Returns the big-endian 32-bit word at byte offset `at`.
fn word(blob: &[u8], at: usize) -> Result<usize, DeviceTreeError> {
    blob.get(at..)
        .and_then(|rest| rest.first_chunk())
        .and_then(|word| usize::try_from(u32::from_be_bytes(*word)).ok())
        .ok_or(DeviceTreeError::Malformed)
}

/// Removes the first child for which `gone` returns true, and returns whether it removed one. A removal ends
/// the iteration over the siblings, so a caller that removes all of them repeats the call until it returns
/// false.
fn remove_child(node: &mut Editor<'_, '_>, gone: impl Fn(FdtNode<'_>) -> bool) -> bool {
    let mut children = node.children_mut();
    while let Some(child) = children.next() {
        if gone(child.as_read_only()) {
            child.remove();
            return true;
        }
    }
    false
}

/// Does for a property what [`remove_child`] does for a child.
fn remove_property(node: &mut Editor<'_, '_>, gone: impl Fn(FdtProperty<'_>) -> bool) -> bool {
    let mut properties = node.properties_mut();
    while let Some(property) = properties.next() {
        if gone(property.as_read_only()) {
            property.remove();
            return true;
        }
    }
    false
}

/// Removes references to withheld devices from `node`, which is `depth` levels below the root, and from all
/// its descendants. Also removes withheld devices below an interrupt controller.
fn drop_references(node: &mut Editor<'_, '_>, depth: usize) -> Result<(), DeviceTreeError> {
    if depth > MAX_DEPTH {
        return Err(DeviceTreeError::TooMany("nested nodes"));
    }
    while depth == 1 && remove_child(node, |child| withheld(child, None)) {}
    while remove_property(node, |property| DROPPED.contains(&property.name())) {}
    let mut children = node.children_mut();
    while let Some(mut child) = children.next() {
        drop_references(&mut child, depth.saturating_add(1))?;
    }
    Ok(())
}
