//! Sets up the ownership core: from here on every page of RAM has an owner.

use core::ops::Range;

use bootimg::Image;
use heapless::Vec;
use hyp_core::boot::device_tree::Platform;
use hyp_core::hypervisor::Hypervisor;
use hyp_core::ownership::setup::Setup;
use shared_abi::addr::{PageRange, Pfn};
use spin::Once;

use super::error::BootError;
use super::layout::{self, Block};
use crate::machine::el2::{CORE_MACHINE, CoreMachine};

static HYPERVISOR: Once<Hypervisor<'static, CoreMachine>> = Once::new();
static RESERVED: Once<Vec<PageRange<Pfn>, 3>> = Once::new();

/// Returns the pages of the hypervisor's `own` memory: its image, its block, and the trace's rings if there are any.
pub(super) fn reserved(own: &[Range<u64>]) -> Result<&'static [PageRange<Pfn>], BootError> {
    let pages = own.iter().map(layout::pages).collect::<Option<_>>().ok_or(BootError::Memory)?;
    Ok(RESERVED.call_once(|| pages))
}

/// Makes the core. The hypervisor owns `reserved`, and the host owns the rest of RAM.
pub(super) fn hypervisor(
    platform: &'static Platform,
    reserved: &'static [PageRange<Pfn>],
    block: &Block,
    image: &Image<'_>,
) -> Result<&'static Hypervisor<'static, CoreMachine>, BootError> {
    let tables = layout::pages(&block.host_tables).ok_or(BootError::Memory)?;
    let owner_words = &block.owner_words;
    // SAFETY: `layout::plan` has reserved this page-aligned range of RAM for the owner map only. `boot::prepare`
    // calls this once, and any bytes are a valid `u64`.
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
        reserved,
        denied_devices: &platform.denied,
        owner_words,
        tables,
        cpus: platform.cpus.len(),
        expected: image.measurement(),
    };
    // The core takes half of the boot stack, so the closure builds it in its static, without another copy here.
    let core = HYPERVISOR.try_call_once(|| Hypervisor::new(CORE_MACHINE, setup))?;
    #[cfg(feature = "oracle")]
    crate::oracle::install(core, room);
    Ok(core)
}
