//! Tests on a device tree from QEMU 10.0.2: `-M virt,virtualization=on,gic-version=3,iommu=smmuv3,its=off
//! -cpu cortex-a76 -smp 4 -m 512 -nodefaults -serial null -serial null`, without its padding.

use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use proptest::prelude::*;
use shared_abi::addr::{Pa, PageRange, Pfn};

use super::*;

const VIRT: &[u8] = include_bytes!("../../../tests/data/virt.dtb");

fn range(first: u64, pages: u64) -> PageRange<Pfn> {
    PageRange::<Pfn>::new(Pfn(first), pages).unwrap()
}

fn region(base: u64, bytes: u64) -> DeviceRange {
    DeviceRange { base: Pa(base), bytes }
}

#[test]
fn the_platform_is_what_qemu_says() {
    let platform = Platform::parse(VIRT).unwrap();
    assert_eq!(platform.ram, [range(0x40000, 0x20000)]);
    assert_eq!(platform.cpus, [0, 1, 2, 3]);
    assert_eq!(platform.hypervisor_console, Some(region(0x904_0000, 0x1000)));
    assert_eq!(platform.psci, Conduit::Smc);
    assert_eq!(platform.seed.len(), 40);
    assert_eq!(
        platform.denied,
        [
            range(0x0, 0x8000),  // flash
            range(0x9020, 1),    // fw_cfg
            range(0x9040, 1),    // second PL011
            range(0x9050, 0x20), // SMMU
            range(0xa000, 4),    // virtio-mmio
        ]
    );
}

fn filtered(edits: &Edits<'_>) -> Vec<u8> {
    let mut out = vec![0xaa; 16 << 10];
    let length = filter(VIRT, edits, &mut out).unwrap();
    out.truncate(length);
    out
}

const NO_EDITS: Edits<'_> = Edits { initrd: None, reserved: &[] };

/// Nodes by path, with their properties.
type Nodes = Vec<(String, Vec<(String, Vec<u8>)>)>;

/// Adds `node` and all its descendants to `all`.
fn flatten(node: FdtNode<'_>, path: &str, all: &mut Nodes) {
    let properties =
        node.properties().map(|property| (property.name().to_string(), property.value().to_vec()));
    all.push((path.to_string(), properties.collect()));
    for child in node.children() {
        flatten(child, &std::format!("{path}/{}", child.name()), all);
    }
}

fn nodes(blob: &[u8]) -> Nodes {
    let mut all = Vec::new();
    flatten(Fdt::new(blob).unwrap().root(), "", &mut all);
    all
}

#[test]
fn the_host_sees_all_but_what_is_withheld() {
    let before = nodes(VIRT);
    let after = nodes(&filtered(&NO_EDITS));
    let mut kept = Vec::new();
    for (path, properties) in before {
        let withheld = ["/virtio_mmio@", "/fw-cfg@", "/smmuv3@", "/flash@", "/pmu", "/pl011@9040000"];
        if withheld.iter().any(|prefix| path.starts_with(prefix)) {
            continue;
        }
        let dropped = ["iommu-map", "rng-seed", "kaslr-seed", "serial1"];
        let properties = properties.into_iter().filter(|(name, _)| !dropped.contains(&name.as_str()));
        kept.push((path, properties.collect::<Vec<_>>()));
    }
    assert_eq!(after, kept);
}

#[test]
fn no_seed_is_left() {
    let seed = Platform::parse(VIRT).unwrap().seed;
    let blob = filtered(&NO_EDITS);
    for piece in seed.chunks(8) {
        assert!(!blob.windows(piece.len()).any(|window| window == piece));
    }
}

#[test]
fn the_copy_names_ramdisk_and_reservations() {
    let reserved = [range(0x40200, 0x100), range(0x5ff00, 0x100)];
    let blob = filtered(&Edits { initrd: Some((Pa(0x4100_0000), Pa(0x4180_0000))), reserved: &reserved });
    let tree = Fdt::new(&blob).unwrap();
    let chosen = tree.root().child("chosen").unwrap();
    let value = |name| chosen.property(name).unwrap().value_as::<u64>().unwrap();
    assert_eq!(value("linux,initrd-start"), 0x4100_0000);
    assert_eq!(value("linux,initrd-end"), 0x4180_0000);
    let told: Vec<_> = tree.memory_reservations().map(|range| (range.address(), range.size())).collect();
    assert_eq!(told, [(0x4020_0000, 0x10_0000), (0x5ff0_0000, 0x10_0000)]);
}

#[test]
fn filtering_twice_changes_nothing_more() {
    let once = filtered(&NO_EDITS);
    let mut twice = vec![0; once.len()];
    // The copy has no hypervisor console any more, so the host keeps the remaining PL011.
    let length = filter(&once, &NO_EDITS, &mut twice).unwrap();
    assert_eq!(twice.get(..length), Some(once.as_slice()));
}

#[test]
fn too_little_room_is_an_error() {
    let reserved = [range(0x40200, 0x100)];
    let edits = Edits { initrd: Some((Pa(0x4100_0000), Pa(0x4180_0000))), reserved: &reserved };
    // The size of one reservation and two properties. A property has 12 bytes of header, 8 of value and a new
    // name.
    let names = b"linux,initrd-start\0linux,initrd-end\0".len();
    let needed = VIRT.len() + 16 + 2 * (12 + 8) + names;
    let mut out = vec![0; needed];
    for room in (0..needed).step_by(61).chain([needed - 1]) {
        assert_eq!(
            filter(VIRT, &edits, &mut out[..room]),
            Err(DeviceTreeError::NoRoom),
            "{room} of {needed} bytes"
        );
    }
    assert_eq!(filter(VIRT, &edits, &mut out), Ok(filtered(&edits).len()));
}

#[test]
fn the_length_is_the_headers() {
    let start = |bytes: &[u8]| <[u8; 8]>::try_from(&bytes[..8]).unwrap();
    assert_eq!(total_bytes(&start(VIRT)), Ok(VIRT.len()));
    assert_eq!(total_bytes(&[0; 8]), Err(DeviceTreeError::Malformed));
    let mut long = start(VIRT);
    long[4] = 0xff;
    assert_eq!(total_bytes(&long), Err(DeviceTreeError::Malformed));
}

/// Returns the tree with the first `from` replaced by `to`, which has the same length.
fn patched(from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut blob = VIRT.to_vec();
    let at = blob.windows(from.len()).position(|window| window == from);
    blob[at.unwrap()..][..to.len()].copy_from_slice(to);
    blob
}

#[test]
fn missing_requirements_are_refused() {
    for (from, to, missing) in [
        (&b"memory\0"[..], &b"memorx\0"[..], DeviceTreeError::Missing("RAM")),
        (b"arm,gic-v3\0", b"arm,gic-vX\0", DeviceTreeError::Missing("GICv3")),
        (b"arm,psci-1.0\0", b"arm,psci-9.0\0", DeviceTreeError::Missing("PSCI 1.0")),
        (b"smc\0", b"svc\0", DeviceTreeError::Missing("PSCI 1.0")),
    ] {
        let result = Platform::parse(&patched(from, to));
        assert_eq!(result.err(), Some(missing));
    }
}

#[test]
fn a_cpu_is_named_once() {
    // The `reg` of a CPU is one cell.
    let reg = |cpu: u32| {
        let mut bytes = 3_u32.to_be_bytes().to_vec();
        bytes.extend([4, nameoff("reg"), cpu].map(u32::to_be_bytes).concat());
        bytes
    };
    assert!(Platform::parse(&patched(&reg(1), &reg(9))).is_ok());
    for wrong in [0, 1 << 31] {
        let result = Platform::parse(&patched(&reg(1), &reg(wrong)));
        assert_eq!(result.err(), Some(DeviceTreeError::Malformed), "{wrong:#x}");
    }
}

#[test]
fn odd_cells_are_refused() {
    // #address-cells of the root follows #size-cells; both are <2>.
    let root = Fdt::new(VIRT).unwrap().root();
    assert!(root.property("#address-cells").is_some());
    let cells = |name, value: u32| [3, 4, nameoff(name), value].map(u32::to_be_bytes).concat();
    let both = |address, size| [cells("#size-cells", size), cells("#address-cells", address)].concat();
    for odd in [0, 3, u32::MAX] {
        // A region of this tree has four cells.
        for (address, size) in [(odd, 2), (2, odd), (odd, odd), (odd, 1), (1, odd)] {
            let result = Platform::parse(&patched(&both(2, 2), &both(address, size)));
            assert_eq!(result.err(), Some(DeviceTreeError::Malformed), "{address} and {size}");
        }
    }
}

/// Returns the tree with `bytes` inserted at `at`. The inserted bytes belong to the block whose length is in
/// the header at `length`. The strings block follows the structure block.
fn longer(at: usize, bytes: &[u8], length: usize) -> Vec<u8> {
    let mut blob = VIRT.to_vec();
    let moves = [Some(4), Some(length), (length == STRUCTURE_BYTES).then_some(STRINGS)];
    for field in moves.into_iter().flatten() {
        let value = u32::try_from(word(field) + bytes.len()).unwrap();
        blob[field..field + 4].copy_from_slice(&value.to_be_bytes());
    }
    blob.splice(at..at, bytes.iter().copied());
    blob
}

/// Offsets of header fields.
const STRUCTURE: usize = 8;
const STRINGS: usize = 12;
const STRINGS_BYTES: usize = 32;
const STRUCTURE_BYTES: usize = 36;

fn word(at: usize) -> usize {
    u32::from_be_bytes(VIRT[at..at + 4].try_into().unwrap()) as usize
}

fn refusal(blob: &[u8]) -> Option<DeviceTreeError> {
    filter(blob, &NO_EDITS, &mut vec![0; 16 << 10]).err()
}

#[test]
fn nodes_that_are_edited_are_there_once() {
    for twin in [b"chosen\0\0", b"aliases\0"] {
        assert_eq!(refusal(&patched(b"timer\0\0\0", twin)), Some(DeviceTreeError::Malformed));
    }
}

#[test]
fn unreferenced_strings_are_checked() {
    for (string, refused) in [
        (&b"x\0"[..], None),
        (b"x", Some(DeviceTreeError::Malformed)),
        (b"\xff\0", Some(DeviceTreeError::Malformed)),
    ] {
        assert_eq!(refusal(&longer(VIRT.len(), string, STRINGS_BYTES)), refused, "{string:?}");
    }
}

#[test]
fn nesting_depth_is_bounded() {
    // Before the end of the root node and of the structure block.
    let at = word(STRUCTURE) + word(STRUCTURE_BYTES) - 8;
    let nested = |depth| [b"\0\0\0\x01a\0\0\0".repeat(depth), b"\0\0\0\x02".repeat(depth)].concat();
    for (depth, refused) in [(16, None), (17, Some(DeviceTreeError::TooMany("nested nodes")))] {
        assert_eq!(refusal(&longer(at, &nested(depth), STRUCTURE_BYTES)), refused, "{depth} levels");
    }
}

/// Returns a property. Its name must be in the tree's strings block.
fn property(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = [3, value.len() as u32, nameoff(name)].map(u32::to_be_bytes).concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Returns the tree with one more node below the root. The node's name has three or seven letters.
fn with_node(name: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let at = word(STRUCTURE) + word(STRUCTURE_BYTES) - 8;
    longer(at, &node(name, parts), STRUCTURE_BYTES)
}

fn node(name: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    [b"\0\0\0\x01", name, b"\0", &parts.concat(), b"\0\0\0\x02"].concat()
}

#[test]
fn devices_below_an_interrupt_controller_are_withheld_too() {
    let reg = property("reg", &[0, 0x0808_0000, 0, 0x2_0000].map(u32::to_be_bytes).concat());
    let cells = property("#size-cells", &2_u32.to_be_bytes());
    let its = node(b"its", &[&property("compatible", b"arm,gic-v3-its\0"), &reg]);
    let blob = with_node(b"gic", &[&cells, &property("ranges", b""), &its]);
    assert!(Fdt::new(&blob).unwrap().find_node("/gic/its").is_some());
    assert!(Platform::parse(&blob).unwrap().denied.contains(&range(0x8080, 0x20)));
    let mut out = vec![0; 16 << 10];
    let length = filter(&blob, &NO_EDITS, &mut out).unwrap();
    let host = Fdt::new(&out[..length]).unwrap();
    assert!(host.find_node("/gic").is_some());
    assert!(host.find_node("/gic/its").is_none());
    let elsewhere = with_node(b"gic", &[&cells, &its]);
    assert_eq!(Platform::parse(&elsewhere).err(), Some(DeviceTreeError::Malformed));
}

#[test]
fn ranges_of_ram_that_touch_are_one() {
    for (first, pages, ram) in [
        (0x6_0000, 0x100, &[range(0x4_0000, 0x2_0100)][..]),
        (0x3_ff00, 0x100, &[range(0x3_ff00, 0x2_0100)]),
        (0x5_ff00, 0x200, &[range(0x4_0000, 0x2_0100)]),
        (0x6_0001, 0x100, &[range(0x4_0000, 0x2_0000), range(0x6_0001, 0x100)]),
        (0x3_fe00, 0x100, &[range(0x3_fe00, 0x100), range(0x4_0000, 0x2_0000)]),
    ] {
        let reg = property("reg", &[0, first << 12, 0, pages << 12].map(u32::to_be_bytes).concat());
        let blob = with_node(b"memory2", &[&property("device_type", b"memory\0"), &reg]);
        assert_eq!(Platform::parse(&blob).unwrap().ram, ram, "{first:#x}");
    }
}

#[test]
fn a_cpu_may_have_an_address_of_two_cells() {
    let reg = property("reg", &1_u32.to_be_bytes());
    let at = VIRT.windows(reg.len()).position(|window| window == reg).unwrap();
    let mut blob = longer(at + reg.len(), &9_u32.to_be_bytes(), STRUCTURE_BYTES);
    blob[at + 7] = 8;
    assert_eq!(Platform::parse(&blob).unwrap().cpus, [0, 0x1_0000_0009, 2, 3]);
}

#[test]
fn firmware_is_called_as_it_says() {
    let blob = patched(b"smc\0", b"hvc\0");
    assert_eq!(Platform::parse(&blob).unwrap().psci, Conduit::Hvc);
}

/// Returns the offset of a property name in the strings block.
fn nameoff(name: &str) -> u32 {
    let word = |at: usize| u32::from_be_bytes(VIRT[at..at + 4].try_into().unwrap());
    let strings = &VIRT[word(12) as usize..];
    let mut needle = name.as_bytes().to_vec();
    needle.push(0);
    let at = strings.windows(needle.len()).position(|window| window == needle);
    u32::try_from(at.unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn noise_is_an_error(blob in proptest::collection::vec(any::<u8>(), 0..512)) {
        let mut out = [0; 1024];
        prop_assert!(Platform::parse(&blob).is_err());
        prop_assert!(filter(&blob, &NO_EDITS, &mut out).is_err());
    }

    #[test]
    fn damage_never_panics(
        damage in proptest::collection::vec((0..VIRT.len(), any::<u8>()), 1..8),
        cut in 0..VIRT.len(),
    ) {
        let mut blob = VIRT.to_vec();
        for (at, byte) in damage {
            blob[at] = byte;
        }
        let mut out = vec![0; 16 << 10];
        for blob in [&blob[..], &blob[..cut]] {
            let _ = Platform::parse(blob);
            if let Ok(length) = filter(blob, &NO_EDITS, &mut out) {
                prop_assert!(Fdt::new(&out[..length]).is_ok());
            }
        }
    }
}
