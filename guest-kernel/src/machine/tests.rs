use super::*;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use proptest::prelude::*;

const IMAGE: Span = 0x4020_0000..0x4028_0000;
const TREE: u64 = 0x4800_0000;
const RAM: Span = 0x4000_0000..0x5000_0000;
/// The same, as [`memory`] takes it.
const BANK: (u64, u64) = (RAM.start, RAM.end);

/// Cells, as a property's value.
fn cells(values: &[u64]) -> Vec<u32, 16> {
    values.iter().flat_map(|value| [(value >> 32) as u32, *value as u32]).collect()
}

fn node(name: &str, properties: &[(&str, &[u32])], strings: &[(&str, &str)]) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new(name).unwrap();
    for (name, value) in properties {
        let bytes: std::vec::Vec<u8> = value.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        node.add_property(DeviceTreeProperty::new(*name, bytes.as_slice()).unwrap());
    }
    for (name, value) in strings {
        node.add_property(DeviceTreeProperty::new(*name, *value).unwrap());
    }
    node
}

/// A memory node with banks of these starts and ends.
fn memory(banks: &[(u64, u64)]) -> DeviceTreeNode {
    let reg: std::vec::Vec<u32> =
        banks.iter().flat_map(|(start, end)| cells(&[*start, end.wrapping_sub(*start)])).collect();
    node("memory", &[("reg", reg.as_slice())], &[("device_type", "memory")])
}

fn initrd_at(span: Span) -> DeviceTreeNode {
    node(
        "chosen",
        &[("linux,initrd-start", &cells(&[span.start])), ("linux,initrd-end", &cells(&[span.end]))],
        &[("bootargs", "a=b")],
    )
}

fn tree(children: impl IntoIterator<Item = DeviceTreeNode>) -> std::vec::Vec<u8> {
    let mut tree = DeviceTree::new();
    for name in ["#address-cells", "#size-cells"] {
        tree.root.add_property(DeviceTreeProperty::new(name, 2_u32).unwrap());
    }
    for child in children {
        tree.root.add_child(child);
    }
    tree.to_dtb()
}

fn parse(children: impl IntoIterator<Item = DeviceTreeNode>) -> Result<Platform, Error> {
    Platform::parse(&tree(children), TREE, IMAGE)
}

fn virtio(name: &str, base: u64, bytes: u64, spi: u32) -> DeviceTreeNode {
    node(
        name,
        &[("reg", &cells(&[base, bytes])), ("interrupts", &[0, spi, 1])],
        &[("compatible", "virtio,mmio")],
    )
}

fn gic(distributor: u64, redistributor: u64) -> DeviceTreeNode {
    node(
        "intc",
        &[("reg", &cells(&[distributor, 0x1_0000, redistributor, 0x2_0000]))],
        &[("compatible", "arm,gic-v3")],
    )
}

#[test]
fn a_sound_machine_is_taken_as_it_is() {
    let machine = parse([
        memory(&[BANK]),
        initrd_at(0x4400_0000..0x4400_1234),
        gic(0x0800_0000, 0x080a_0000),
        node(
            "timer",
            &[("interrupts", &[1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4])],
            &[("compatible", "arm,armv8-timer")],
        ),
        node("pl011@9000000", &[("reg", &cells(&[0x0900_0000, 0x1000]))], &[("compatible", "arm,pl011")]),
        node("psci", &[], &[("compatible", "arm,psci-1.0"), ("method", "hvc")]),
        virtio("virtio_mmio@a000000", 0x0a00_0000, 0x200, 16),
    ])
    .unwrap();
    assert_eq!(machine.ram.as_slice(), &[RAM]);
    assert_eq!(machine.initrd, Some(0x4400_0000..0x4400_1234));
    assert_eq!(machine.bootargs, "a=b");
    assert_eq!(machine.conduit, Some(Conduit::Hvc));
    assert_eq!(machine.timer, Some(27));
    assert_eq!(machine.uart, Some(0x0900_0000));
    assert_eq!(machine.gic.map(|gic| (gic.distributor, gic.redistributor)), Some((0x0800_0000, 0x080a_0000)));
    assert_eq!(
        machine.virtio.as_slice(),
        &[VirtioSlot { registers: 0x0a00_0000..0x0a00_0200, interrupt: Interrupt { intid: 48, edge: true } }]
    );
}

#[test]
fn memory_that_makes_no_sense_is_refused() {
    for banks in [
        &[(0x4000_0800, 0x5000_0000)][..],
        &[(0x4000_0000, 0x5000_0800)],
        &[BANK, (0x4fff_f000, 0x6000_0000)],
        &[BANK, (0x7f_ffff_f000, 0x80_0000_1000)],
        &[],
    ] {
        assert_eq!(parse([memory(banks)]).err(), Some(Error::Memory));
    }
    // A bank with no end in the address space is no bank.
    assert_eq!(parse([memory(&[(0xffff_ffff_ffff_f000, 0x1000)])]).err(), Some(Error::Memory));
    let many = [0, 1, 2, 3, 4, 5, 6, 7, 8].map(|n| (n << 28, (n << 28) + 0x1000));
    assert_eq!(parse([memory(&many)]).err(), Some(Error::TooMany));
}

#[test]
fn payload_tree_and_initrd_lie_in_memory_and_apart() {
    let elsewhere = memory(&[(0x6000_0000, 0x7000_0000)]);
    assert_eq!(parse([elsewhere]).err(), Some(Error::Placement("payload")));
    let cut = memory(&[(RAM.start, IMAGE.end - 0x1000)]);
    assert_eq!(parse([cut]).err(), Some(Error::Placement("payload")));
    let without_tree = memory(&[(RAM.start, TREE)]);
    assert_eq!(parse([without_tree]).err(), Some(Error::Placement("device tree")));
    let over_payload = Platform::parse(&tree([memory(&[BANK])]), IMAGE.start, IMAGE);
    assert_eq!(over_payload.err(), Some(Error::Placement("device tree")));
    for initrd in [
        IMAGE.end - 1..IMAGE.end + 1,
        TREE..TREE + 1,
        RAM.end - 1..RAM.end + 1,
        0x3fff_ffff..0x4000_0001,
        0..u64::MAX,
        Span { start: 0x4100_0001, end: 0x4100_0000 },
    ] {
        assert_eq!(
            parse([memory(&[BANK]), initrd_at(initrd.clone())]).err(),
            Some(Error::Placement("initrd")),
            "{initrd:?}"
        );
    }
}

#[test]
fn a_device_over_memory_is_not_there() {
    let machine = parse([
        memory(&[BANK]),
        gic(0x0800_0000, RAM.start - 0x1000),
        virtio("virtio_mmio@40000e00", RAM.start, 0x200, 1),
        virtio("virtio_mmio@3ffffe00", RAM.start - 0x200, 0x300, 2),
        virtio("virtio_mmio@a000000", 0x0a00_0000, 0x80, 3),
        virtio("virtio_mmio@a000200", 0x0a00_0200, 0x200, 1000),
        virtio("virtio_mmio@8000000000", 1 << 39, 0x200, 4),
        virtio("virtio_mmio@a000400", 0x0a00_0400, u64::MAX, 5),
        node("pl011@40201000", &[("reg", &cells(&[IMAGE.start, 0x1000]))], &[("compatible", "arm,pl011")]),
    ])
    .unwrap();
    assert_eq!(machine.gic, None);
    assert_eq!(machine.uart, None);
    assert!(machine.virtio.is_empty());
}

#[test]
fn free_memory_leaves_out_whatever_is_taken() {
    let mut reserved = node("reserved-memory", &[], &[]);
    for name in ["#address-cells", "#size-cells"] {
        reserved.add_property(DeviceTreeProperty::new(name, 2_u32).unwrap());
    }
    reserved.add_child(node("pool@4a000000", &[("reg", &cells(&[0x4a00_0000, 0x1000]))], &[]));
    let machine = parse([memory(&[BANK]), initrd_at(0x4400_0800..0x4400_1234), reserved]).unwrap();
    assert_eq!(machine.free_memory(), Some(0x4a00_1000..RAM.end));

    let machine = parse([memory(&[BANK]), initrd_at(0x4fff_f800..0x4fff_f801)]).unwrap();
    let free = machine.free_memory().unwrap();
    assert_eq!(free, 0x4800_1000..0x4fff_f000);
}

proptest! {
    #[test]
    fn damage_never_panics(edits in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..40)) {
        let mut bytes = tree([
            memory(&[BANK]),
            initrd_at(0x4400_0000..0x4400_1234),
            gic(0x0800_0000, 0x080a_0000),
            virtio("virtio_mmio@a000000", 0x0a00_0000, 0x200, 16),
        ]);
        for (position, value) in edits {
            let position = usize::from(position) % bytes.len();
            bytes[position] = value;
        }
        if let Ok(machine) = Platform::parse(&bytes, TREE, IMAGE)
            && let Some(free) = machine.free_memory()
        {
            for part in [&machine.image, &machine.tree].into_iter().chain(&machine.initrd) {
                prop_assert!(!overlap(part, &free));
            }
            prop_assert!(free.start % PAGE_SIZE == 0 && free.end % PAGE_SIZE == 0);
        }
    }
}
