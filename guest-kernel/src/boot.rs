//! From the first instruction to the payload's function.
//!
//! The order matters: the device tree is checked before anything in it is used, and this VM is
//! enrolled in the MMIO guard before anything outside RAM is touched.

use alloc::boxed::Box;
use core::ops::Range;
use core::{ptr, slice};

use bare_rt::el1::stage1::Stage1;
use bare_rt::el1::{cpu, heap, vectors};
use bare_rt::image::Layout;
use shared_abi::addr::{Ipa, PAGE_SIZE};
use virtio_guard::AccessPlatform;

use crate::conduit::{self, Conduit};
use crate::exceptions::{self, Exceptions};
use crate::hyp::{self, HypervisorServices};
use crate::interrupts::Interrupts;
use crate::machine::{self, Platform, Span, VirtioSlot, pages_around};
use crate::shared::SharedPool;
use crate::virtio::console::VirtioConsole;
use crate::virtio::disk::Disk;
use crate::virtio::{self, DeviceType, hal};
use crate::{console, power, println};

/// CurrentEL.EL of the exception level that payloads run at.
const EL1: u64 = 1;

/// What a payload's function, and whatever it calls, fails with: any error.
pub type Failure = Box<dyn core::error::Error + Send + Sync>;

/// The running machine, for the payload.
#[derive(Debug)]
pub struct Guest {
    machine: Platform,
    layout: Layout,
    hypervisor: Option<HypervisorServices<Conduit>>,
    shared_pages: u64,
    disk: Option<Disk>,
}

impl Guest {
    /// What the device tree said, checked.
    #[must_use]
    pub const fn machine(&self) -> &Platform {
        &self.machine
    }

    /// The hypervisor's vendor services, if it offers them.
    #[must_use]
    pub const fn hypervisor(&self) -> Option<&HypervisorServices<Conduit>> {
        self.hypervisor.as_ref()
    }

    /// Whether this VM's memory is private until it is shared.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        self.hypervisor.as_ref().is_some_and(HypervisorServices::is_protected)
    }

    /// Pages that are shared with the host.
    #[must_use]
    pub const fn shared_pages(&self) -> u64 {
        self.shared_pages
    }

    /// The first virtio-blk device, if there is one.
    pub const fn disk(&mut self) -> Option<&mut Disk> {
        self.disk.as_mut()
    }

    /// The initrd; empty if there is none. It is private memory: the host cannot change it now.
    #[must_use]
    pub fn initrd(&self) -> &'static [u8] {
        self.machine.initrd.as_ref().map_or(&[], |span| {
            // SAFETY: `Platform::parse` found the initrd in RAM and apart from everything else, all
            // RAM is mapped, and the heap leaves it out: nothing ever writes there.
            unsafe { bytes_at(span) }
        })
    }

    /// The payload's own code and constants, as they are in memory.
    #[must_use]
    pub fn code(&self) -> &'static [u8] {
        // SAFETY: stage 1 maps text and constants read-only, so that nothing writes there.
        unsafe { bytes_at(&(self.layout.text.start..self.layout.rodata.end)) }
    }
}

/// Runs a payload; [`payload!`](crate::payload) calls this.
pub fn start(device_tree: u64, run: fn(&mut Guest) -> Result<(), Failure>) -> ! {
    vectors::install::<Exceptions>();
    let result = bring_up(device_tree).and_then(|mut guest| run(&mut guest));
    match result {
        Ok(()) => power::off(),
        Err(failure) => exceptions::fail(format_args!("failed: {failure}")),
    }
}

/// What goes wrong before there is a heap for a [`Failure`] ends here: with a report if a console is
/// known, and a reset.
fn require<T, E: core::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| exceptions::fail(format_args!("cannot start: {error}")))
}

fn bring_up(device_tree: u64) -> Result<Guest, Failure> {
    let layout = Layout::current();
    let mut stage1 = require(Stage1::new(&layout));
    let tree = require(tree_span(device_tree));
    require(stage1.map_ram(pages_around(&tree)));
    // SAFETY: called once, on the boot CPU, which started with its MMU off. The binary and the device
    // tree are mapped; everything else is mapped below before it is used.
    let _ = unsafe { stage1.enable() };

    // SAFETY: the tree is mapped; the heap will leave it out, and nothing writes to it.
    let bytes = unsafe { bytes_at(&tree) };
    let machine = require(Platform::parse(bytes, tree.start, layout.image()));
    if let Some(chosen) = machine.conduit {
        conduit::choose(chosen);
    }
    if cpu::current_el() != EL1 {
        // Stage 1 of EL1 has no effect here: a PL011 is reached without being mapped.
        if let Some(uart) = machine.uart {
            console::set_uart(uart);
        }
        require(Err::<(), _>("a payload runs at EL1"));
    }
    let hypervisor = if machine.conduit.is_some() && hyp::has_smccc_1_1::<Conduit>() {
        HypervisorServices::<Conduit>::probe()
    } else {
        None
    };
    if let Some(hypervisor) = &hypervisor {
        if hypervisor.is_protected() {
            exceptions::keep_registers_private();
        }
        require(hypervisor.enrol());
    }
    for bank in &machine.ram {
        require(stage1.map_ram(bank.clone()));
    }
    let heap = require(machine.free_memory().ok_or("no memory is free"));
    // SAFETY: the range is RAM, mapped just now, and apart from image, tree, initrd and reservations.
    unsafe { heap::init(heap.start..heap.end) };

    let mut devices = Devices { stage1, hypervisor };
    let mut guest = Guest { machine, layout, hypervisor, shared_pages: 0, disk: None };
    devices.bring_up(&mut guest)?;
    Ok(guest)
}

/// What is needed to reach a device for the first time.
struct Devices {
    stage1: Stage1,
    hypervisor: Option<HypervisorServices<Conduit>>,
}

impl Devices {
    /// Declares a device's pages to be MMIO, and maps them.
    fn map(&mut self, registers: &Span) -> Result<(), Failure> {
        let pages = pages_around(registers);
        if let Some(hypervisor) = &self.hypervisor {
            for page in pages.clone().step_by(PAGE_SIZE as usize) {
                hypervisor.guard_mmio(Ipa(page))?;
            }
        }
        self.stage1.map_device(pages)?;
        Ok(())
    }

    fn bring_up(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        if let Some(uart) = guest.machine.uart
            && self.map(&(uart..uart + 1)).is_ok()
        {
            console::set_uart(uart);
        }
        let gic = guest.machine.gic.ok_or("the machine has no GICv3")?;
        self.map(&gic.distributor_span())?;
        self.map(&gic.redistributor_span())?;
        // SAFETY: called once, for ranges that were mapped just now.
        let mut interrupts = unsafe { Interrupts::new(&gic) }?;
        let timer = guest.machine.timer.ok_or("the machine has no timer")?;
        interrupts.enable_timer(timer)?;
        cpu::enable_irq();

        let pool = SharedPool::new(self.hypervisor)?;
        guest.shared_pages = pool.shared_pages();
        hal::set_pool(pool);
        let mut previous_page = None;
        for slot in &guest.machine.virtio {
            // QEMU has eight slots on a page, and a page is guarded once.
            let page = pages_around(&slot.registers);
            if previous_page.as_ref() != Some(&page) {
                self.map(&page)?;
                previous_page = Some(page);
            }
            add_device(slot, &mut interrupts, self.hypervisor, &mut guest.disk)?;
        }
        console::flush_early();
        Ok(())
    }
}

/// Starts the driver of the device in `slot`, if there is one that this kernel has a driver for.
fn add_device(
    slot: &VirtioSlot,
    interrupts: &mut Interrupts,
    hypervisor: Option<HypervisorServices<Conduit>>,
    disk: &mut Option<Disk>,
) -> Result<(), Failure> {
    let protected = hypervisor.is_some_and(|hypervisor| hypervisor.is_protected());
    let access_platform = if protected { AccessPlatform::Required } else { AccessPlatform::Optional };
    // SAFETY: `Devices::bring_up` has mapped the slot and comes here once for each.
    let Some((kind, transport)) = (unsafe { virtio::probe(slot, access_platform) }) else {
        return Ok(());
    };
    match kind {
        DeviceType::Block if disk.is_none() => {
            interrupts.enable_virtio(slot)?;
            *disk = Some(Disk::new(transport?)?);
        }
        DeviceType::Console => {
            interrupts.enable_virtio(slot)?;
            console::set_virtio(VirtioConsole::new(transport?)?);
        }
        other => println!("a virtio device of type {other:?} is not used"),
    }
    Ok(())
}

/// Where the device tree is, by its own header; only that is believed, within limits.
fn tree_span(address: u64) -> Result<Span, machine::Error> {
    /// `FDT_MAGIC` (Devicetree Specification 0.4, 5.2).
    const MAGIC: u32 = 0xd00d_feed;
    /// The limit of the arm64 boot protocol.
    const LIMIT: u32 = 2 << 20;
    if address == 0 || !address.is_multiple_of(8) {
        return Err(machine::Error::Placement("device tree"));
    }
    let header = ptr::with_exposed_provenance::<u32>(address as usize);
    // SAFETY: the boot protocol has x0 point to a device tree. The MMU is off, so that a wrong address
    // is a fault at worst.
    let magic = u32::from_be(unsafe { header.read_volatile() });
    // SAFETY: the header's second word.
    let size = unsafe { header.add(1) };
    // SAFETY: as for the first word.
    let size = u32::from_be(unsafe { size.read_volatile() });
    if magic != MAGIC || size > LIMIT {
        return Err(machine::Error::Malformed);
    }
    let end = address.checked_add(size.into());
    end.map(|end| address..end).ok_or(machine::Error::Placement("device tree"))
}

/// # Safety
///
/// The range is mapped memory that is not empty and that nothing writes to from now on.
unsafe fn bytes_at(span: &Range<u64>) -> &'static [u8] {
    let start = ptr::with_exposed_provenance(span.start as usize);
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(start, (span.end - span.start) as usize) }
}
