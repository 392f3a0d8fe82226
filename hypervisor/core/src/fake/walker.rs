//! What stage-2 tables mean, read from the Arm ARM (DDI0487, D8.2 and D8.3) and not from the mapper:
//! this shares no constant with it.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "an oracle in plain words: tables of a test machine are small, and an overflow fails the test"
)]

use shared_abi::addr::{Pa, Pfn};

/// What one IPA page translates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical page.
    pub page: Pfn,
    /// The level of the descriptor: 1 to 3.
    pub level: u32,
    /// Reads and writes are allowed, and the Access flag is set.
    pub usable: bool,
    /// Instruction fetches are allowed.
    pub executable: bool,
    /// The memory is Normal, Write-Back, Inner Shareable; otherwise it is Device memory.
    pub normal: bool,
}

/// Translates an IPA page. `read(page, index)` is the 64-bit word `index` of a physical page;
/// `bits` is the number of index bits of a table.
#[must_use]
pub fn walk(
    bits: u32,
    read: &dyn Fn(u64, usize) -> u64,
    root: Pa,
    ipa_page: u64,
) -> Option<Translation> {
    let entries = 1_u64.checked_shl(bits)?;
    let mut table = root.0 / 4096;
    for level in 1..=3_u32 {
        let shift = bits.checked_mul(3_u32.checked_sub(level)?)?;
        let mut index = ipa_page.checked_shr(shift)?;
        if level == 1 {
            // Two concatenated tables: the input has one more bit at the initial lookup level.
            if index >= entries.checked_mul(2)? {
                return None;
            }
            table = table.checked_add(index / entries)?;
        }
        index %= entries;
        let descriptor = read(table, usize::try_from(index).ok()?);
        if descriptor.is_multiple_of(2) {
            return None;
        }
        let bit_1 = (descriptor / 2) % 2 == 1;
        let address = descriptor & 0x0000_ffff_ffff_f000;
        if level < 3 && bit_1 {
            table = address / 4096;
            continue;
        }
        if level == 3 && !bit_1 {
            return None;
        }
        let covered = 1_u64.checked_shl(shift)?;
        // A block's output address has no bits below the block's size (D8.3.1).
        let first = (address / 4096) / covered * covered;
        let page = first.checked_add(ipa_page % covered)?;
        let field = |low: u32, width: u32| (descriptor >> low) & ((1 << width) - 1);
        return Some(Translation {
            page: Pfn(page),
            level,
            usable: field(6, 2) == 3 && field(10, 1) == 1,
            executable: field(53, 2) == 0,
            normal: field(2, 4) == 15 && field(8, 2) == 3,
        });
    }
    None
}
