//! Worst-case TLBs. They cache each translation of a watched address space as soon as it is visible, and keep
//! it until an invalidation covers it.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use hyp_core::machine::Stage2Id;

use crate::oracle::walker::{self, Meaning, Translation};

/// A translation was replaced by another while a TLB still held the old one: break-before-make was violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleTranslation {
    /// The address space.
    pub stage2_id: Stage2Id,
    /// The IPA page.
    pub page: u64,
    /// The translation that the TLBs hold.
    pub remembered: Translation,
    /// The translation in the tables.
    pub found: Translation,
}

/// The translations of an address space, by IPA page.
pub type Map = Vec<Option<Translation>>;

/// The TLBs of all CPUs.
#[derive(Clone, Debug, Default)]
pub struct Tlb {
    watched: Vec<Stage2Id>,
    /// By VMID.
    entries: BTreeMap<u8, Map>,
    violations: Vec<StaleTranslation>,
}

/// The index of an IPA page in a [`Map`].
fn index(page: u64) -> usize {
    usize::try_from(page).unwrap_or(usize::MAX)
}

impl Tlb {
    pub(super) fn watch(&mut self, stage2_id: Stage2Id) {
        if !self.watched.contains(&stage2_id) {
            self.watched.push(stage2_id);
        }
    }

    pub(super) fn unwatch(&mut self, stage2_id: Stage2Id) {
        self.watched.retain(|watched| *watched != stage2_id);
    }

    /// Returns the cached translation of a page.
    pub(super) fn get(&self, stage2_id: Stage2Id, page: u64) -> Option<Translation> {
        *self.entries.get(&stage2_id.vmid.0)?.get(index(page))?
    }

    /// Returns the cached translations of an address space.
    pub(super) fn map(&self, stage2_id: Stage2Id) -> Option<&Map> {
        self.entries.get(&stage2_id.vmid.0)
    }

    pub(super) fn violations(&self) -> Vec<StaleTranslation> {
        self.violations.clone()
    }

    pub(super) fn forget(&mut self, stage2_id: Stage2Id, first: u64, pages: u64) {
        let end = index(first.saturating_add(pages));
        let entries = self.entries.get_mut(&stage2_id.vmid.0);
        let named = entries.and_then(|map| {
            let end = end.min(map.len());
            map.get_mut(index(first)..end)
        });
        named.unwrap_or_default().fill(None);
    }

    /// Removes the cached translations of the leaf that translates `page`. A TLB may hold a leaf in pieces, and an
    /// invalidation by any address in the leaf removes all of them.
    pub(super) fn forget_leaf(&mut self, bits: u32, stage2_id: Stage2Id, page: u64) {
        if let Some(found) = self.get(stage2_id, page) {
            let pages = walker::pages_covered(bits, found.level);
            self.forget(stage2_id, page & !pages.saturating_sub(1), pages);
        }
    }

    pub(super) fn refill(&mut self, translations: impl Fn(Stage2Id) -> Map) {
        for stage2_id in &self.watched {
            let found = translations(*stage2_id);
            let known = self.entries.entry(stage2_id.vmid.0);
            let known = known.or_insert_with(|| vec![None; found.len()]);
            for ((page, found), remembered) in (0..).zip(found).zip(known) {
                let Some(found) = found else { continue };
                let remembered = *remembered.get_or_insert(found);
                if remembered != found {
                    self.violations.push(StaleTranslation { stage2_id: *stage2_id, page, remembered, found });
                }
            }
        }
    }
}

/// Returns the translations of the first `pages` pages of an address space by the tables as they are now. The result
/// equals that of [`walker::walk`] for each page.
pub(super) fn translations(
    bits: u32,
    pages: u64,
    read: &dyn Fn(u64, usize) -> u64,
    stage2_id: Stage2Id,
) -> Map {
    let mut map = vec![None; index(pages)];
    let mut page = 0;
    while page < pages {
        let Some((which, _)) = walker::place(bits, 1, page) else {
            break;
        };
        let table = stage2_id.root.page().0.saturating_add(which);
        page = page.saturating_add(fill(bits, read, table, 1, page, &mut map));
    }
    map
}

/// Appends the translations by a table's entry for `page`. Returns how many pages the entry covers.
fn fill(
    bits: u32,
    read: &dyn Fn(u64, usize) -> u64,
    table: u64,
    level: u32,
    page: u64,
    map: &mut Map,
) -> u64 {
    let covered = walker::pages_covered(bits, level);
    let entry = walker::place(bits, level, page).map_or(0, |(_, index)| read(table, index));
    match walker::meaning(bits, level, entry) {
        Meaning::Fault => {}
        Meaning::Table(next) => {
            let mut done = 0;
            while done < covered {
                let page = page.saturating_add(done);
                let below = fill(bits, read, next.0, level.saturating_add(1), page, map);
                done = done.saturating_add(below);
            }
        }
        Meaning::Leaf(leaf) => {
            for within in 0..covered {
                if let Some(slot) = map.get_mut(index(page.saturating_add(within))) {
                    let to = leaf.page.checked_add(within).unwrap_or(leaf.page);
                    *slot = Some(Translation { page: to, ..leaf });
                }
            }
        }
    }
    covered
}
