//! The guest's device tree. It names nothing random: the launch measurement covers it, and a guest has
//! the Arm TRNG service for its seeds.

use alloc::format;
use alloc::vec::Vec;

use dtoolkit::ToPropertyValue;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use shared_abi::addr::{Gfn, Ipa, PAGE_SIZE, PageRange};

use super::GuestConfig;
use crate::machine::{GICD_BASE, GICD_BYTES, GICR_BASE, GICR_BYTES, Spi, UART_BASE, UART_SPI, VirtioSlot};

/// Phandles: how nodes name each other.
mod phandle {
    pub(super) const GIC: u32 = 1;
    pub(super) const CLOCK: u32 = 2;
}

/// Cells of an interrupt specifier (`arm,gic-v3.yaml` of Linux).
mod interrupt {
    pub(super) const SPI: u32 = 0;
    pub(super) const PPI: u32 = 1;
    pub(super) const EDGE_RISING: u32 = 1;
    pub(super) const LEVEL_HIGH: u32 = 4;
}

/// PPIs of the architected timer (Arm BSA, 3.8.1): secure and non-secure physical, virtual, hypervisor.
const TIMER_PPIS: [u32; 4] = [13, 14, 11, 10];

/// What the PL011 believes to be clocked with; Linux wants a number.
const UART_CLOCK_HZ: u32 = 24_000_000;

/// What the tree is made from.
pub(super) struct Contents<'a> {
    pub(super) config: &'a GuestConfig<'a>,
    pub(super) ram: PageRange<Gfn>,
    pub(super) devices: &'a [VirtioSlot],
    /// First byte of the initrd and one past its last.
    pub(super) initrd: Option<(Ipa, Ipa)>,
}

/// The tree as a flattened device tree.
pub(super) fn build(contents: &Contents<'_>) -> Vec<u8> {
    let mut tree = DeviceTree::new();
    tree.root = Builder::new("")
        .with("compatible", "linux,dummy-virt")
        .with("#address-cells", 2_u32)
        .with("#size-cells", 2_u32)
        .with("interrupt-parent", phandle::GIC)
        .child(chosen(contents))
        .child(memory(contents.ram))
        .child(psci())
        .child(cpus(contents.config.vcpus))
        .child(timer())
        .child(gic(contents.config.vcpus))
        .child(clock())
        .child(uart())
        .children(contents.devices.iter().map(virtio))
        .0;
    tree.to_dtb()
}

fn chosen(contents: &Contents<'_>) -> Builder {
    let mut chosen = Builder::new("chosen").with("stdout-path", format!("/pl011@{:x}", UART_BASE.0).as_str());
    if !contents.config.bootargs.is_empty() {
        chosen = chosen.with("bootargs", contents.config.bootargs);
    }
    if let Some((start, end)) = contents.initrd {
        chosen = chosen.with("linux,initrd-start", start.0).with("linux,initrd-end", end.0);
    }
    chosen
}

fn memory(ram: PageRange<Gfn>) -> Builder {
    let base = ram.first().base();
    Builder::at("memory", base).with("device_type", "memory").reg(&[(base, ram.len() * PAGE_SIZE)])
}

fn psci() -> Builder {
    Builder::new("psci")
        .with::<&[&str]>("compatible", &["arm,psci-1.0", "arm,psci-0.2", "arm,psci"])
        .with("method", "hvc")
}

fn cpus(count: u32) -> Builder {
    Builder::new("cpus").with("#address-cells", 1_u32).with("#size-cells", 0_u32).children((0..count).map(
        |index| {
            Builder::new(&format!("cpu@{index:x}"))
                .with("device_type", "cpu")
                .with("compatible", "arm,armv8")
                .with("reg", index)
                .with("enable-method", "psci")
        },
    ))
}

fn timer() -> Builder {
    let cells: Vec<u32> =
        TIMER_PPIS.into_iter().flat_map(|ppi| [interrupt::PPI, ppi, interrupt::LEVEL_HIGH]).collect();
    Builder::new("timer").with("compatible", "arm,armv8-timer").with("interrupts", cells).flag("always-on")
}

fn gic(vcpus: u32) -> Builder {
    Builder::at("intc", GICD_BASE)
        .with("compatible", "arm,gic-v3")
        .with("#interrupt-cells", 3_u32)
        .flag("interrupt-controller")
        .reg(&[(GICD_BASE, GICD_BYTES), (GICR_BASE, GICR_BYTES * u64::from(vcpus))])
        .with("phandle", phandle::GIC)
}

fn clock() -> Builder {
    Builder::new("apb-pclk")
        .with("compatible", "fixed-clock")
        .with("#clock-cells", 0_u32)
        .with("clock-frequency", UART_CLOCK_HZ)
        .with("phandle", phandle::CLOCK)
}

fn uart() -> Builder {
    Builder::at("pl011", UART_BASE)
        .with::<&[&str]>("compatible", &["arm,pl011", "arm,primecell"])
        .reg(&[(UART_BASE, PAGE_SIZE)])
        .spi(UART_SPI, interrupt::LEVEL_HIGH)
        .with("clocks", [phandle::CLOCK; 2])
        .with::<&[&str]>("clock-names", &["uartclk", "apb_pclk"])
}

fn virtio(slot: &VirtioSlot) -> Builder {
    Builder::at("virtio_mmio", slot.base)
        .with("compatible", "virtio,mmio")
        .reg(&[(slot.base, PAGE_SIZE)])
        .spi(slot.spi, interrupt::EDGE_RISING)
        .flag("dma-coherent")
}

/// A node on the way. Names are this file's, so they need no validation.
struct Builder(DeviceTreeNode);

impl Builder {
    fn new(name: &str) -> Self {
        Self(DeviceTreeNode::new_unchecked(name))
    }

    fn at(name: &str, base: Ipa) -> Self {
        Self::new(&format!("{name}@{:x}", base.0))
    }

    fn with<T: ToPropertyValue>(mut self, name: &str, value: T) -> Self {
        self.0.add_property(DeviceTreeProperty::new_unchecked(name, value));
        self
    }

    fn flag(self, name: &str) -> Self {
        self.with::<&[u8]>(name, &[])
    }

    fn reg(self, regions: &[(Ipa, u64)]) -> Self {
        let bytes: Vec<u8> = regions
            .iter()
            .flat_map(|(base, size)| [base.0.to_be_bytes(), size.to_be_bytes()])
            .flatten()
            .collect();
        self.with("reg", bytes)
    }

    fn spi(self, spi: Spi, trigger: u32) -> Self {
        self.with("interrupts", [interrupt::SPI, spi.0, trigger])
    }

    fn child(mut self, child: Self) -> Self {
        self.0.add_child(child.0);
        self
    }

    fn children(self, children: impl Iterator<Item = Self>) -> Self {
        children.fold(self, Self::child)
    }
}
