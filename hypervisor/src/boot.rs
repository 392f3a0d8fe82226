//! From the first instruction to the host: what the boot CPU does, once.

use core::ops::Range;

use bare_rt::image::Layout;
use bootimg::{Image, Kind, Manifest};
use heapless::Vec;
use hyp_core::boot::device_tree::{self, Conduit, DeviceTreeError, Edits, Platform};
use hyp_core::boot::options::{self, UnknownArgument};
use hyp_core::call::trng::Trng;
use hyp_core::hypervisor::Hypervisor;
use hyp_core::limits::{CpuIndex, MAX_REGIONS};
use hyp_core::ownership::setup::{Setup, SetupError};
use shared_abi::addr::{PAGE_SIZE, Pa, PageRange, Pfn};
use shared_abi::record::Record;
use spin::Once;

use crate::cpu::{self, Cpu};
use crate::el2::El2;
use crate::memory::{self, Block};
use crate::mmu::Stage1;
use crate::{console, host, maintenance, power, secondary, state, vectors};

/// The manifest is one page (bootimg's format).
const MANIFEST_BYTES: usize = 4096;

static HYPERVISOR: Once<Hypervisor<'static, El2>> = Once::new();
static TRNG: Once<Trng> = Once::new();
/// The hypervisor's own memory: its image, its block, and the trace's rings if there are any.
static RESERVED: Once<Vec<PageRange<Pfn>, 3>> = Once::new();
static PLATFORM: Once<Platform> = Once::new();

/// The CPUs of the machine, by index: their MPIDR_EL1.
pub(crate) fn cpus() -> &'static [u64] {
    PLATFORM.get().map_or(&[], |platform| &platform.cpus)
}

/// Where guests' entropy comes from. Without a seed it answers that there is none.
pub(crate) fn trng() -> &'static Trng {
    TRNG.call_once(|| Trng::new(&[]))
}

/// Where the image is and what the boot loader put beside it.
struct LoadedImage {
    layout: Layout,
    tree: Range<u64>,
    /// From the hypervisor's first byte to the end of the last part's memory.
    image: Range<u64>,
}

/// Entered by the boot loader at EL2 with the MMU off.
pub(crate) fn main(tree: u64) -> ! {
    vectors::install();
    // SAFETY: x0 of the boot protocol, passed on by `_start`: the address of a device tree, or 0.
    let tree = unsafe { blob(tree) };
    let platform = match tree.map(|tree| (tree, Platform::parse(tree))) {
        Some((tree, Ok(mut platform))) => {
            TRNG.call_once(|| Trng::new(&platform.seed));
            platform.seed.fill(0);
            let platform = PLATFORM.call_once(|| platform);
            if let Some(console) = platform.hypervisor_console {
                // SAFETY: `Platform::parse` found it to be the second PL011, which the host's tree does not get
                // (`device_tree::filter`). With the MMU off all accesses are to device memory, and `prepare` has
                // its page mapped as a device.
                unsafe { console::init(console.base) };
            }
            (tree, platform)
        }
        // There is no console to say so on.
        _ => power::off(),
    };
    let (tree, platform) = platform;
    match prepare(tree, platform) {
        Ok(mut cpu) => host::run(&mut cpu),
        Err(error) => power::refuse(error),
    }
}

/// The device tree at an address, if there is one.
///
/// # Safety
///
/// `address` is where the boot loader put it.
unsafe fn blob(address: u64) -> Option<&'static [u8]> {
    let start = core::ptr::with_exposed_provenance::<u8>(address as usize);
    if start.is_null() || !start.cast::<u64>().is_aligned() {
        return None;
    }
    // SAFETY: the caller gives the address where the boot loader put a device tree, which is not null and is
    // aligned, as was just seen; a device tree has a header of 40 bytes.
    let header = unsafe { &*start.cast::<[u8; 8]>() };
    let bytes = device_tree::total_bytes(header).ok()?;
    // SAFETY: the boot loader wrote as many bytes as the header says, and only EL2 runs until the host is
    // entered, by when the tree is no longer used (`host_tree`).
    Some(unsafe { core::slice::from_raw_parts(start, bytes) })
}

/// Why this machine or image is not acceptable.
#[derive(Debug, thiserror::Error)]
enum BootError {
    #[error("{0}")]
    El2(&'static str),
    #[error("PSCI is not called by SMC: this is no EL2 to own")]
    Conduit,
    #[error("the image is not in RAM")]
    Place,
    #[error("no room for a manifest behind the hypervisor")]
    NoManifest,
    #[error("the image is larger than RAM")]
    ImageSize,
    #[error("the device tree is not in RAM, or in the image")]
    TreePlace,
    #[error("RAM is too small")]
    Memory,
    #[error("EL2's stage 1 can't be made")]
    Stage1,
    #[error("{0}")]
    Image(#[from] bootimg::Error),
    #[error("{0}")]
    Arguments(#[from] UnknownArgument),
    #[error("{0}")]
    Setup(#[from] SetupError),
    #[error("the host's device tree: {0}")]
    HostTree(DeviceTreeError),
    #[error("the boot CPU is not in the device tree")]
    Cpu,
}

/// Everything up to the host's first instruction.
fn prepare(tree: &'static [u8], platform: &'static Platform) -> Result<Cpu, BootError> {
    cpu::take_el2().map_err(BootError::El2)?;
    if platform.psci != Conduit::Smc {
        return Err(BootError::Conduit);
    }
    let layout = Layout::current();
    let ram: Vec<Range<u64>, MAX_REGIONS> = platform.ram.iter().map(memory::bytes).collect();
    let home = ram.iter().find(|region| region.contains(&layout.image().start)).ok_or(BootError::Place)?;
    let loaded = loaded(layout, tree, &ram, home)?;
    let used = [loaded.image.clone(), loaded.tree.clone()];
    let cpus = platform.cpus.len();

    let needs = Hypervisor::<El2>::needs(&platform.ram, &platform.denied);
    #[cfg(feature = "oracle")]
    let needs = crate::oracle::with_room(needs);
    let block = memory::plan(&ram, &used, needs, Stage1::tables_needed(&ram), cpus as u64)
        .ok_or(BootError::Memory)?;
    let devices: Vec<u64, 1> = platform.hypervisor_console.iter().map(|console| console.base.0).collect();
    // SAFETY: `memory::plan` has just set the block aside, in RAM that nothing in `used` touches, and `enable`
    // below is what turns the MMU on.
    let stage1 = unsafe { Stage1::new(block.stage1.clone(), &loaded.layout, &ram, &devices) }
        .map_err(|_| BootError::Stage1)?;
    // SAFETY: `take_el2` has seen to EL2, the MMU is off since the boot loader, and the map has all RAM (so this
    // code, its stack and the tables) and the console's page.
    unsafe { stage1.enable() };

    report(&loaded.layout, &block, &ram, cpus);
    let limit = home.end - loaded.image.start;
    let image = verify(&loaded, limit)?;

    options::apply(image.text(Kind::HypervisorArgs).unwrap_or_default())?;
    let mut used = Vec::<_, 4>::from(used);
    let own = Vec::<_, 3>::from([loaded.layout.image(), block.whole.clone()]);
    used.extend([block.whole.clone()]);
    #[cfg(feature = "trace")]
    let own = start_trace(own, &ram, &mut used, cpus)?;
    let hypervisor = ownership(platform, &own, &block, &image)?;
    let host_tree = host_tree(&loaded, &ram, &used, tree, &image)?;
    let index = platform.cpus.iter().position(|mpidr| *mpidr == cpu::affinity()).ok_or(BootError::Cpu)?;
    state::init_cpu();
    secondary::prepare(&block, stage1, index);
    // The other CPUs start with their caches off: let memory hold what they read.
    let data = &loaded.layout.data;
    maintenance::clean_and_invalidate(data.start, data.end - data.start);
    let entry = Pa(loaded.image.start + image.manifest().host().memory().start);
    Ok(Cpu::new(hypervisor, CpuIndex(index), entry, host_tree))
}

/// Finds out how much memory the image takes.
fn loaded(
    layout: Layout,
    tree: &'static [u8],
    ram: &[Range<u64>],
    home: &Range<u64>,
) -> Result<LoadedImage, BootError> {
    let start = layout.image().start;
    let manifest = layout.image().end;
    if manifest + MANIFEST_BYTES as u64 > home.end {
        return Err(BootError::NoManifest);
    }
    let parsed = Manifest::parse(bytes_at(manifest, MANIFEST_BYTES))?;
    let end = start
        .checked_add(parsed.memory_bytes())
        .filter(|end| *end <= home.end && *end >= manifest + MANIFEST_BYTES as u64)
        .ok_or(BootError::ImageSize)?;
    let tree = tree.as_ptr().addr() as u64..tree.as_ptr_range().end.addr() as u64;
    let in_ram = ram.iter().any(|range| range.start <= tree.start && tree.end <= range.end);
    if !in_ram || tree.start < end && start < tree.end {
        return Err(BootError::TreePlace);
    }
    Ok(LoadedImage { layout, tree, image: start..end })
}

/// RAM that holds what the boot loader put there.
fn bytes_at(start: u64, bytes: usize) -> &'static [u8] {
    // SAFETY: `loaded` has checked against the device tree's RAM what it and `verify` name, which is the image's;
    // nobody writes the image before the host runs, and it is not read after that.
    unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(start as usize), bytes) }
}

/// Checks every byte of the image behind the hypervisor.
fn verify(loaded: &LoadedImage, limit: u64) -> Result<Image<'static>, bootimg::Error> {
    let manifest = loaded.layout.image().end;
    let offset = manifest - loaded.image.start;
    let bytes = bytes_at(manifest, (loaded.image.end - manifest) as usize);
    Image::verify(bytes, offset, limit)
}

fn report(layout: &Layout, block: &Block, ram: &[Range<u64>], cpus: usize) {
    let image = layout.image();
    let memory_bytes = (image.end - image.start) + (block.whole.end - block.whole.start);
    console::record(&Record::Hypervisor {
        memory_bytes,
        pages: memory_bytes / PAGE_SIZE,
        cpus: cpus as u64,
        text_bytes: layout.text.end - layout.text.start,
        ram_bytes: ram.iter().map(|region| region.end - region.start).sum(),
    });
}

/// Starts the trace: its rings are the hypervisor's `own` memory, and `used`.
#[cfg(feature = "trace")]
fn start_trace(
    mut own: Vec<Range<u64>, 3>,
    ram: &[Range<u64>],
    used: &mut Vec<Range<u64>, 4>,
    cpus: usize,
) -> Result<Vec<Range<u64>, 3>, BootError> {
    let bytes = cpus as u64 * crate::trace::RING_BYTES;
    let start = memory::place(ram, used, bytes, PAGE_SIZE).ok_or(BootError::Memory)?;
    // SAFETY: `place` has found RAM that touches nothing in `used`, which has all that is in use; the map has all
    // RAM; and `own` keeps it the hypervisor's.
    unsafe { crate::trace::start(start, cpus) };
    let rings = start..start + bytes;
    used.extend([rings.clone()]);
    own.extend([rings]);
    Ok(own)
}

/// Makes the ownership core: from here on every page of RAM has an owner. `own` is the hypervisor's.
fn ownership(
    platform: &'static Platform,
    own: &[Range<u64>],
    block: &Block,
    image: &Image<'_>,
) -> Result<&'static Hypervisor<'static, El2>, BootError> {
    let reserved = own.iter().map(memory::pages).collect::<Option<_>>();
    let reserved = reserved.ok_or(BootError::Memory)?;
    let tables = memory::pages(&block.host_tables).ok_or(BootError::Memory)?;
    let owner_words = &block.owner_words;
    // SAFETY: `memory::plan` has set the range aside for the records alone, in RAM, aligned to pages; this
    // function is called once; and any content is a valid `u64`.
    let owner_words = unsafe {
        core::slice::from_raw_parts_mut(
            core::ptr::with_exposed_provenance_mut(owner_words.start as usize),
            ((owner_words.end - owner_words.start) / 8) as usize,
        )
    };
    #[cfg(feature = "oracle")]
    let (owner_words, room) = crate::oracle::take_room(owner_words);
    let setup = Setup {
        ram: &platform.ram,
        reserved: RESERVED.call_once(|| reserved),
        denied_devices: &platform.denied,
        owner_words,
        tables,
        cpus: platform.cpus.len(),
        expected: image.measurement(),
    };
    // It takes half of a stack: it is made where it stays, and not moved there from here.
    let core = HYPERVISOR.try_call_once(|| Hypervisor::new(El2, setup))?;
    #[cfg(feature = "oracle")]
    crate::oracle::install(core, room);
    Ok(core)
}

/// Writes the host's device tree into memory of the host's, erases the original, and returns where it
/// is.
fn host_tree(
    loaded: &LoadedImage,
    ram: &[Range<u64>],
    used: &[Range<u64>],
    tree: &'static [u8],
    image: &Image<'_>,
) -> Result<u64, BootError> {
    let room = (tree.len() as u64 + PAGE_SIZE).next_multiple_of(PAGE_SIZE);
    let place = memory::place(ram, used, room, PAGE_SIZE).ok_or(BootError::Memory)?;
    let parts =
        loaded.image.start + image.manifest().offset()..loaded.image.start + image.manifest().file_bytes();
    // SAFETY: `place` has found RAM that touches nothing in `used`, and the host, whose RAM it is, does not run
    // yet.
    let out = unsafe {
        core::slice::from_raw_parts_mut(
            core::ptr::with_exposed_provenance_mut::<u8>(place as usize),
            room as usize,
        )
    };
    let edits = Edits {
        initrd: Some((Pa(parts.start), Pa(parts.end))),
        reserved: RESERVED.get().map_or(&[], |reserved| reserved),
    };
    device_tree::filter(tree, &edits, out).map_err(BootError::HostTree)?;
    maintenance::clean_and_invalidate(place, room);
    // SAFETY: `loaded.tree` is where `tree` is, in RAM (`loaded`), and `filter` was the last to read it. The
    // seeds must not be left in it.
    unsafe {
        core::ptr::with_exposed_provenance_mut::<u8>(loaded.tree.start as usize)
            .write_bytes(0, (loaded.tree.end - loaded.tree.start) as usize);
    }
    maintenance::clean_and_invalidate(loaded.tree.start, loaded.tree.end - loaded.tree.start);
    Ok(place)
}

/// The one hypervisor, once the boot CPU has made it.
pub(crate) fn hypervisor() -> Option<&'static Hypervisor<'static, El2>> {
    HYPERVISOR.get()
}
