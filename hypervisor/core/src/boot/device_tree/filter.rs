//! The host's copy of the device tree: the original, edited in place by `dtoolkit`, so that what the
//! hypervisor has never heard of comes through as it is.

use dtoolkit::fdt::{FdtNode, FdtProperty};
use dtoolkit::fdt_mut::{FdtMut, FdtNodeMut, SliceBuffer};
use dtoolkit::{Node, Property};
use shared_abi::addr::{Pa, PageRange, Pfn};

use super::{DeviceTreeError, hypervisor_console, open, withheld};

/// What the host's copy says that the original does not.
#[derive(Clone, Copy, Debug)]
pub struct Edits<'a> {
    /// Where the manifest and the parts of the image are: `/chosen/linux,initrd-start` and `-end`.
    pub initrd: Option<(Pa, Pa)>,
    /// Memory that is not the host's, for the memory reservation block.
    pub reserved: &'a [PageRange<Pfn>],
}

/// `/chosen` properties that the copy does not take over: the seeds are the hypervisor's, the ramdisk
/// is set anew.
const CHOSEN_DROPPED: [&str; 4] = ["rng-seed", "kaslr-seed", "linux,initrd-start", "linux,initrd-end"];

/// Properties that refer to devices which are not in the copy.
const DROPPED: [&str; 5] = ["iommu-map", "iommu-map-mask", "iommus", "msi-map", "msi-parent"];

/// How deep nodes may nest: editing recurses, and the stack is small.
const MAX_DEPTH: usize = 16;

type Editor<'a, 'o> = FdtNodeMut<'a, SliceBuffer<'o>>;

/// Writes the host's copy of the tree `blob` to `out`, and returns its length. While it is edited the
/// copy takes as much room as the original and what `edits` adds.
///
/// # Errors
///
/// [`DeviceTreeError::Malformed`] for a malformed tree, [`DeviceTreeError::Missing`] for one without
/// `/chosen`, [`DeviceTreeError::NoRoom`] if `out` is too short. What is in `out` then is no tree.
pub fn filter(blob: &[u8], edits: &Edits<'_>, out: &mut [u8]) -> Result<usize, DeviceTreeError> {
    let original = open(blob)?;
    let console = hypervisor_console(original).map(|node| node.name());
    let gone = |node: FdtNode<'_>| withheld(node, console);

    // Siblings of one name are no tree, and only the first would be edited.
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

/// Copies the tree, with more memory reservations before those that it has.
fn copy(blob: &[u8], reserved: &[PageRange<Pfn>], out: &mut [u8]) -> Result<(), DeviceTreeError> {
    // The header's fields, by offset (Devicetree Specification 0.4, section 5.2): where the parts are,
    // in this order in a tree that was checked, and how long the structure is.
    const RESERVATIONS: usize = 16;
    const STRUCTURE: usize = 8;
    const STRINGS: usize = 12;
    const END: usize = 4;
    const STRUCTURE_BYTES: usize = 36;
    const STRINGS_BYTES: usize = 32;
    /// The structure's last word.
    const FDT_END: usize = 9;
    /// Address and size.
    const ENTRY_BYTES: usize = 16;

    let structure_end = word(blob, STRUCTURE)?.saturating_add(word(blob, STRUCTURE_BYTES)?);
    if word(blob, structure_end.saturating_sub(4))? != FDT_END {
        return Err(DeviceTreeError::Malformed);
    }
    let strings = blob
        .get(word(blob, STRINGS)?..)
        .and_then(|rest| rest.get(..word(blob, STRINGS_BYTES).ok()?))
        .ok_or(DeviceTreeError::Malformed)?;
    // The editor looks at all strings, also at those that nothing refers to.
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

/// A word of the tree.
fn word(blob: &[u8], at: usize) -> Result<usize, DeviceTreeError> {
    blob.get(at..)
        .and_then(|rest| rest.first_chunk())
        .and_then(|word| usize::try_from(u32::from_be_bytes(*word)).ok())
        .ok_or(DeviceTreeError::Malformed)
}

/// Removes the first child of which that is true. Removing one ends the look at its siblings, so who
/// wants all of them gone calls until there is none.
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

/// As [`remove_child`], for a property.
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

/// Removes what refers to withheld devices from `node`, `depth` levels below the root, and all nodes
/// below it, and withheld devices below an interrupt controller.
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
