//! The state of memory, as the stream tells it: the content of tables, and the last use of each page.

use std::collections::BTreeMap;
use std::vec::Vec;

use crate::oracle::walker::{self, Meaning};

/// The last use of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// The page was wiped.
    Wiped,
    /// The page was cleaned to the point of coherency.
    Cleaned,
    /// The address space with this VMID could reach the page, and no longer can.
    LeftBy(u8),
}

/// A map from ranges of page numbers to the last use.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges(BTreeMap<u64, (u64, Past)>);

impl Ranges {
    /// Returns the ranges in `first..end` that have a value.
    pub(super) fn values(&self, first: u64, end: u64) -> Vec<(u64, u64, Past)> {
        let before = self.0.range(..first).next_back();
        let within = self.0.range(first..end);
        before
            .into_iter()
            .chain(within)
            .filter(|(_, (last, _))| *last > first)
            .map(|(start, (last, past))| ((*start).max(first), (*last).min(end), *past))
            .collect()
    }

    /// Sets or clears the value of `first..end`.
    pub(super) fn set(&mut self, first: u64, end: u64, past: Option<Past>) {
        if let Some((start, (last, past))) = self.0.range(..first).next_back()
            && *last > first
        {
            let (start, last, past) = (*start, *last, *past);
            self.0.insert(start, (first, past));
            self.0.insert(first, (last, past));
        }
        let inside: Vec<u64> = self.0.range(first..end).map(|(start, _)| *start).collect();
        for start in inside {
            if let Some((last, past)) = self.0.remove(&start)
                && last > end
            {
                self.0.insert(end, (last, past));
            }
        }
        if let Some(past) = past {
            self.0.insert(first, (end, past));
        }
    }
}

/// The tables, and the last use of pages.
#[derive(Clone, Debug, Default)]
pub(super) struct PageHistory {
    tables: BTreeMap<u64, BTreeMap<usize, u64>>,
    pub(super) past: Ranges,
}

impl PageHistory {
    /// Returns true if the page was written as a table since its last wipe.
    pub(super) fn is_table(&self, page: u64) -> bool {
        self.tables.contains_key(&page)
    }

    /// Returns the tables in a range of pages.
    pub(super) fn tables_in(&self, first: u64, end: u64) -> Vec<u64> {
        self.tables.range(first..end).map(|(page, _)| *page).collect()
    }

    /// Returns true if the whole page was wiped and was not used since.
    pub(super) fn is_wiped(&self, page: u64) -> bool {
        let values = self.past.values(page, page + 1);
        matches!(values[..], [(_, _, Past::Wiped)])
    }

    /// Writes an entry. Returns the old value.
    pub(super) fn write(&mut self, table: u64, index: usize, value: u64) -> u64 {
        let entries = self.tables.entry(table).or_default();
        let old = if value == 0 { entries.remove(&index) } else { entries.insert(index, value) };
        old.unwrap_or(0)
    }

    /// Records that the page is no longer a table.
    pub(super) fn drop_table(&mut self, page: u64) {
        self.tables.remove(&page);
    }

    /// Decodes the valid entries of a table.
    pub(super) fn meanings(&self, bits: u32, level: u32, table: u64) -> Vec<(usize, u64, Meaning)> {
        let entries = self.tables.get(&table).into_iter().flatten();
        entries
            .map(|(index, value)| (*index, *value, walker::meaning(bits, level, *value)))
            .filter(|(_, _, meaning)| *meaning != Meaning::Fault)
            .collect()
    }
}
