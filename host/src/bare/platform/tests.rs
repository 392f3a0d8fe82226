use super::*;
use dtoolkit::memreserve::MemoryReservation;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

const GIC_PHANDLE: u32 = 0x8005;

fn node<const N: usize>(name: &str, properties: [(&str, &[u32]); N]) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new_unchecked(name);
    for (name, cells) in properties {
        let bytes: Vec<u8, 1024> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        node.add_property(DeviceTreeProperty::new_unchecked(name, bytes.as_slice()));
    }
    node
}

fn text(mut node: DeviceTreeNode, name: &str, value: &str) -> DeviceTreeNode {
    node.remove_property(name);
    node.add_property(DeviceTreeProperty::new_unchecked(name, value));
    node
}

/// `interrupt-map` of QEMU's `virt`: device d's pin p goes to SPI 3 + (d + p) % 4.
fn swizzle() -> std::vec::Vec<u32> {
    let entries = (0..4).flat_map(|device| (1..=4).map(move |pin| (device, pin)));
    entries
        .flat_map(|(device, pin)| {
            let spi = 3 + (device + pin - 1) % 4;
            [device << 11, 0, 0, pin, GIC_PHANDLE, 0, 0, 0, spi, 4]
        })
        .collect()
}

/// A machine like QEMU's `virt` under the hypervisor.
fn machine() -> DeviceTree {
    let mut tree = DeviceTree::new();
    tree.memory_reservations.push(MemoryReservation::new(0x4020_0000, 0x10_0000));
    let root = &mut tree.root;
    for (name, value) in [("#address-cells", 2_u32), ("#size-cells", 2)] {
        root.add_property(DeviceTreeProperty::new_unchecked(name, value));
    }
    root.add_child(node("memory@40000000", [("reg", &[0, 0x4000_0000, 0, 0x2000_0000])]));
    root.add_child(text(
        node("chosen", [("linux,initrd-start", &[0, 0x4030_0000]), ("linux,initrd-end", &[0x4050_0000])]),
        "stdout-path",
        "/pl011@9040000:115200",
    ));
    for base in [0x0900_0000, 0x0904_0000] {
        root.add_child(text(
            node(&format!("pl011@{base:x}"), [("reg", &[0, base, 0, 0x1000])]),
            "compatible",
            "arm,pl011",
        ));
    }
    root.add_child(text(
        node(
            "intc@8000000",
            [
                ("reg", &[0, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0xf6_0000]),
                ("phandle", &[GIC_PHANDLE]),
                ("#address-cells", &[2]),
            ],
        ),
        "compatible",
        "arm,gic-v3",
    ));
    root.add_child(text(node("psci", []), "method", "smc"));
    root.add_child(text(
        node("timer", [("interrupts", &[1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4])]),
        "compatible",
        "arm,armv8-timer",
    ));
    let mut cpus = node("cpus", [("#address-cells", &[1]), ("#size-cells", &[0])]);
    cpus.add_child(node("cpu@0", [("reg", &[0])]));
    cpus.add_child(node("cpu@100", [("reg", &[0x100])]));
    root.add_child(cpus);
    root.add_child(text(
        node(
            "pcie@10000000",
            [
                ("reg", &[0x40, 0x1000_0000, 0, 0x1000_0000]),
                (
                    "ranges",
                    &[
                        0x100_0000,
                        0,
                        0,
                        0,
                        0x3eff_0000,
                        0,
                        0x1_0000, // ports
                        0x200_0000,
                        0,
                        0x1000_0000,
                        0,
                        0x1000_0000,
                        0,
                        0x2eff_0000, // memory
                        0x300_0000,
                        0x80,
                        0,
                        0x80,
                        0,
                        0x80,
                        0, // memory above 4 GiB
                    ],
                ),
                ("interrupt-map", &swizzle()),
                ("interrupt-map-mask", &[0x1800, 0, 0, 7]),
                ("#address-cells", &[3]),
                ("#size-cells", &[2]),
            ],
        ),
        "compatible",
        "pci-host-ecam-generic",
    ));
    tree
}

fn parse(tree: &DeviceTree) -> Result<Platform, Error> {
    let dtb = tree.to_dtb();
    Platform::parse(Fdt::new(&dtb).expect("a tree that was just written"))
}

#[test]
fn a_machine_is_read() {
    let platform = parse(&machine()).unwrap();
    assert_eq!(platform.ram.first(), Some(&(0x4000_0000..0x6000_0000)));
    assert_eq!(platform.ram_span(), 0x4000_0000..0x6000_0000);
    assert_eq!(platform.reserved.first(), Some(&(0x4020_0000..0x4030_0000)));
    assert_eq!(platform.image, Some(0x4030_0000..0x4050_0000));
    assert_eq!(platform.uart, 0x0904_0000..0x0904_1000);
    assert_eq!(platform.distributor, 0x0800_0000..0x0801_0000);
    assert_eq!(platform.redistributors, 0x080a_0000..0x0900_0000);
    assert_eq!(platform.device_tree.end - platform.device_tree.start, machine().to_dtb().len() as u64);
    assert_eq!(platform.cpus, [0, 0x100]);
    assert_eq!(platform.psci, Conduit::Smc);
    assert_eq!(platform.physical_timer, 30);
    let pci = platform.pci.as_ref().unwrap();
    assert_eq!(pci.configuration, 0x40_1000_0000..0x40_2000_0000);
    assert_eq!(pci.window, 0x1000_0000..0x3eff_0000);
    assert_eq!(platform.device_ranges().count(), 5);
}

#[test]
fn interrupt_lines_are_swizzled_by_device_and_pin() {
    let platform = parse(&machine()).unwrap();
    let pci = platform.pci.as_ref().unwrap();
    assert_eq!(pci.interrupt(0, 1), Some(32 + 3));
    assert_eq!(pci.interrupt(1, 1), Some(32 + 4));
    assert_eq!(pci.interrupt(2, 1), Some(32 + 5));
    assert_eq!(pci.interrupt(3, 2), Some(32 + 3));
    assert_eq!(pci.interrupt(5, 1), pci.interrupt(1, 1));
    assert_eq!(pci.interrupt(1, 0), None);
}

#[test]
fn what_is_missing_is_named() {
    for (child, what) in [
        ("memory@40000000", "memory"),
        ("intc@8000000", "GICv3"),
        ("cpus", "CPUs"),
        ("psci", "PSCI"),
        ("timer", "timer"),
    ] {
        let mut tree = machine();
        tree.root.remove_child(child).unwrap();
        assert_eq!(parse(&tree).err(), Some(Error::Missing(what)), "{child}");
    }
    let mut tree = machine();
    tree.root.remove_child("pcie@10000000").unwrap();
    assert!(parse(&tree).unwrap().pci.is_none());
    tree.root.remove_child("chosen").unwrap();
    let platform = parse(&tree).unwrap();
    assert_eq!((platform.image, platform.uart.start), (None, 0x0900_0000));
}

#[test]
fn nonsense_is_refused() {
    let mut tree = machine();
    let timer = tree.root.child_mut("timer").unwrap();
    timer.remove_property("interrupts");
    timer.add_property(DeviceTreeProperty::new_unchecked("interrupts", 1_u32));
    assert_eq!(parse(&tree).err(), Some(Error::Bad("timer interrupts")));

    let mut tree = machine();
    let chosen = tree.root.child_mut("chosen").unwrap();
    chosen.remove_property("linux,initrd-end");
    assert_eq!(parse(&tree).err(), Some(Error::Bad("initrd range")));

    let mut tree = machine();
    let cpus = tree.root.child_mut("cpus").unwrap();
    cpus.add_child(node("cpu@10", [("reg", &[0x10])]));
    assert_eq!(parse(&tree).err(), Some(Error::Bad("CPU affinity")));

    let mut tree = machine();
    let psci = tree.root.remove_child("psci").unwrap();
    tree.root.add_child(text(psci, "method", "svc"));
    assert_eq!(parse(&tree).err(), Some(Error::Bad("PSCI method")));
}
