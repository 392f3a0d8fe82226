//! Target: the device tree. The parsed platform is consistent, and the host's copy has every node and property of the
//! original, except those that the host must not have.
//!
//! The input is a flattened device tree.

use std::collections::BTreeSet;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use hyp_core::boot::device_tree::{Edits, MAX_BYTES, Platform, filter, total_bytes};
use shared_abi::addr::{Pa, PageRange, Pfn};

/// Compatible strings of the devices that the host's copy must not have.
const WITHHELD: [&[u8]; 6] = [
    b"arm,armv8-pmuv3",
    b"arm,gic-v3-its",
    b"arm,smmu-v3",
    b"cfi-flash",
    b"qemu,fw-cfg-mmio",
    b"virtio,mmio",
];
/// Properties that refer to these devices. The copy must not have them either.
const DROPPED: [&str; 5] = ["iommu-map", "iommu-map-mask", "iommus", "msi-map", "msi-parent"];
/// Properties with the hypervisor's secrets.
const SEEDS: [&str; 2] = ["rng-seed", "kaslr-seed"];

const INITRD: (Pa, Pa) = (Pa(0x4100_0000), Pa(0x4180_0000));
const RESERVED: (Pfn, u64) = (Pfn(0x40200), 0x100);

/// Runs the target on an input.
pub fn run(data: &[u8]) {
    if let Some(start) = data.first_chunk()
        && let Ok(bytes) = total_bytes(start)
    {
        assert!(bytes <= MAX_BYTES);
    }
    let platform = Platform::parse(data);
    if let Ok(platform) = &platform {
        check_platform(platform);
    }

    let reserved = [PageRange::<Pfn>::new(RESERVED.0, RESERVED.1).expect("a range")];
    let edits = Edits { initrd: Some(INITRD), reserved: &reserved };
    let mut copy = vec![0xaa; data.len() + 4096];
    let Ok(length) = filter(data, &edits, &mut copy) else {
        return;
    };
    copy.truncate(length);
    check_copy(data, &copy);
    // A buffer of exactly the copy's length is enough. One byte less is an error.
    let mut exact = vec![0; length];
    assert_eq!(filter(data, &edits, &mut exact), Ok(length));
    assert_eq!(exact, copy);
    assert!(filter(data, &edits, &mut exact[..length - 1]).is_err());
}

/// Checks that ranges ascend and do not overlap.
fn check_platform(platform: &Platform) {
    for ranges in [platform.ram.as_slice(), platform.denied.as_slice()] {
        for pair in ranges.windows(2) {
            assert!(pair[0].end() < pair[1].first(), "{ranges:?}");
        }
    }
    assert!(!platform.ram.is_empty() && !platform.cpus.is_empty());
    for (index, cpu) in platform.cpus.iter().enumerate() {
        assert!(!platform.cpus[..index].contains(cpu), "a CPU twice");
    }
    if let Some(console) = platform.hypervisor_console {
        assert!(
            platform.denied.iter().any(|range| range.contains(console.base.page())),
            "the host may not reach the hypervisor's console"
        );
    }
}

fn is_compatible(node: FdtNode<'_>, names: &[&[u8]]) -> bool {
    node.property("compatible")
        .is_some_and(|property| property.value().split(|byte| *byte == 0).any(|name| names.contains(&name)))
}

fn check_copy(original: &[u8], copy: &[u8]) {
    let before = Fdt::new(original).expect("it was filtered");
    let after = Fdt::new(copy).expect("the host's copy is a tree");
    // The hypervisor identifies a console by its name, so it cannot tell two of one name apart.
    let consoles = |tree: Fdt<'_>| -> BTreeSet<String> {
        let nodes = tree.root().children();
        nodes
            .filter(|node| is_compatible(*node, &[b"arm,pl011"]))
            .map(|node| node.name().to_owned())
            .collect()
    };
    let (all, left) = (consoles(before), consoles(after));
    assert!(left.is_subset(&all));
    assert!(all.len() < 2 || left.len() < all.len());

    let mut kept = after.root().children();
    let mut chosen = false;
    for node in after.root().children() {
        assert!(!is_compatible(node, &WITHHELD), "{}", node.name());
        for child in node.children().filter(|_| node.name() != "chosen") {
            assert!(!is_compatible(child, &WITHHELD), "{}", child.name());
        }
        if node.name() == "chosen" {
            chosen = true;
            check_chosen(node);
        } else if node.name() != "aliases" {
            check_references(node);
        }
    }
    assert!(chosen, "the host finds its image by /chosen");

    // Every node that is not withheld is copied, in order.
    for node in before.root().children() {
        if is_compatible(node, &WITHHELD) || is_compatible(node, &[b"arm,pl011"]) {
            continue;
        }
        assert!(kept.any(|other| other.name() == node.name()), "{} is lost", node.name());
    }
    let told = after.memory_reservations().map(|range| (range.address(), range.size()));
    let ours = (RESERVED.0.base().0, RESERVED.1 << 12);
    assert_eq!(told.last(), Some(ours));
}

fn check_chosen(node: FdtNode<'_>) {
    for seed in SEEDS {
        assert!(node.property(seed).is_none(), "{seed}");
    }
    for (name, value) in [("linux,initrd-start", INITRD.0), ("linux,initrd-end", INITRD.1)] {
        let mut found = node
            .properties()
            .filter(|property| property.name() == name)
            .map(|property| property.value().to_vec());
        assert_eq!(found.next(), Some(value.0.to_be_bytes().to_vec()));
        assert_eq!(found.next(), None);
    }
}

fn check_references(node: FdtNode<'_>) {
    for property in node.properties() {
        assert!(!DROPPED.contains(&property.name()), "{}", property.name());
    }
    for child in node.children() {
        check_references(child);
    }
}

/// The seeds: the tree of the reference machine, and the smallest tree that is a valid platform.
#[must_use]
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let virt = include_bytes!("../../../core/tests/data/virt.dtb");
    vec![("virt", virt.to_vec()), ("smallest", smallest()), ("nothing", Vec::new())]
}

/// Builds a flattened tree (Devicetree Specification 0.4, chapter 5).
#[derive(Default)]
struct Tree {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Tree {
    fn pad(&mut self) {
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }

    fn node(&mut self, name: &str, content: impl FnOnce(&mut Self)) {
        self.structure.extend(1_u32.to_be_bytes());
        self.structure.extend(name.as_bytes());
        self.structure.push(0);
        self.pad();
        content(self);
        self.structure.extend(2_u32.to_be_bytes());
    }

    fn property(&mut self, name: &str, value: &[u8]) {
        let length = u32::try_from(value.len()).expect("short");
        let offset = u32::try_from(self.strings.len()).expect("short");
        self.structure.extend(3_u32.to_be_bytes());
        self.structure.extend(length.to_be_bytes());
        self.structure.extend(offset.to_be_bytes());
        self.structure.extend(value);
        self.pad();
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
    }

    fn cells(&mut self, name: &str, cells: &[u32]) {
        let value: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.property(name, &value);
    }

    fn finish(mut self) -> Vec<u8> {
        const HEADER: usize = 40;
        const RESERVATIONS: usize = 16;
        self.structure.extend(9_u32.to_be_bytes());
        let strings = HEADER + RESERVATIONS + self.structure.len();
        let fields = [
            0xd00d_feed,
            strings + self.strings.len(),
            HEADER + RESERVATIONS,
            strings,
            HEADER,
            17,
            16,
            0,
            self.strings.len(),
            self.structure.len(),
        ];
        let mut blob = Vec::new();
        for field in fields {
            blob.extend(u32::try_from(field).expect("short").to_be_bytes());
        }
        blob.extend([0; RESERVATIONS]);
        blob.extend(self.structure);
        blob.extend(self.strings);
        blob
    }
}

/// The smallest tree that the hypervisor accepts, with a few nodes that it must withhold.
fn smallest() -> Vec<u8> {
    let mut tree = Tree::default();
    tree.node("", |root| {
        root.cells("#address-cells", &[1]);
        root.cells("#size-cells", &[1]);
        root.node("chosen", |chosen| chosen.property("rng-seed", &[7; 32]));
        root.node("memory@40000000", |memory| {
            memory.property("device_type", b"memory\0");
            memory.cells("reg", &[0x4000_0000, 0x1000_0000]);
        });
        root.node("cpus", |cpus| {
            cpus.node("cpu@0", |cpu| {
                cpu.property("device_type", b"cpu\0");
                cpu.cells("reg", &[0]);
            });
        });
        root.node("gic", |gic| {
            gic.property("compatible", b"arm,gic-v3\0");
            gic.cells("reg", &[0x800_0000, 0x1_0000, 0x80a_0000, 0xf6_0000]);
            gic.property("ranges", &[]);
            gic.node("its", |its| {
                its.property("compatible", b"arm,gic-v3-its\0");
                its.cells("#address-cells", &[1]);
                its.cells("reg", &[0x808_0000, 0x2_0000]);
            });
        });
        root.node("psci", |psci| {
            psci.property("compatible", b"arm,psci-1.0\0");
            psci.property("method", b"smc\0");
        });
        for (name, base) in [("a", 0x900_0000), ("b", 0x904_0000)] {
            root.node(name, |uart| {
                uart.property("compatible", b"arm,pl011\0arm,primecell\0");
                uart.cells("reg", &[base, 0x1000]);
                uart.cells("iommus", &[1]);
            });
        }
        root.node("flash", |flash| {
            flash.property("compatible", b"cfi-flash\0");
            flash.cells("reg", &[0, 0x400_0000]);
        });
    });
    tree.finish()
}
