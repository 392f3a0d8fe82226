//! Decodes stage-2 tables as the Arm ARM (DDI0487, D8.2 and D8.3) defines them. It shares no constant with the
//! mapper.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "an oracle in plain words: addresses are below 2^48, bits per level at most 9"
)]

use shared_abi::addr::{Pa, Pfn};

/// The translation of one IPA page.
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
    /// The memory is Normal, Write-Back, Inner Shareable.
    pub normal: bool,
    /// The memory is a device: Device-nGnRE.
    pub device: bool,
    /// No other descriptor bit is set: neither Contiguous nor one that software or extensions use.
    pub plain: bool,
}

/// The meaning of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Invalid: an access faults.
    Fault,
    /// A table descriptor: the next level's table is in this page.
    Table(Pfn),
    /// A page or block descriptor: its first page translates to this one, the others follow.
    Leaf(Translation),
}

/// Decodes a descriptor of `level`, 1 to 3. A table has `bits` index bits.
#[must_use]
pub fn meaning(bits: u32, level: u32, descriptor: u64) -> Meaning {
    let field = |low: u32, width: u32| (descriptor >> low) & ((1 << width) - 1);
    let table_or_page = field(1, 1) == 1;
    if field(0, 1) == 0 || (level == 3 && !table_or_page) {
        return Meaning::Fault;
    }
    let address = field(12, 36);
    if level < 3 && table_or_page {
        return Meaning::Table(Pfn(address));
    }
    // A block's output address has no bits below the block's size (D8.3.1).
    let covered = pages_covered(bits, level);
    Meaning::Leaf(Translation {
        page: Pfn(address & !(covered - 1)),
        level,
        usable: field(6, 2) == 3 && field(10, 1) == 1,
        executable: field(53, 2) == 0,
        normal: field(2, 4) == 15 && field(8, 2) == 3,
        device: field(2, 4) == 1 && field(8, 2) == 0,
        plain: address & (covered - 1) == 0 && field(11, 1) == 0 && field(48, 5) == 0 && field(55, 9) == 0,
    })
}

/// The number of pages that a descriptor of `level` covers.
#[must_use]
pub const fn pages_covered(bits: u32, level: u32) -> u64 {
    1 << (bits * (3 - level))
}

/// Returns the table (of the two concatenated ones at the root) and the entry in a table of `level` that translate an
/// IPA page. The initial lookup has one more index bit than a table (D8.2.8). No page beyond that is translated.
#[must_use]
pub const fn place(bits: u32, level: u32, ipa_page: u64) -> Option<(u64, usize)> {
    let index = ipa_page >> (bits * (3 - level));
    let entries = 1 << bits;
    let in_table = (index & (entries - 1)) as usize;
    if level > 1 {
        return Some((0, in_table));
    }
    if index >= 2 * entries {
        return None;
    }
    Some((index / entries, in_table))
}

/// Translates an IPA page. `read(page, index)` returns the 64-bit word `index` of a physical page. `bits` is the
/// number of index bits of a table.
#[must_use]
pub fn walk(bits: u32, read: &dyn Fn(u64, usize) -> u64, root: Pa, ipa_page: u64) -> Option<Translation> {
    let mut table = root.0 / 4096;
    for level in 1..=3 {
        let (which, index) = place(bits, level, ipa_page)?;
        match meaning(bits, level, read(table + which, index)) {
            Meaning::Fault => return None,
            Meaning::Table(next) => table = next.0,
            Meaning::Leaf(leaf) => {
                let within = ipa_page % pages_covered(bits, level);
                return Some(Translation { page: Pfn(leaf.page.0 + within), ..leaf });
            }
        }
    }
    None
}
