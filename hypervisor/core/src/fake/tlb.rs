//! TLBs at their worst: every translation of a watched space is remembered the moment it is visible,
//! and stays until maintenance names it.

use std::collections::BTreeMap;
use std::vec::Vec;

use super::walker::{self, Translation};
use crate::machine::Space;

/// A translation was replaced by another while the old one was still remembered: no break-before-make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Whose.
    pub space: Space,
    /// Of which IPA page.
    pub page: u64,
    /// What the TLBs remember.
    pub remembered: Translation,
    /// What the tables say.
    pub found: Translation,
}

/// The TLBs of all CPUs.
#[derive(Debug, Default)]
pub struct Tlb {
    watched: Vec<Space>,
    entries: BTreeMap<(u8, u64), Translation>,
    violations: Vec<Violation>,
}

impl Tlb {
    pub(super) fn watch(&mut self, space: Space) {
        if !self.watched.contains(&space) {
            self.watched.push(space);
        }
    }

    pub(super) fn unwatch(&mut self, space: Space) {
        self.watched.retain(|watched| *watched != space);
    }

    pub(super) fn get(&self, space: Space, page: u64) -> Option<Translation> {
        self.entries.get(&(space.vmid.0, page)).copied()
    }

    pub(super) fn violations(&self) -> Vec<Violation> {
        self.violations.clone()
    }

    pub(super) fn forget(&mut self, space: Space, first: u64, pages: u64) {
        let last = first.saturating_add(pages.saturating_sub(1));
        self.entries
            .retain(|(vmid, page), _| *vmid != space.vmid.0 || *page < first || *page > last);
    }

    /// Forgets what is remembered of the leaf that translates `page`; however a TLB split it up, an
    /// address in it reaches all of it.
    pub(super) fn forget_leaf(&mut self, bits: u32, space: Space, page: u64) {
        if let Some(found) = self.get(space, page) {
            let pages = walker::pages_covered(bits, found.level);
            self.forget(space, page & !pages.saturating_sub(1), pages);
        }
    }

    pub(super) fn refill(&mut self, pages: u64, walk: impl Fn(Space, u64) -> Option<Translation>) {
        for space in &self.watched {
            for page in 0..pages {
                let Some(found) = walk(*space, page) else {
                    continue;
                };
                let remembered = *self.entries.entry((space.vmid.0, page)).or_insert(found);
                if remembered != found {
                    self.violations.push(Violation {
                        space: *space,
                        page,
                        remembered,
                        found,
                    });
                }
            }
        }
    }
}
