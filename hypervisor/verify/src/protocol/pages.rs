//! Wipes and cleans of pages that change owner.

use hyp_core::machine::lock::LockId;
use shared_abi::addr::{PageRange, Pfn};

use super::memory::Past;
use super::rule::Rule;
use super::{Checker, HOST};

impl Checker {
    /// Returns true if a CPU other than `but` is changing the host's tables. That CPU may have removed a block to
    /// split it. If the block contains a page that the host lent, the removal looks like a change of owner for a
    /// moment.
    pub(super) fn host_changes(&self, but: Option<usize>) -> bool {
        self.cpus.iter().any(|(cpu, state)| Some(*cpu) != but && state.holds(LockId::HOST))
    }

    pub(super) fn wipe(&mut self, cpu: usize, pages: PageRange<Pfn>) -> Result<(), Rule> {
        let (first, end) = (pages.first().0, pages.end().0);
        let but = if self.host_changes(Some(cpu)) { &[HOST][..] } else { &[] };
        if self.remembered(first, end, but) {
            return Err(Rule::GoneBeforeReuse);
        }
        for (table, at) in self.attached.extract_if(first..end, |_, _| true) {
            let space = self.spaces.get_mut(&at.vmid).ok_or(Rule::Stream)?;
            if !space.over {
                return Err(Rule::GoneBeforeReuse);
            }
            self.memory.drop_table(table);
        }
        for table in self.memory.tables_in(first, end) {
            self.memory.drop_table(table);
        }
        self.memory.past.set(first, end, Some(Past::Wiped));
        Ok(())
    }

    pub(super) fn clean(&mut self, cpu: usize, pages: PageRange<Pfn>) -> Result<(), Rule> {
        let (first, end) = (pages.first().0, pages.end().0);
        let but = if self.host_changes(Some(cpu)) { &[HOST][..] } else { &[] };
        if self.remembered(first, end, but) {
            return Err(Rule::GoneBeforeReuse);
        }
        // A clean makes the host's writes visible. It does not erase a guest's content, so it suffices only if the
        // page was the host's all the time.
        for (first, end, past) in self.memory.past.values(first, end) {
            let Past::LeftBy(by) = past else { continue };
            let host = self.spaces.get(&HOST);
            let lent = |page: &u64| host.is_some_and(|host| host.maps(*page, page + 1));
            for page in (first..end).filter(|page| by == HOST || lent(page)) {
                self.memory.past.set(page, page + 1, Some(Past::Cleaned));
            }
        }
        Ok(())
    }
}
