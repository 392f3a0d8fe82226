//! A read-only view of a memory object for the oracle: its tables, and the totals of their words.

use shared_abi::addr::Pfn;

use crate::machine::geometry::Geometry;
use crate::machine::{Machine, TableRef};
use crate::memory::object::presence::PresenceWord;
use crate::memory::object::{Object, Presence};

/// The totals of an object's tables.
#[derive(Clone, Copy, Debug, Default)]
pub struct ObjectSurvey {
    /// Number of tables, including directories.
    pub tables: u64,
    /// Number of pages that the words say are present.
    pub present: u64,
}

/// An inconsistency in an object's tables.
#[derive(Clone, Copy, Debug)]
pub enum ObjectFault {
    /// The table in this page is not in the VM's pool.
    Table(Pfn),
    /// The count of the split chunk with this table is wrong.
    Count(Pfn),
}

/// A memory object, viewed under all locks.
#[derive(Clone, Copy, Debug)]
pub struct ObjectView<'a>(pub(super) &'a Object);

impl ObjectView<'_> {
    /// The word of an absent page, for a bug that writes it in the place of another.
    #[cfg(feature = "seeded-bugs")]
    pub const ABSENT: u64 = PresenceWord::ABSENT.0;
    /// The word of a poisoned page.
    #[cfg(feature = "seeded-bugs")]
    pub const POISONED: u64 = PresenceWord::new(Presence::Poisoned).0;

    /// Number of present pages, by the object's own count.
    #[must_use]
    pub const fn present(self) -> u64 {
        self.0.present()
    }

    /// Returns the page at `offset`, if it is present, and how many of the `most` pages from there on belong
    /// to its run.
    pub fn run<M: Machine>(self, machine: &M, offset: u64, most: u64) -> (Option<Pfn>, u64) {
        let run = self.0.run(machine, offset, most);
        match run.presence() {
            Presence::Present(page) => (Some(page), run.pages),
            Presence::Absent | Presence::Poisoned => (None, run.pages),
        }
    }

    /// Reads all tables of the object. Before it reads a table it checks by `custody` that the table belongs
    /// to the VM.
    ///
    /// # Errors
    ///
    /// The first [`ObjectFault`] that it finds.
    pub fn survey<M: Machine>(
        self,
        machine: &M,
        custody: impl Fn(Pfn) -> bool,
    ) -> Result<ObjectSurvey, ObjectFault> {
        let mut survey = ObjectSurvey::default();
        let entries = M::Geometry::ENTRIES as u64;
        let block = M::Geometry::BLOCK_PAGES;
        for (directory, first_chunk) in self.0.directories.iter().zip(0_u64..) {
            if !custody(directory.page()) {
                return Err(ObjectFault::Table(directory.page()));
            }
            survey.tables = survey.tables.saturating_add(1);
            let first_chunk = entries.saturating_mul(first_chunk);
            for (index, chunk) in (0..M::Geometry::ENTRIES).zip(first_chunk..) {
                let first = chunk.saturating_mul(block);
                let word = PresenceWord(machine.read_entry(*directory, index));
                let present = match word.as_split() {
                    Some((table, count)) => {
                        if !custody(table.page()) {
                            return Err(ObjectFault::Table(table.page()));
                        }
                        survey.tables = survey.tables.saturating_add(1);
                        self.survey_chunk(machine, table, first, count)?
                    }
                    None if word.is_present() => {
                        let gone = self.0.taken.saturating_sub(first);
                        block.saturating_sub(gone)
                    }
                    None => 0,
                };
                survey.present = survey.present.saturating_add(present);
            }
        }
        Ok(survey)
    }

    /// Returns how many pages of a split chunk are present and not yet taken by teardown.
    fn survey_chunk<M: Machine>(
        self,
        machine: &M,
        table: TableRef,
        first: u64,
        count: u64,
    ) -> Result<u64, ObjectFault> {
        let (mut present, mut not_absent) = (0_u64, 0_u64);
        for (index, offset) in (0..M::Geometry::ENTRIES).zip(first..) {
            let word = PresenceWord(machine.read_entry(table, index));
            not_absent = not_absent.saturating_add(u64::from(word != PresenceWord::ABSENT));
            let here = offset >= self.0.taken && word.is_present();
            present = present.saturating_add(u64::from(here));
        }
        // Teardown leaves stale words and counts behind.
        if self.0.taken == 0 && not_absent != count {
            return Err(ObjectFault::Count(table.page()));
        }
        Ok(present)
    }
}
