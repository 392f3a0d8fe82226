//! Stage 1 of EL1: an identity map in which no page is both writable and executable.
//!
//! RAM is Normal, inner shareable, write-back. Devices are Device-nGnRE. Text is read-only and executable, constants
//! are read-only, and all other pages are never executable; SCTLR_EL1.WXN enforces that. The map covers the lower 512
//! GiB. Its tables come from a fixed array of the binary, because the map is made before there is a heap, and while
//! the MMU is off, when atomic read-modify-write instructions may not work.

mod tables;

use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Range;

use aarch64_paging::descriptor::El1Attributes;
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, PAGE_SIZE, VaRange};
use aarch64_paging::{MapError, Mapping};

use crate::image::Layout;
use tables::Tables;

/// Tables start at level 1: addresses have 39 bits.
const ROOT_LEVEL: usize = 1;
/// The only ASID.
const ASID: usize = 0;
/// The maximum number of table pages for one range: two at each end and one above.
const TABLES_PER_RANGE: usize = 5;

const VALID: El1Attributes = El1Attributes::VALID.union(El1Attributes::ACCESSED);
const NEVER_EXECUTE: El1Attributes = El1Attributes::PXN.union(El1Attributes::UXN);
/// MAIR_EL1 index 0, see [`registers::MAIR`].
const DEVICE: El1Attributes = VALID.union(El1Attributes::ATTRIBUTE_INDEX_0).union(NEVER_EXECUTE);
/// MAIR_EL1 index 1, see [`registers::MAIR`].
const NORMAL: El1Attributes =
    VALID.union(El1Attributes::ATTRIBUTE_INDEX_1).union(El1Attributes::INNER_SHAREABLE);
const TEXT: El1Attributes = NORMAL.union(El1Attributes::READ_ONLY).union(El1Attributes::UXN);
const RODATA: El1Attributes = NORMAL.union(El1Attributes::READ_ONLY).union(NEVER_EXECUTE);
const DATA: El1Attributes = NORMAL.union(NEVER_EXECUTE);

/// Why a range cannot be mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// [`Stage1::new`] was called before. There is one set of tables.
    Taken,
    /// The fixed array of tables may be too small for the range.
    OutOfTables,
    /// The range is not page aligned, is empty, or lies partly above 512 GiB.
    Range(Range<u64>),
    /// The range is already mapped with other attributes.
    Mapped(Range<u64>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken => f.write_str("stage 1 exists already"),
            Self::OutOfTables => f.write_str("no table page is left for stage 1"),
            Self::Range(range) => {
                write!(f, "stage 1 cannot map {:#x} to {:#x}", range.start, range.end)
            }
            Self::Mapped(range) => {
                write!(f, "{:#x} to {:#x} is mapped already", range.start, range.end)
            }
        }
    }
}

impl core::error::Error for Error {}

/// The map of this binary. Once enabled, it stays in effect after this value is dropped.
#[derive(Debug)]
pub struct Stage1 {
    /// Never dropped, because the drop would free tables that the CPU walks.
    mapping: ManuallyDrop<Mapping<Tables, El1And0>>,
    layout: Layout,
}

impl Stage1 {
    /// Makes a map of the running binary only. There is one set of tables, so a second call fails.
    ///
    /// # Errors
    ///
    /// [`Error::Taken`] on the second call; [`Error::Range`] if the binary lies above 512 GiB.
    pub fn new(layout: &Layout) -> Result<Self, Error> {
        Self::with_tables(Tables::take().ok_or(Error::Taken)?, layout)
    }

    fn with_tables(tables: Tables, layout: &Layout) -> Result<Self, Error> {
        let mut stage1 = Self {
            mapping: ManuallyDrop::new(Mapping::with_asid_and_va_range(
                tables,
                ASID,
                ROOT_LEVEL,
                El1And0,
                VaRange::Lower,
            )),
            layout: layout.clone(),
        };
        for (part, attributes) in [(&layout.text, TEXT), (&layout.rodata, RODATA), (&layout.data, DATA)] {
            if !part.is_empty() {
                stage1.map(part.clone(), attributes)?;
            }
        }
        Ok(stage1)
    }

    /// Maps RAM read-write and never executable. The binary's own pages in it keep their permissions.
    ///
    /// # Errors
    ///
    /// Any [`Error`] but [`Error::Taken`]. Existing mappings stay as they are.
    pub fn map_ram(&mut self, ram: Range<u64>) -> Result<(), Error> {
        let image = self.layout.image();
        for part in [ram.start..ram.end.min(image.start), ram.start.max(image.end)..ram.end] {
            if part.start < part.end {
                self.map(part, DATA)?;
            }
        }
        Ok(())
    }

    /// Maps a device's registers as Device-nGnRE. A page that is already mapped as a device stays mapped.
    ///
    /// # Errors
    ///
    /// Any [`Error`] but [`Error::Taken`].
    pub fn map_device(&mut self, registers: Range<u64>) -> Result<(), Error> {
        self.map(registers, DEVICE)
    }

    fn map(&mut self, range: Range<u64>, attributes: El1Attributes) -> Result<(), Error> {
        let page = PAGE_SIZE as u64;
        if range.is_empty()
            || !range.start.is_multiple_of(page)
            || !range.end.is_multiple_of(page)
            || range.end > self.mapping.size() as u64
        {
            return Err(Error::Range(range));
        }
        let region = MemoryRegion::new(range.start as usize, range.end as usize);
        self.refuse_other_mapping(&region, attributes).map_err(|()| Error::Mapped(range.clone()))?;
        if self.mapping.translation().left() < TABLES_PER_RANGE {
            return Err(Error::OutOfTables);
        }
        self.mapping
            .map_range(
                &region,
                aarch64_paging::descriptor::PhysicalAddress(region.start().0),
                attributes,
                Constraints::empty(),
            )
            .map_err(|error| match error {
                MapError::BreakBeforeMakeViolation(_) => Error::Mapped(range.clone()),
                _ => Error::Range(range.clone()),
            })?;
        #[cfg(target_os = "none")]
        registers::publish();
        Ok(())
    }

    /// Fails if a page of the region is mapped with other attributes.
    fn refuse_other_mapping(&self, region: &MemoryRegion, attributes: El1Attributes) -> Result<(), ()> {
        let kind = El1Attributes::ATTRIBUTE_INDEX_7 | El1Attributes::READ_ONLY | NEVER_EXECUTE;
        self.mapping
            .walk_range(region, &mut |_, descriptor, _| {
                let same = descriptor.flags() & kind == attributes & kind;
                if descriptor.is_valid() && !same {
                    return Err(());
                }
                Ok(())
            })
            .map_err(|_| ())
    }
}

#[cfg(target_os = "none")]
pub use registers::Registers;

#[cfg(target_os = "none")]
impl Stage1 {
    /// Turns on the MMU and caches of the boot CPU. The returned value does the same on another CPU.
    ///
    /// # Safety
    ///
    /// This is called once, on the boot CPU at EL1, with the MMU off. Every address that the binary uses after it is
    /// mapped: RAM as RAM, devices as devices.
    #[must_use]
    pub unsafe fn enable(&self) -> Registers {
        let registers = Registers::new(self.mapping.root_address().0 as u64);
        let image = self.layout.image();
        registers::invalidate_stale_lines(image.start, image.end);
        // SAFETY: the caller calls this with the MMU off, and has mapped all memory that the binary uses beside its
        // own. `new` has mapped the binary, with this code and its stack, at its own address.
        unsafe { registers.enable() };
        // From here on, `mapping` refuses a change that needs break-before-make.
        self.mapping.mark_active();
        registers
    }
}

#[cfg(target_os = "none")]
mod registers;

#[cfg(test)]
mod tests;
