use super::*;
use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};

const CONFIG: GuestConfig<'static> = GuestConfig {
    vcpus: 2,
    memory_bytes: 64 << 20,
    devices: &[VirtioKind::Console, VirtioKind::Block],
    bootargs: "console=ttyAMA0",
    payload: &[0xd5; 5000],
    initrd: &[0x11; 4097],
};

#[test]
fn payload_initrd_and_device_tree_lie_above_each_other() {
    let layout = GuestLayout::new(&CONFIG).unwrap();
    assert_eq!(layout.entry, Ipa(0x4020_0000));
    assert_eq!(layout.device_tree, Ipa(0x4060_0000));
    let pages: Vec<u64> = layout.pages().map(|gfn| gfn.0).collect();
    assert_eq!(pages[..4], [0x40200, 0x40201, 0x40400, 0x40401]);
    assert_eq!(pages[4], 0x40600);
    assert!(pages.is_sorted());
}

#[test]
fn a_page_is_padded_with_zeroes() {
    let layout = GuestLayout::new(&CONFIG).unwrap();
    let last = layout.content(Gfn(0x40201));
    assert!(last[..904].iter().all(|byte| *byte == 0xd5));
    assert!(last[904..].iter().all(|byte| *byte == 0));
    assert_eq!(layout.content(Gfn(0x40300)), [0; 4096]);
}

#[test]
fn the_layout_is_a_function_of_the_configuration() {
    let (one, other) = (GuestLayout::new(&CONFIG), GuestLayout::new(&CONFIG));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(one.pages().eq(other.pages()));
    assert!(one.pages().all(|gfn| one.content(gfn) == other.content(gfn)));
}

/// The device tree as the guest finds it.
fn device_tree(layout: &GuestLayout<'_>) -> Vec<u8> {
    let first = layout.device_tree.page();
    let mut blob: Vec<u8> =
        layout.pages().filter(|gfn| *gfn >= first).flat_map(|gfn| layout.content(gfn)).collect();
    // The header's second word is the size of the tree; the rest of its last page is padding.
    let total = u32::from_be_bytes(blob[4..8].try_into().unwrap());
    blob.truncate(total as usize);
    blob
}

#[test]
fn the_device_tree_says_where_everything_is() {
    let layout = GuestLayout::new(&CONFIG).unwrap();
    let blob = device_tree(&layout);
    let fdt = Fdt::new(&blob).unwrap();
    let property = |node: &str, name: &str| -> Vec<u8> {
        let node = fdt.find_node(node).unwrap();
        node.property(name).unwrap().value().to_vec()
    };
    let words = |node: &str, name: &str| -> Vec<u32> {
        let value = property(node, name);
        let words = value.chunks_exact(4);
        words.map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect()
    };
    assert_eq!(property("/chosen", "bootargs"), b"console=ttyAMA0\0");
    assert_eq!(property("/chosen", "stdout-path"), b"/pl011@9000000\0");
    assert_eq!(words("/chosen", "linux,initrd-start"), [0, 0x4040_0000]);
    assert_eq!(words("/chosen", "linux,initrd-end"), [0, 0x4040_1001]);
    assert!(fdt.find_node("/chosen").unwrap().property("rng-seed").is_none());
    assert_eq!(words("/memory@40000000", "reg"), [0, 0x4000_0000, 0, 0x400_0000]);
    assert_eq!(property("/psci", "compatible"), b"arm,psci-1.0\0arm,psci-0.2\0arm,psci\0");
    assert_eq!(words("/intc@8000000", "reg"), [0, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0x4_0000]);
    assert_eq!(words("/cpus/cpu@1", "reg"), [1]);
    assert_eq!(words("/virtio_mmio@a001000", "reg"), [0, 0xa00_1000, 0, 0x1000]);
    assert_eq!(words("/virtio_mmio@a001000", "interrupts"), [0, 17, 1]);
    assert_eq!(words("/pl011@9000000", "interrupts"), [0, 1, 4]);
    assert_eq!(words("/timer", "interrupts")[6..9], [1, 11, 4]);
}

#[test]
fn what_was_not_asked_for_is_not_there() {
    let config = GuestConfig { devices: &[], bootargs: "", initrd: &[], ..CONFIG };
    let layout = GuestLayout::new(&config).unwrap();
    assert_eq!(layout.device_tree, Ipa(0x4040_0000));
    let blob = device_tree(&layout);
    let fdt = Fdt::new(&blob).unwrap();
    let chosen = fdt.find_node("/chosen").unwrap();
    assert!(chosen.property("bootargs").is_none());
    assert!(chosen.property("linux,initrd-start").is_none());
    assert!(fdt.find_node("/virtio_mmio@a000000").is_none());
}

#[test]
fn impossible_guests_are_refused() {
    let refused = |config: GuestConfig<'_>| GuestLayout::new(&config).unwrap_err();
    for vcpus in [0, MAX_VCPUS + 1] {
        assert_eq!(refused(GuestConfig { vcpus, ..CONFIG }), LayoutError::Vcpus(vcpus));
    }
    for memory_bytes in [0, 4095, 4097, u64::MAX - 4095] {
        assert_eq!(refused(GuestConfig { memory_bytes, ..CONFIG }), LayoutError::MemorySize(memory_bytes));
    }
    assert_eq!(refused(GuestConfig { devices: &[VirtioKind::Block; 9], ..CONFIG }), LayoutError::Devices);
    assert_eq!(refused(GuestConfig { bootargs: "a\0b", ..CONFIG }), LayoutError::BootArgs);
    for memory_bytes in [4 << 20, 6 << 20] {
        assert!(matches!(refused(GuestConfig { memory_bytes, ..CONFIG }), LayoutError::TooLarge { .. }));
    }
    assert!(matches!(
        refused(GuestConfig { memory_bytes: 2 << 20, ..CONFIG }),
        LayoutError::Payload(PayloadError::TooLarge { .. })
    ));
}
