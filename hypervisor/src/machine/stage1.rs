//! EL2's own stage 1: an identity map. Text is executable and read-only, constants are read-only, and all
//! other RAM is writable and never executable. The only devices mapped are the hypervisor's own.

use core::ops::Range;
use core::ptr::NonNull;

use aarch64_paging::descriptor::{El23Attributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, El2, MemoryRegion, PAGE_SIZE, PageTable, Translation};
use aarch64_paging::{MapError, Mapping};
use bare_rt::image::Layout;

use crate::arch::{self, controls};

/// Tables start at level 0: addresses have 48 bits.
const ROOT_LEVEL: usize = 0;

const VALID: El23Attributes = El23Attributes::VALID.union(El23Attributes::ACCESSED);
const DEVICE: El23Attributes = VALID.union(El23Attributes::ATTRIBUTE_INDEX_0).union(El23Attributes::XN);
const NORMAL: El23Attributes =
    VALID.union(El23Attributes::ATTRIBUTE_INDEX_1).union(El23Attributes::INNER_SHAREABLE);
const TEXT: El23Attributes = NORMAL.union(El23Attributes::READ_ONLY);
const RODATA: El23Attributes = TEXT.union(El23Attributes::XN);
const DATA: El23Attributes = NORMAL.union(El23Attributes::XN);

/// Allocates table pages from a range that is reserved for them.
struct Tables {
    free: Range<u64>,
}

impl Translation<El23Attributes> for Tables {
    fn allocate_table(&mut self) -> (NonNull<PageTable<El23Attributes>>, PhysicalAddress) {
        let page = self.free.start;
        assert!(page < self.free.end, "EL2's stage 1 needs more tables than were reserved");
        self.free.start += PAGE_SIZE as u64;
        let table = self.physical_to_virtual(PhysicalAddress(page as usize));
        // SAFETY: the page is in the range that the caller of `Stage1::new` gave for tables only, as was just
        // asserted, and each page is allocated once.
        unsafe { table.write_bytes(0, 1) };
        (table, PhysicalAddress(page as usize))
    }

    unsafe fn deallocate_table(&mut self, _table: NonNull<PageTable<El23Attributes>>) {
        // The map only grows and is never freed.
    }

    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<El23Attributes>> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(pa.0)).expect("no table is at address 0")
    }
}

/// The map, which each CPU turns on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stage1 {
    root: u64,
}

impl Stage1 {
    /// Returns the number of table pages that a map of `ram` needs: for each range, one per GiB and six for
    /// its edges, plus a fixed number for devices and the top levels.
    pub(crate) fn tables_needed(ram: &[Range<u64>]) -> u64 {
        const FIXED: u64 = 16;
        ram.iter().map(|range| ((range.end - range.start) >> 30) + 6).sum::<u64>() + FIXED
    }

    /// Makes the map of `ram` (which contains the running binary) and of the pages of `devices`.
    ///
    /// # Safety
    ///
    /// `tables` is RAM that no other code uses, now or later. The MMU is off.
    pub(crate) unsafe fn new(
        tables: Range<u64>,
        layout: &Layout,
        ram: &[Range<u64>],
        devices: &[u64],
    ) -> Result<Self, MapError> {
        let mut mapping = Mapping::new(Tables { free: tables }, ROOT_LEVEL, El2);
        let mut map = |range: Range<u64>, attributes| {
            if range.is_empty() {
                return Ok(());
            }
            mapping.map_range(
                &MemoryRegion::new(range.start as usize, range.end as usize),
                PhysicalAddress(range.start as usize),
                attributes,
                Constraints::empty(),
            )
        };
        let image = layout.image();
        for range in ram {
            map(range.start..range.end.min(image.start).max(range.start), DATA)?;
            map(range.start.max(image.end).min(range.end)..range.end, DATA)?;
        }
        map(layout.text.clone(), TEXT)?;
        map(layout.rodata.clone(), RODATA)?;
        map(layout.data.clone(), DATA)?;
        for device in devices {
            map(*device..*device + PAGE_SIZE as u64, DEVICE)?;
        }
        let root = mapping.root_address().0 as u64;
        // The tables are never freed.
        core::mem::forget(mapping);
        Ok(Self { root })
    }

    /// Turns the map on for this CPU.
    ///
    /// # Safety
    ///
    /// The CPU is at EL2 with its MMU off, and the map has all memory that the CPU uses.
    // symbol: tests/tests/metal reads its instructions.
    #[inline(never)]
    pub(crate) unsafe fn enable(self) {
        let tcr = controls::tcr(arch::physical_range());
        arch::tlbi_alle2();
        // SAFETY: the caller calls this with the MMU off, and with a map of all memory that this CPU uses. It is an
        // identity map, so the instruction after the write of SCTLR_EL2 is fetched from the same address.
        unsafe {
            arch::write!("mair_el2", controls::MAIR);
            arch::write!("tcr_el2", tcr);
            arch::write!("ttbr0_el2", self.root);
            arch::dsb_ish();
            arch::isb();
            arch::write!("sctlr_el2", controls::SCTLR);
        }
        arch::isb();
    }
}
