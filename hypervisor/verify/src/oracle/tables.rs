//! Trees of tables, and runs of translations.

use hyp_core::machine::Machine;
use hyp_core::machine::geometry::Geometry;
use hyp_core::verify;
use shared_abi::addr::{PAGE_SHIFT, Pfn};

use super::walker::{self, Meaning, Translation};
use super::{Difference, OracleRule, Party};

/// The size of a tree of tables.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Survey {
    /// The number of tables, with those of the root.
    pub(super) tables: u64,
    /// The number of translated pages.
    pub(super) pages: u64,
}

/// Reads all tables below `root`. It checks that a table is in `custody` before it reads the table.
pub(super) fn survey<M: Machine>(
    machine: &M,
    root: Pfn,
    party: Party,
    custody: impl Fn(Pfn) -> bool,
) -> Result<Survey, Difference> {
    let mut survey = Survey::default();
    for which in 0..M::Geometry::ROOT_TABLES {
        let table = Pfn(root.0.saturating_add(which));
        let first = which
            .saturating_mul(M::Geometry::ENTRIES as u64)
            .saturating_mul(walker::pages_covered(M::Geometry::INDEX_BITS, 1));
        below(machine, table, 1, first, party, &custody, &mut survey)?;
    }
    Ok(survey)
}

/// Reads a table of `level` whose first entry is for `page`, and the tables below it.
fn below<M: Machine>(
    machine: &M,
    table: Pfn,
    level: u32,
    page: u64,
    party: Party,
    custody: &impl Fn(Pfn) -> bool,
    survey: &mut Survey,
) -> Result<(), Difference> {
    if !custody(table) {
        return Err(Difference::new(OracleRule::Custody, party, table.0));
    }
    survey.tables = survey.tables.saturating_add(1);
    let covered = walker::pages_covered(M::Geometry::INDEX_BITS, level);
    let mut page = page;
    for index in 0..M::Geometry::ENTRIES {
        let descriptor = machine.read_entry(verify::table(table), index);
        if descriptor != 0 {
            match walker::meaning(M::Geometry::INDEX_BITS, level, descriptor) {
                Meaning::Fault => return Err(Difference::new(OracleRule::Attributes, party, page)),
                Meaning::Leaf(_) => survey.pages = survey.pages.saturating_add(covered),
                Meaning::Table(next) => {
                    below(machine, next, level.saturating_add(1), page, party, custody, survey)?
                }
            }
        }
        page = page.saturating_add(covered);
    }
    Ok(())
}

/// Consecutive IPA pages with the same kind of translation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// The translation of the first page; the pages after it follow. `None` if none of them is mapped.
    pub(super) translation: Option<Translation>,
    /// The number of pages, at least 1.
    pub(super) pages: u64,
}

/// Returns the run of translations that starts at `page`: at most `most` pages, and none beyond the table that
/// decides. The caller has surveyed the tables.
pub(super) fn run<M: Machine>(machine: &M, root: Pfn, page: u64, most: u64) -> Seen {
    let bits = M::Geometry::INDEX_BITS;
    let mut table = root;
    for level in 1..=3 {
        let Some((which, index)) = walker::place(bits, level, page) else {
            break;
        };
        table = Pfn(table.0.saturating_add(which));
        let descriptor = machine.read_entry(verify::table(table), index);
        let covered = walker::pages_covered(bits, level);
        let within = page & covered.saturating_sub(1);
        let (translation, step) = match walker::meaning(bits, level, descriptor) {
            Meaning::Table(next) => {
                table = next;
                continue;
            }
            Meaning::Fault => (None, 0),
            Meaning::Leaf(leaf) => {
                let first = Pfn(leaf.page.0.saturating_add(within));
                (Some(Translation { page: first, ..leaf }), covered << PAGE_SHIFT)
            }
        };
        let mut pages = covered.saturating_sub(within);
        let mut expected = descriptor;
        for index in index.saturating_add(1)..M::Geometry::ENTRIES {
            expected = expected.wrapping_add(step);
            if pages >= most || machine.read_entry(verify::table(table), index) != expected {
                break;
            }
            pages = pages.saturating_add(covered);
        }
        return Seen { translation, pages: pages.min(most) };
    }
    Seen { translation: None, pages: most }
}
