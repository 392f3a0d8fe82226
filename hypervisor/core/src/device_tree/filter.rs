//! The host's copy of the device tree.
//!
//! Works on the flattened form (Devicetree Specification 0.4, chapter 5): tokens are copied one by one,
//! so what the hypervisor has never heard of comes through as it is.

use dtoolkit::fdt::{Fdt, FdtNode};
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
const CHOSEN_DROPPED: [&str; 4] = [
    "rng-seed",
    "kaslr-seed",
    "linux,initrd-start",
    "linux,initrd-end",
];

/// Properties that refer to devices which are not in the copy.
const DROPPED: [&str; 5] = [
    "iommu-map",
    "iommu-map-mask",
    "iommus",
    "msi-map",
    "msi-parent",
];

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const END: u32 = 9;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const LAST_COMPATIBLE_VERSION: u32 = 16;
const HEADER_BYTES: usize = 40;

/// Writes the host's copy of the tree `blob` to `out`, and returns its length.
///
/// # Errors
///
/// [`DeviceTreeError::Malformed`] for a malformed tree, [`DeviceTreeError::NoRoom`] if `out` is too
/// short. What is in `out` then is no tree.
pub fn filter(blob: &[u8], edits: &Edits<'_>, out: &mut [u8]) -> Result<usize, DeviceTreeError> {
    let tree = open(blob)?;
    let mut writer = Writer { out, at: 0 };
    for _ in 0..HEADER_BYTES / 4 {
        writer.word(0)?;
    }

    let reservations = writer.at;
    for range in tree.memory_reservations() {
        writer.double(range.address())?;
        writer.double(range.size())?;
    }
    for range in edits.reserved {
        writer.double(range.first().base().0)?;
        writer.double(range.end().base().0.wrapping_sub(range.first().base().0))?;
    }
    writer.double(0)?;
    writer.double(0)?;

    let structure = writer.at;
    let mut copy = Copy {
        tree,
        edits,
        hypervisor_console: hypervisor_console(tree).map(|node| node.name()),
        writer,
        names: Names::default(),
    };
    copy.root()?;
    copy.writer.word(END)?;
    let Copy {
        mut writer, names, ..
    } = copy;

    let strings = writer.at;
    writer.bytes(&names.0)?;

    let end = writer.at;
    let header = [
        MAGIC as usize,
        end,
        structure,
        strings,
        reservations,
        VERSION as usize,
        LAST_COMPATIBLE_VERSION as usize,
        tree.boot_cpuid_phys() as usize,
        end.saturating_sub(strings),
        strings.saturating_sub(structure),
    ];
    writer.at = 0;
    for field in header {
        writer.word(u32::try_from(field).map_err(|_| DeviceTreeError::NoRoom)?)?;
    }
    Ok(end)
}

/// The copy in progress.
struct Copy<'a, 'o> {
    tree: Fdt<'a>,
    edits: &'a Edits<'a>,
    hypervisor_console: Option<&'a str>,
    writer: Writer<'o>,
    names: Names,
}

/// How deep nodes may nest: copying recurses, and the stack is small.
const MAX_DEPTH: usize = 16;

impl<'a> Copy<'a, '_> {
    fn root(&mut self) -> Result<(), DeviceTreeError> {
        let root = self.tree.root();
        self.begin_node(root)?;
        let mut chosen = false;
        for child in root.children() {
            if withheld(child, self.hypervisor_console) {
                continue;
            }
            match child.name() {
                "chosen" => {
                    chosen = true;
                    self.chosen(child)?;
                }
                "aliases" => self.aliases(child)?,
                _ => self.node(child, 1)?,
            }
        }
        if !chosen {
            self.writer.word(BEGIN_NODE)?;
            self.writer.string("chosen")?;
            self.initrd()?;
            self.writer.word(END_NODE)?;
        }
        self.writer.word(END_NODE)
    }

    /// A node `depth` levels below the root, with all that is below it.
    fn node(&mut self, node: FdtNode<'a>, depth: usize) -> Result<(), DeviceTreeError> {
        if depth > MAX_DEPTH {
            return Err(DeviceTreeError::TooMany("nested nodes"));
        }
        self.begin_node(node)?;
        for child in node.children() {
            if depth != 1 || !withheld(child, None) {
                self.node(child, depth.saturating_add(1))?;
            }
        }
        self.writer.word(END_NODE)
    }

    fn chosen(&mut self, node: FdtNode<'a>) -> Result<(), DeviceTreeError> {
        self.writer.word(BEGIN_NODE)?;
        self.writer.string(node.name())?;
        for property in node.properties() {
            if !CHOSEN_DROPPED.contains(&property.name()) {
                self.property(property.name(), property.value())?;
            }
        }
        self.initrd()?;
        for child in node.children() {
            self.node(child, 2)?;
        }
        self.writer.word(END_NODE)
    }

    fn initrd(&mut self) -> Result<(), DeviceTreeError> {
        if let Some((start, end)) = self.edits.initrd {
            self.property("linux,initrd-start", &start.0.to_be_bytes())?;
            self.property("linux,initrd-end", &end.0.to_be_bytes())?;
        }
        Ok(())
    }

    /// The aliases, but for those of withheld devices.
    fn aliases(&mut self, node: FdtNode<'a>) -> Result<(), DeviceTreeError> {
        self.writer.word(BEGIN_NODE)?;
        self.writer.string(node.name())?;
        for property in node.properties() {
            let target = property
                .value_as::<&str>()
                .ok()
                .and_then(|path| self.tree.find_node(path));
            if !target.is_some_and(|target| withheld(target, self.hypervisor_console)) {
                self.property(property.name(), property.value())?;
            }
        }
        self.writer.word(END_NODE)
    }

    /// The node's name and properties.
    fn begin_node(&mut self, node: FdtNode<'a>) -> Result<(), DeviceTreeError> {
        self.writer.word(BEGIN_NODE)?;
        self.writer.string(node.name())?;
        for property in node.properties() {
            if !DROPPED.contains(&property.name()) {
                self.property(property.name(), property.value())?;
            }
        }
        Ok(())
    }

    fn property(&mut self, name: &str, value: &[u8]) -> Result<(), DeviceTreeError> {
        let length = u32::try_from(value.len()).map_err(|_| DeviceTreeError::NoRoom)?;
        let name = self.names.offset(name)?;
        self.writer.word(PROP)?;
        self.writer.word(length)?;
        self.writer.word(name)?;
        self.writer.bytes(value)?;
        self.writer.pad()
    }
}

/// The strings block: each property name once.
#[derive(Default)]
struct Names(heapless::Vec<u8, { Self::BYTES }>);

impl Names {
    /// Room for the names; QEMU's tree has half a KiB of them.
    const BYTES: usize = 2048;
    const FULL: DeviceTreeError = DeviceTreeError::TooMany("property names");

    /// The offset of a name, which is added if it is not there yet.
    fn offset(&mut self, name: &str) -> Result<u32, DeviceTreeError> {
        let mut offset = 0_usize;
        for known in self.0.split(|&byte| byte == 0) {
            if known == name.as_bytes() && offset < self.0.len() {
                return u32::try_from(offset).map_err(|_| Self::FULL);
            }
            offset = offset.saturating_add(known.len()).saturating_add(1);
        }
        let offset = self.0.len();
        self.0
            .extend_from_slice(name.as_bytes())
            .map_err(|_| Self::FULL)?;
        self.0.push(0).map_err(|_| Self::FULL)?;
        u32::try_from(offset).map_err(|_| Self::FULL)
    }
}

/// Writes big-endian cells to a buffer, one after the other.
struct Writer<'o> {
    out: &'o mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), DeviceTreeError> {
        let place = self
            .out
            .get_mut(self.at..)
            .and_then(|rest| rest.get_mut(..bytes.len()))
            .ok_or(DeviceTreeError::NoRoom)?;
        place.copy_from_slice(bytes);
        self.at = self.at.saturating_add(bytes.len());
        Ok(())
    }

    fn word(&mut self, value: u32) -> Result<(), DeviceTreeError> {
        self.bytes(&value.to_be_bytes())
    }

    fn double(&mut self, value: u64) -> Result<(), DeviceTreeError> {
        self.bytes(&value.to_be_bytes())
    }

    /// A NUL-terminated string, padded to the next cell.
    fn string(&mut self, string: &str) -> Result<(), DeviceTreeError> {
        self.bytes(string.as_bytes())?;
        self.bytes(&[0])?;
        self.pad()
    }

    /// Zeroes up to the next cell.
    fn pad(&mut self) -> Result<(), DeviceTreeError> {
        while !self.at.is_multiple_of(4) {
            self.bytes(&[0])?;
        }
        Ok(())
    }
}
