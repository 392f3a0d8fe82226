//! The order in which everything comes up.

use core::fmt;

use bare_rt::el1::cpu;
use bare_rt::el1::stage1::{self, Registers, Stage1};
use bare_rt::image::Layout;
use dtoolkit::fdt::Fdt;
use shared_abi::record::Record;
use spin::Mutex;

use super::boot_image::BootImage;
use super::platform::{self, Platform};
use super::{console, cpus, devices, exceptions, guest, interrupts, memory, power, scheduler};

bare_rt::image_main!(main, stack_bytes = 128 * 1024);

/// The map that all CPUs run on; it lives for ever.
static STAGE1: Mutex<Option<Stage1>> = Mutex::new(None);

/// Why the machine does not come up.
enum Error {
    Platform(platform::Error),
    Stage1(stage1::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Platform(error) => error.fmt(f),
            Self::Stage1(error) => error.fmt(f),
        }
    }
}

/// Entered on the boot CPU at EL1, with the MMU off and the device tree's address.
fn main(device_tree: u64) -> ! {
    exceptions::install();
    let (platform, registers) = match bring_up_memory(device_tree) {
        Ok(up) => up,
        Err(error) => power::refuse(format_args!("{error}")),
    };
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
    cpus::start_others(&platform, registers, scheduler::work);
    console::record(&Record::Host {
        el: cpu::current_el(),
        cpus: cpus::online() as u64,
    });
    let devices = devices::start(&platform);
    let Some(memory) = platform.image.clone() else {
        power::refuse(format_args!("the device tree names no boot image"));
    };
    // SAFETY: the memory is RAM as the hypervisor says, and the frame allocator left it out.
    let image = unsafe { BootImage::open(memory) }
        .unwrap_or_else(|error| power::refuse(format_args!("boot image: {error}")));
    if let Err(error) = guest::run(&image, devices) {
        power::refuse(format_args!("{error}"));
    }
    power::off()
}

/// Reads the device tree and turns the MMU on.
///
/// Until then there are no locks: exclusive accesses need caches.
fn bring_up_memory(device_tree: u64) -> Result<(Platform, Registers), Error> {
    let tree = core::ptr::with_exposed_provenance(device_tree as usize);
    // SAFETY: the boot protocol puts the address of a device tree in x0, and nobody writes to it while
    // the host runs.
    let tree =
        unsafe { Fdt::from_raw(tree) }.map_err(|_| Error::Platform(platform::Error::Malformed))?;
    let platform = Platform::parse(tree).map_err(Error::Platform)?;
    power::set_conduit(platform.psci);
    let mut stage1 = Stage1::new(&Layout::current()).map_err(Error::Stage1)?;
    for bank in &platform.ram {
        stage1.map_ram(bank.clone()).map_err(Error::Stage1)?;
    }
    for device in platform.device_ranges() {
        stage1.map_device(device).map_err(Error::Stage1)?;
    }
    // SAFETY: this is the boot CPU, with the MMU off; RAM and devices are mapped as what they are,
    // and the map moves to a static that is never cleared.
    let registers = unsafe { stage1.enable() };
    *STAGE1.lock() = Some(stage1);
    Ok((platform, registers))
}
