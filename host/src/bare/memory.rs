//! The machine's free page frames, and the heap in some of them.

use bare_rt::el1::heap;
use bare_rt::el1::lock::IrqLock;
use bare_rt::image::Layout;
use host::memory::FrameAllocator;
use shared_abi::addr::{PAGE_SIZE, PageRange, Pfn};

use super::frames::Frames;
use super::platform::Platform;

/// The heap holds the VMM's state and buffers, which do not grow with the guest's memory but for
/// one word per page.
const HEAP_BYTES: u64 = 8 << 20;

static FRAMES: IrqLock<Option<Frames<'static>>> = IrqLock::new(None);

/// Finds out which frames are free, and takes some for the bitmap itself and for the heap.
///
/// # Errors
///
/// RAM is too small.
///
/// # Safety
///
/// Called once, with the MMU on. RAM is mapped, and what is neither reserved nor in the binary, the
/// device tree or the boot image is nobody's.
pub(crate) unsafe fn init(platform: &Platform) -> Result<(), &'static str> {
    const TOO_SMALL: &str = "RAM is too small for the host";
    let span = platform.ram_span();
    let bitmap_bytes =
        (Frames::words(span.end - span.start) * size_of::<u64>() as u64).next_multiple_of(PAGE_SIZE);
    let bitmap = find_room(platform, bitmap_bytes).ok_or(TOO_SMALL)?;
    let words = core::ptr::with_exposed_provenance_mut::<u64>(bitmap as usize);
    // SAFETY: the frames are free RAM, as `find_room` checked, and page aligned; they are zeroed before
    // a reference to them is made, and `remove` below keeps anyone else from getting them.
    unsafe { words.write_bytes(0, bitmap_bytes as usize / size_of::<u64>()) };
    // SAFETY: `find_room` found these free frames, the line above zeroed them, and `remove` below keeps them
    // from being handed out.
    let words = unsafe { core::slice::from_raw_parts_mut(words, bitmap_bytes as usize / size_of::<u64>()) };
    let mut frames = Frames::new(span, words).ok_or(TOO_SMALL)?;
    for bank in &platform.ram {
        frames.add(bank.clone());
    }
    for taken in taken(platform) {
        frames.remove(taken);
    }
    frames.remove(bitmap..bitmap + bitmap_bytes);
    let memory = frames.allocate(HEAP_BYTES / PAGE_SIZE, 1).ok_or(TOO_SMALL)?;
    // SAFETY: `allocate` has just handed these frames out, mapped RAM, for the heap alone. The caller calls
    // this once.
    unsafe { heap::init(memory.first().base().0..memory.end().base().0) };
    *FRAMES.lock() = Some(frames);
    Ok(())
}

/// RAM that is in use from the start.
fn taken(platform: &Platform) -> impl Iterator<Item = core::ops::Range<u64>> {
    platform.reserved.iter().cloned().chain(
        [Some(platform.device_tree.clone()), platform.image.clone(), Some(Layout::current().image())]
            .into_iter()
            .flatten(),
    )
}

/// The lowest address above something in use (or at the start of a bank) with so many free bytes.
fn find_room(platform: &Platform, bytes: u64) -> Option<u64> {
    let starts = platform.ram.iter().map(|bank| bank.start);
    starts
        .chain(taken(platform).map(|range| range.end))
        .map(|start| start.next_multiple_of(PAGE_SIZE))
        .filter(|&start| {
            let end = start + bytes;
            let in_ram = |bank: &core::ops::Range<u64>| bank.start <= start && end <= bank.end;
            platform.ram.iter().any(in_ram)
                && taken(platform).all(|range| range.end <= start || end <= range.start)
        })
        .min()
}

/// The machine's page frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineFrames;

impl FrameAllocator for MachineFrames {
    fn allocate(&mut self, pages: u64, align_pages: u64) -> Option<Pfn> {
        let mut frames = FRAMES.lock();
        let range = frames.as_mut()?.allocate(pages, align_pages)?;
        Some(range.first())
    }

    fn free(&mut self, first: Pfn, pages: u64) {
        if let (Some(frames), Some(range)) = (FRAMES.lock().as_mut(), PageRange::<Pfn>::new(first, pages)) {
            frames.release(range);
        }
    }
}
