//! Changes of table entries: the tables and pages that they map and unmap.

use hyp_core::machine::Stage2Id;
use hyp_core::machine::lock::LockId;
use shared_abi::addr::Pfn;

use super::memory::Past;
use super::rule::Rule;
use super::space::{MappedRun, ROOT_TABLES, Removal, SpaceState, Unpublished};
use super::{Checker, HOST};
use crate::oracle::walker::{self, Meaning};

/// A table's place in an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) vmid: u8,
    level: u32,
    /// The first IPA page that it translates.
    ipa: u64,
}

impl Checker {
    /// Returns true if the page is a table that walks reach.
    pub(crate) fn walks(&self, page: Pfn) -> bool {
        self.attached.contains_key(&page.0)
    }

    /// Records new root tables: the VMID belongs to them from now on.
    pub(super) fn space(&mut self, space: Stage2Id) -> Result<(), Rule> {
        let vmid = space.vmid.0;
        if self.spaces.get(&vmid).is_some_and(|old| !old.reusable) {
            return Err(Rule::VmidReuse);
        }
        let lock = match usize::from(vmid).checked_sub(1) {
            None => LockId::HOST,
            Some(place) => LockId::slot(place),
        };
        self.attached.retain(|_, attached| attached.vmid != vmid);
        let root = space.root.page().0;
        self.spaces.insert(vmid, SpaceState::new(root, lock));
        for which in 0..ROOT_TABLES {
            let ipa = which * (walker::pages_covered(self.bits, 1) << self.bits);
            let level = 1;
            self.attach(root + which, Attached { vmid, level, ipa })?;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, cpu: usize, table: u64, index: usize, value: u64) -> Result<(), Rule> {
        if !self.memory.is_table(table) {
            let reached = |space: &SpaceState| !space.over && space.maps(table, table + 1);
            if self.remembered(table, table + 1, &[]) {
                return Err(Rule::GoneBeforeReuse);
            }
            if !self.memory.is_wiped(table) || self.spaces.values().any(reached) {
                return Err(Rule::TablePage);
            }
        } else if self.remembered(table, table + 1, &[]) {
            // A removed table can still be walked until it has left the TLBs.
            return Err(Rule::GoneBeforeReuse);
        }
        let Some(at) = self.attached.get(&table).copied() else {
            self.memory.write(table, index, value);
            return Ok(());
        };
        let space = self.spaces.get_mut(&at.vmid).ok_or(Rule::Stream)?;
        let lock = space.lock;
        space.changed = true;
        if !self.cpu(cpu).holds(lock) {
            return Err(Rule::UnderLock);
        }
        let old = self.memory.write(table, index, value);
        let covered = walker::pages_covered(self.bits, at.level);
        let ipa = at.ipa + index as u64 * covered;
        match (self.meaning(at.level, old), self.meaning(at.level, value)) {
            (Meaning::Fault, Meaning::Fault) => Ok(()),
            (Meaning::Fault, meaning) => {
                let space = self.spaces.get_mut(&at.vmid).ok_or(Rule::Stream)?;
                let mut removals = space.removals.iter();
                if removals.any(|removal| removal.overlaps(ipa, covered)) {
                    return Err(Rule::BreakBeforeMake);
                }
                space.unpublished = Some(Unpublished::Written(cpu));
                self.add(at, ipa, value, meaning)
            }
            (meaning, Meaning::Fault) => self.remove(cpu, at, ipa, meaning),
            _ if old == value => Ok(()),
            _ => Err(Rule::BreakBeforeMake),
        }
    }

    fn meaning(&self, level: u32, value: u64) -> Meaning {
        walker::meaning(self.bits, level, value)
    }

    /// Records a descriptor that became valid in a reachable table.
    fn add(&mut self, at: Attached, ipa: u64, value: u64, meaning: Meaning) -> Result<(), Rule> {
        /// Bits 1 and 0 of a table descriptor.
        const TABLE: u64 = 0b11;
        match meaning {
            Meaning::Fault => Ok(()),
            Meaning::Table(table) if value != table.base().0 | TABLE => Err(Rule::Descriptor),
            Meaning::Table(table) => {
                let level = at.level + 1;
                self.attach(table.0, Attached { level, ipa, ..at })
            }
            Meaning::Leaf(leaf) => {
                if !leaf.plain || !leaf.usable {
                    return Err(Rule::Descriptor);
                }
                let pages = walker::pages_covered(self.bits, at.level);
                let to = leaf.page.0;
                self.map(at.vmid, MappedRun { ipa, pages, to })
            }
        }
    }

    /// Records that walks now reach a table and everything below it.
    fn attach(&mut self, table: u64, at: Attached) -> Result<(), Rule> {
        if !self.memory.is_table(table) && !self.memory.is_wiped(table) {
            return Err(Rule::TablePage);
        }
        if self.attached.insert(table, at).is_some() {
            return Err(Rule::TablePage);
        }
        if let Some(space) = self.spaces.get_mut(&at.vmid) {
            space.tables += 1;
        }
        let covered = walker::pages_covered(self.bits, at.level);
        for (index, value, meaning) in self.memory.meanings(self.bits, at.level, table) {
            self.add(at, at.ipa + index as u64 * covered, value, meaning)?;
        }
        Ok(())
    }

    /// Records a new mapping of a run of pages.
    fn map(&mut self, vmid: u8, run: MappedRun) -> Result<(), Rule> {
        let (first, end) = (run.to, run.to + run.pages);
        let host_changes = vmid != HOST && self.host_changes(None);
        let but = if host_changes { &[vmid, HOST][..] } else { &[vmid] };
        if self.remembered(first, end, but) {
            return Err(Rule::GoneBeforeReuse);
        }
        if !self.memory.tables_in(first, end).is_empty() {
            return Err(Rule::HandOver);
        }
        for (_, _, past) in self.memory.past.values(first, end) {
            if matches!(past, Past::LeftBy(by) if by != vmid && !(by == HOST && host_changes)) {
                return Err(Rule::HandOver);
            }
        }
        self.memory.past.set(first, end, None);
        let space = self.spaces.get_mut(&vmid).ok_or(Rule::Stream)?;
        space.leaves.insert(run.to, run);
        Ok(())
    }

    /// Records a descriptor that became invalid in a reachable table.
    fn remove(&mut self, cpu: usize, at: Attached, ipa: u64, meaning: Meaning) -> Result<(), Rule> {
        let pages = walker::pages_covered(self.bits, at.level);
        let mut removal = Removal::new(cpu, ipa, pages);
        self.detach(at, ipa, meaning, &mut removal);
        let over = self.spaces.get(&at.vmid).is_some_and(|space| space.over);
        for run in removal.runs.iter().filter(|_| !over) {
            let left = Some(Past::LeftBy(at.vmid));
            self.memory.past.set(run.to, run.to + run.pages, left);
        }
        let space = self.spaces.get_mut(&at.vmid).ok_or(Rule::Stream)?;
        for run in &removal.runs {
            space.leaves.remove(&run.to);
        }
        space.tables -= removal.tables.len() as u64;
        if !space.quiet {
            space.removals.push(removal);
        }
        Ok(())
    }

    /// Records that walks no longer reach the tables and pages below a descriptor.
    fn detach(&mut self, at: Attached, ipa: u64, meaning: Meaning, removal: &mut Removal) {
        match meaning {
            Meaning::Fault => {}
            Meaning::Leaf(leaf) => removal.runs.push(MappedRun {
                ipa,
                pages: walker::pages_covered(self.bits, at.level),
                to: leaf.page.0,
            }),
            Meaning::Table(table) => {
                let level = at.level + 1;
                let at = Attached { level, ipa, ..at };
                self.attached.remove(&table.0);
                removal.tables.push(table.0);
                let covered = walker::pages_covered(self.bits, level);
                for (index, _, meaning) in self.memory.meanings(self.bits, level, table.0) {
                    self.detach(at, ipa + index as u64 * covered, meaning, removal);
                }
            }
        }
    }
}
