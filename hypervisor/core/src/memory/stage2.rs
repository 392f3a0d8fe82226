//! Stage-2 translation tables: VMSAv8-64, 4 KiB granule, 40-bit IPA, starting at level 1 with two
//! concatenated tables (Arm ARM DDI0487, D8.2.8).
//!
//! The tables follow from the page states and hold no further information. Only *invalid* entries deny
//! access, so a denied access is always a translation fault.

pub mod descriptor;
pub(crate) mod table;

/// VTCR_EL2 for these tables, for the host and guests alike (Arm ARM DDI0487, D24.2.206). PS is 0; the CPU's
/// value is added at boot.
pub const VTCR: u64 = {
    const T0SZ_40_BITS: u64 = 64 - 40;
    const SL0_LEVEL_1: u64 = 0b01 << 6;
    const IRGN0_WRITE_BACK: u64 = 0b01 << 8;
    const ORGN0_WRITE_BACK: u64 = 0b01 << 10;
    const SH0_INNER: u64 = 0b11 << 12;
    const TG0_4K: u64 = 0b00 << 14;
    const RES1: u64 = 1 << 31;
    T0SZ_40_BITS | SL0_LEVEL_1 | IRGN0_WRITE_BACK | ORGN0_WRITE_BACK | SH0_INNER | TG0_4K | RES1
};
