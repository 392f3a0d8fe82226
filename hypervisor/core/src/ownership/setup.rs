//! What the core has to know of a machine before it takes it.

use shared_abi::addr::{PageRange, Pfn};
use shared_abi::record::Digest;

/// What [`Hypervisor::new`](crate::hypervisor::Hypervisor::new) has to know of the machine, and the memory that it keeps.
#[derive(Debug)]
pub struct Setup<'m> {
    /// RAM: at most [`MAX_REGIONS`] ranges, ascending and apart.
    pub ram: &'m [PageRange<Pfn>],
    /// The hypervisor's own part of it: image, stacks, `owner_words`, `tables`, and whatever else the host
    /// shall never reach. At most [`MAX_RESERVED`] ranges.
    pub reserved: &'m [PageRange<Pfn>],
    /// Device addresses that the host shall never reach, at most [`MAX_DENIED`] ranges; all else
    /// below 2^40 that is no RAM is a device of the host's.
    pub denied_devices: &'m [PageRange<Pfn>],
    /// Memory for the page states: [`Needs::owner_words`] of them. The content does not matter.
    pub owner_words: &'m mut [u64],
    /// Pages for the host's stage-2 tables: [`Needs::tables`] of them, the first at an even page
    /// number, all in `reserved`. The content does not matter.
    pub tables: PageRange<Pfn>,
    /// How many CPUs there are; at most [`MAX_CPUS`].
    pub cpus: usize,
    /// The launch measurement that the manifest names, if it does.
    pub expected: Option<Digest>,
}

/// How much memory the core keeps for a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Page states, of 8 bytes each.
    pub owner_words: usize,
    /// Pages for the host's stage-2 tables.
    pub tables: u64,
}

/// Why the core can't work on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// Too many ranges, or too many CPUs.
    #[error("too many ranges or CPUs")]
    TooMany,
    /// RAM is not ascending, overlaps, or lies beyond the 40 bits that stage 2 translates.
    #[error("the RAM ranges are out of order or out of reach")]
    Ram,
    /// A reserved range, or the tables, are not where they have to be.
    #[error("a reserved range is not in RAM, or the tables are not reserved")]
    Reserved,
    /// Too little room for page states or tables: see [`Needs`].
    #[error("too little room for the records or the tables")]
    TooSmall,
}
