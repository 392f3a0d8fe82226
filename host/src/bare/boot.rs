//! The order in which everything comes up.

use core::fmt;

use bare_rt::el1::cpu;
use bare_rt::el1::stage1::{self, Registers, Stage1};
use bare_rt::image::Layout;
use dtoolkit::fdt::Fdt;
use shared_abi::record::Record;
use spin::Mutex;

use super::boot_image::BootImage;
use super::devices::Devices;
use super::platform::{self, Platform};
use super::{console, cpus, devices, exceptions, guest, interrupts, memory, power};

/// The map that all CPUs run on; it lives for ever.
static STAGE1: Mutex<Option<Stage1>> = Mutex::new(None);

/// Makes a binary a host: `run` deals with the guests of the boot image on the boot CPU, `work` is for
/// all other CPUs.
macro_rules! host {
    ($run:path, $work:path) => {
        const _: () = {
            fn enter(device_tree: u64) -> ! {
                $crate::bare::boot::start(device_tree, $run, $work)
            }
            bare_rt::image_main!(enter, stack_bytes = 128 * 1024);
        };
    };
}

pub(crate) use host;

/// Entered on the boot CPU at EL1, with the MMU off and the device tree's address.
pub(crate) fn start(
    device_tree: u64,
    run: fn(&BootImage, Devices) -> Result<(), guest::Error>,
    work: fn() -> !,
) -> ! {
    exceptions::install();
    let tree = core::ptr::with_exposed_provenance(device_tree as usize);
    // SAFETY: the boot protocol puts the address of a device tree in x0, and nobody writes to it while
    // the host runs.
    let Ok(tree) = (unsafe { Fdt::from_raw(tree) }) else {
        power::off() // there is no telling where a UART is
    };
    let platform = Platform::parse(tree).unwrap_or_else(|error| refuse_early(tree, format_args!("{error}")));
    power::set_conduit(platform.psci);
    let registers =
        turn_mmu_on(&platform).unwrap_or_else(|error| refuse_early(tree, format_args!("{error}")));
    // SAFETY: the UART is mapped, and this is the one call.
    unsafe { console::init(platform.uart.start) };
    // SAFETY: RAM is mapped; the hypervisor's part of it is reserved in the device tree.
    if let Err(error) = unsafe { memory::init(&platform) } {
        power::refuse(format_args!("{error}"));
    }
    // SAFETY: the GIC is mapped, and this is the one call.
    if let Err(error) = unsafe { interrupts::init(&platform) } {
        power::refuse(format_args!("{error}"));
    }
    if let Err(error) = cpus::adopt_boot_cpu(&platform) {
        power::refuse(format_args!("{error}"));
    }
    cpus::start_others(&platform, registers, work);
    console::record(&Record::Host { el: cpu::current_el(), cpus: cpus::online() as u64 });
    let devices = devices::start(&platform);
    let Some(memory) = platform.image.clone() else {
        power::refuse(format_args!("the device tree names no boot image"));
    };
    // SAFETY: the memory is RAM as the hypervisor says, and the frame allocator left it out.
    let image = unsafe { BootImage::open(memory) }
        .unwrap_or_else(|error| power::refuse(format_args!("boot image: {error}")));
    if let Err(error) = run(&image, devices) {
        power::refuse(format_args!("{error}"));
    }
    power::off()
}

/// Maps the machine one to one and turns the MMU on.
///
/// Until then there are no locks: exclusive accesses need caches.
fn turn_mmu_on(platform: &Platform) -> Result<Registers, stage1::Error> {
    let mut stage1 = Stage1::new(&Layout::current())?;
    for bank in &platform.ram {
        stage1.map_ram(bank.clone())?;
    }
    for device in platform.device_ranges() {
        stage1.map_device(device)?;
    }
    // SAFETY: this is the boot CPU, with the MMU off; RAM and devices are mapped as what they are,
    // and the map moves to a static that is never cleared.
    let registers = unsafe { stage1.enable() };
    *STAGE1.lock() = Some(stage1);
    Ok(registers)
}

/// Says why the host can't go on while the MMU is off, and turns the machine off.
fn refuse_early(tree: Fdt<'_>, message: fmt::Arguments<'_>) -> ! {
    if let Ok(conduit) = platform::psci(tree) {
        power::set_conduit(conduit);
    }
    if let Ok(uart) = platform::uart(tree) {
        // SAFETY: the device tree says that a PL011 is there, and this CPU is the only one that runs.
        unsafe { console::early_epitaph(uart.start, message) };
    }
    power::off()
}
