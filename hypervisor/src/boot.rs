//! Boot: the boot CPU's steps from its first instruction to the host's.

/// The reasons to refuse a machine or an image.
mod error;
/// The host's device tree.
mod host_tree;
/// The image and the device tree in RAM.
mod image;
/// The layout of the hypervisor's own memory.
mod layout;
/// The setup of the ownership core.
mod ownership;
/// The start of secondary CPUs.
mod secondary;

use core::ops::Range;

use bootimg::Kind;
use heapless::Vec;
use hyp_core::boot::device_tree::{Conduit, Platform};
use hyp_core::boot::options;
use hyp_core::call::trng::Trng;
use hyp_core::hypervisor::Hypervisor;
use hyp_core::limits::{CpuIndex, MAX_REGIONS};
use shared_abi::addr::{Ipa, PAGE_SIZE};
use shared_abi::record::Record;
use spin::Once;

use self::error::BootError;
use self::image::LoadedImage;
use self::layout::Block;
use crate::arch;
use crate::cpu::{Cpu, setup, vectors};
use crate::machine::el2::CoreMachine;
use crate::machine::stage1::Stage1;
use crate::machine::{console, maintenance, power};
use crate::trap::host;

static TRNG: Once<Trng> = Once::new();
static PLATFORM: Once<Platform> = Once::new();

/// The entry from the boot loader, at EL2 with the MMU off. `tree` is x0: the address of the device tree.
pub(crate) fn main(tree: u64) -> ! {
    vectors::install();
    // SAFETY: `_start` passes on x0 of the boot protocol: the address of a device tree, or 0.
    let tree = unsafe { image::device_tree_at(tree) };
    let platform = tree.and_then(|tree| Some((tree, Platform::parse(tree).ok()?)));
    let Some((tree, mut platform)) = platform else {
        // Without a device tree there is no console for a report.
        power::off();
    };
    let trng = TRNG.call_once(|| Trng::new(&platform.seed));
    platform.seed.fill(0);
    let platform = PLATFORM.call_once(|| platform);
    if let Some(console) = platform.hypervisor_console {
        // SAFETY: `Platform::parse` has identified the second PL011, which `device_tree::filter` withholds from the
        // host. While the MMU is off, all accesses are to device memory; after that, the map of `prepare` has its
        // page as a device.
        unsafe { console::init(console.base) };
    }
    match prepare(tree, platform, trng) {
        Ok(mut cpu) => host::run(&mut cpu),
        Err(error) => power::refuse(error),
    }
}

/// Executes all steps up to the host's first instruction. Returns this CPU's data.
fn prepare(tree: &'static [u8], platform: &'static Platform, trng: &'static Trng) -> Result<Cpu, BootError> {
    setup::take_el2().map_err(BootError::El2)?;
    if platform.psci != Conduit::Smc {
        return Err(BootError::Conduit);
    }
    let ram: Vec<Range<u64>, MAX_REGIONS> = platform.ram.iter().map(layout::bytes).collect();
    let loaded = LoadedImage::find(tree, &ram)?;
    let used = [loaded.image.clone(), loaded.tree.clone()];
    let cpus = &platform.cpus[..];

    let needs = Hypervisor::<CoreMachine>::needs(&platform.ram, &platform.denied);
    #[cfg(feature = "oracle")]
    let needs = crate::oracle::with_room(needs);
    let block = layout::plan(&ram, &used, needs, Stage1::tables_needed(&ram), cpus.len() as u64)
        .ok_or(BootError::Memory)?;
    let devices: Vec<u64, 1> = platform.hypervisor_console.iter().map(|console| console.base.0).collect();
    // SAFETY: `layout::plan` has just reserved the block in RAM. It overlaps no range in `used`. The MMU is
    // off until `enable` below.
    let stage1 = unsafe { Stage1::new(block.stage1.clone(), &loaded.layout, &ram, &devices) }
        .map_err(|_| BootError::Stage1)?;
    // SAFETY: `take_el2` has taken EL2, and the MMU is off since the boot loader. The map has the console's page and
    // all RAM, with this code, its stack and the tables.
    unsafe { stage1.enable() };

    report(&loaded, &block, &ram, cpus.len());
    let image = loaded.verify()?;
    options::apply(image.text(Kind::HypervisorArgs).unwrap_or_default())?;

    let mut used = Vec::<_, 4>::from(used);
    used.extend([block.whole.clone()]);
    let own = Vec::<_, 3>::from([loaded.layout.image(), block.whole.clone()]);
    #[cfg(feature = "trace")]
    let own = start_trace(own, &ram, &mut used, cpus)?;
    let reserved = ownership::reserved(&own)?;
    let hypervisor = ownership::hypervisor(platform, reserved, &block, &image)?;
    let host_tree = host_tree::write(&loaded, &ram, &used, tree, &image, reserved)?;

    let index = cpus.iter().position(|affinity| *affinity == arch::affinity()).ok_or(BootError::Cpu)?;
    let index = CpuIndex(index);
    setup::init_cpu();
    let common = secondary::prepare(hypervisor, trng, stage1, &block, cpus, index);
    // The other CPUs start with their caches off, so the statics that they read are cleaned first.
    let data = &loaded.layout.data;
    maintenance::clean_and_invalidate(data.start, data.end - data.start);
    // The host's stage 2 is an identity map, so the host's entry point is its physical address.
    let entry = Ipa(loaded.image.start + image.manifest().host().memory().start);
    Ok(common.cpu(index, entry, host_tree))
}

/// Reports the sizes of the hypervisor and of the machine.
fn report(loaded: &LoadedImage, block: &Block, ram: &[Range<u64>], cpus: usize) {
    let (image, text) = (loaded.layout.image(), &loaded.layout.text);
    let memory_bytes = (image.end - image.start) + (block.whole.end - block.whole.start);
    console::record(&Record::Hypervisor {
        memory_bytes,
        pages: memory_bytes / PAGE_SIZE,
        cpus: cpus as u64,
        text_bytes: text.end - text.start,
        ram_bytes: ram.iter().map(|region| region.end - region.start).sum(),
    });
}

/// Starts the trace. Its rings become part of the hypervisor's `own` memory and of the `used` memory.
#[cfg(feature = "trace")]
fn start_trace(
    mut own: Vec<Range<u64>, 3>,
    ram: &[Range<u64>],
    used: &mut Vec<Range<u64>, 4>,
    cpus: &[u64],
) -> Result<Vec<Range<u64>, 3>, BootError> {
    use crate::machine::trace;

    let bytes = cpus.len() as u64 * trace::RING_BYTES;
    let start = layout::place(ram, used, bytes, PAGE_SIZE).ok_or(BootError::Memory)?;
    // SAFETY: `layout::place` has found RAM apart from all ranges in `used`, which has all memory in use. The map has
    // all RAM, and `own` keeps these pages from the host.
    unsafe { trace::start(start, cpus) };
    let rings = start..start + bytes;
    used.extend([rings.clone()]);
    own.extend([rings]);
    Ok(own)
}
