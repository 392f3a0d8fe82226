//! The description of a machine that the core starts from.

use shared_abi::addr::{PageRange, Pfn};
use shared_abi::record::Digest;

/// Inputs of [`Hypervisor::new`](crate::hypervisor::Hypervisor::new): the machine's description, and the
/// memory that the core keeps.
#[derive(Debug)]
pub struct Setup<'m> {
    /// RAM: at most [`MAX_REGIONS`](crate::limits::MAX_REGIONS) ascending ranges that do not overlap.
    pub ram: &'m [PageRange<Pfn>],
    /// RAM that the host must never access, such as the hypervisor's image, stacks, `owner_words` and
    /// `tables`. At most [`MAX_RESERVED`](crate::limits::MAX_RESERVED) ranges.
    pub reserved: &'m [PageRange<Pfn>],
    /// Device addresses that the host must never reach: at most [`MAX_DENIED`](crate::limits::MAX_DENIED)
    /// ranges. The host gets every other address below 2^40 that is not RAM as a device.
    pub denied_devices: &'m [PageRange<Pfn>],
    /// Memory for the page states: at least [`Needs::owner_words`] words, with any content.
    pub owner_words: &'m mut [u64],
    /// Pages for the host's stage-2 tables: at least [`Needs::tables`] pages with any content, all in one
    /// range of `reserved`. The first has an even page number.
    pub tables: PageRange<Pfn>,
    /// Number of CPUs; at most [`MAX_CPUS`](crate::limits::MAX_CPUS).
    pub cpus: usize,
    /// The launch measurement that the manifest gives, if any.
    pub expected: Option<Digest>,
}

/// The memory that the core needs on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Number of page state words, of 8 bytes each.
    pub owner_words: usize,
    /// Number of pages for the host's stage-2 tables.
    pub tables: u64,
}

/// The reason why the core refuses a setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// Too many ranges, or too many CPUs.
    #[error("too many ranges or CPUs")]
    TooMany,
    /// The RAM ranges are not ascending, overlap, or exceed the 40-bit IPA space.
    #[error("the RAM ranges are not ascending or exceed 40 bits")]
    Ram,
    /// A reserved range is not RAM, the tables are not in a reserved range, or their first page number is
    /// odd.
    #[error("a reserved range is not RAM, or the tables are not reserved or not aligned")]
    Reserved,
    /// The memory for page states or tables is smaller than [`Needs`].
    #[error("too little memory for the page states or the tables")]
    TooSmall,
}
