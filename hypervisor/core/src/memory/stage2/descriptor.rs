//! Stage-2 descriptors (Arm ARM DDI0487, D8.3).
//!
//! The Access flag is always set, because hardware does not manage it (VTCR_EL2.HA = 0). Memory is Inner
//! Shareable. The Contiguous bit and the software bits are always 0.

use shared_abi::addr::Pfn;

use crate::machine::geometry::Level;

/// Bit 0: the descriptor is valid (D8.3.1).
const VALID: u64 = 1 << 0;
/// Bit 1: a table at levels 1 and 2, a page at level 3; clear in a block (D8.3.1).
const TABLE_OR_PAGE: u64 = 1 << 1;
/// MemAttr, bits 5:2 (D8.6.5, FEAT_S2FWB not in use): Normal, Outer and Inner Write-Back.
const MEMATTR_NORMAL: u64 = 0b1111 << 2;
/// MemAttr: Device-nGnRE.
const MEMATTR_DEVICE_NGNRE: u64 = 0b0001 << 2;
/// S2AP, bits 7:6 (D8.4.2): read and write.
const S2AP_READ_WRITE: u64 = 0b11 << 6;
/// SH, bits 9:8 (D8.6.2): Inner Shareable.
const SH_INNER: u64 = 0b11 << 8;
/// AF, bit 10 (D8.5): accessed.
const ACCESS_FLAG: u64 = 1 << 10;
/// XN, bits 54:53 (D8.4.4): 0b10, never executable. 0b00 is executable at EL1 and EL0.
const EXECUTE_NEVER: u64 = 0b10 << 53;
/// The output address, bits 47:12.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// The memory type and access of a leaf descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryType {
    /// Normal memory: read, write and execute; stage 1 may restrict this.
    Normal,
    /// A device: read and write.
    Device,
}

impl MemoryType {
    const fn bits(self) -> u64 {
        match self {
            Self::Normal => MEMATTR_NORMAL | S2AP_READ_WRITE | SH_INNER | ACCESS_FLAG,
            Self::Device => MEMATTR_DEVICE_NGNRE | S2AP_READ_WRITE | ACCESS_FLAG | EXECUTE_NEVER,
        }
    }
}

/// The only invalid descriptor that the hypervisor writes.
pub const INVALID: u64 = 0;

/// Returns a leaf descriptor of `level` that maps to the pages from `page` on.
pub const fn leaf(level: Level, page: Pfn, memory_type: MemoryType) -> u64 {
    let kind = match level {
        Level::One | Level::Two => 0,
        Level::Three => TABLE_OR_PAGE,
    };
    page.base().0 | memory_type.bits() | kind | VALID
}

/// Returns a table descriptor for the next level's table in `page`.
pub const fn table(page: Pfn) -> u64 {
    page.base().0 | TABLE_OR_PAGE | VALID
}

/// Converts a leaf to one of another `level`, for the same first page and the same access.
pub const fn at_level(leaf: u64, level: Level) -> u64 {
    match level {
        Level::One | Level::Two => leaf & !TABLE_OR_PAGE,
        Level::Three => leaf | TABLE_OR_PAGE,
    }
}

/// Returns the first physical page that a leaf maps to.
pub const fn output(leaf: u64) -> Pfn {
    Pfn((leaf & ADDRESS) >> shared_abi::addr::PAGE_SHIFT)
}

/// A decoded descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No mapping.
    Invalid,
    /// The next level's table is in this page.
    Table(Pfn),
    /// A block or page that maps to the pages from this page on.
    Leaf(Pfn),
}

/// Decodes a descriptor in a table of `level`.
pub const fn kind(level: Level, descriptor: u64) -> Kind {
    let page = output(descriptor);
    if descriptor & VALID == 0 {
        return Kind::Invalid;
    }
    match (level, descriptor & TABLE_OR_PAGE != 0) {
        (Level::Three, true) | (Level::One | Level::Two, false) => Kind::Leaf(page),
        (Level::One | Level::Two, true) => Kind::Table(page),
        // A reserved encoding, which the walker treats as invalid (D8.3.1).
        (Level::Three, false) => Kind::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_have_the_bits_that_the_manual_asks_for() {
        assert_eq!(leaf(Level::Three, Pfn(0x40000), MemoryType::Normal), 0x4000_07ff);
        assert_eq!(leaf(Level::Two, Pfn(0x40000), MemoryType::Normal), 0x4000_07fd);
        assert_eq!(leaf(Level::Three, Pfn(0x9000), MemoryType::Device), 0x0040_0000_0900_04c7);
        assert_eq!(table(Pfn(0x40001)), 0x4000_1003);
    }

    #[test]
    fn kinds_depend_on_the_level() {
        let page = leaf(Level::Three, Pfn(5), MemoryType::Normal);
        assert_eq!(kind(Level::Three, page), Kind::Leaf(Pfn(5)));
        assert_eq!(kind(Level::Two, page), Kind::Table(Pfn(5)));
        let block = at_level(page, Level::Two);
        assert_eq!(kind(Level::Two, block), Kind::Leaf(Pfn(5)));
        assert_eq!(kind(Level::Three, block), Kind::Invalid);
        assert_eq!(kind(Level::One, INVALID), Kind::Invalid);
    }
}
