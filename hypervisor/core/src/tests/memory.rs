//! A machine that is only memory, for tests of tables.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use shared_abi::addr::Pfn;

use crate::cpu::registers::VcpuContext;
use crate::machine::geometry::Geometry;
use crate::machine::{ContextPage, Frames, Machine, Removed, Stage2Id, TableRef};

/// Tables of 4 entries: a block has 4 pages, a level-1 block 16, the IPA space 128.
#[derive(Debug)]
pub(crate) enum Tiny {}

impl Geometry for Tiny {
    const INDEX_BITS: u32 = 2;
}

/// The tables that were written or wiped, by page.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<BTreeMap<Pfn, [u64; Tiny::ENTRIES]>>);

impl Memory {
    fn tables(&self) -> MutexGuard<'_, BTreeMap<Pfn, [u64; Tiny::ENTRIES]>> {
        self.0.lock().unwrap()
    }
}

impl Machine for Memory {
    type Geometry = Tiny;

    fn read_entry(&self, table: TableRef, index: usize) -> u64 {
        self.tables().get(&table.page()).expect("a table is read that somebody made")[index]
    }

    fn write_entry(&self, table: TableRef, index: usize, value: u64) {
        self.tables().entry(table.page()).or_default()[index] = value;
    }

    fn fill(&self, table: TableRef, first: u64, step: u64) {
        for (index, times) in (0..Tiny::ENTRIES).zip(0..) {
            self.write_entry(table, index, first + times * step);
        }
    }

    fn wipe(&self, pages: &Frames) {
        self.tables().extend(pages.range().iter().map(|page| (page, Default::default())));
    }

    fn clean(&self, _pages: &Frames) {}

    fn with_page<R>(&self, _pages: &Frames, _index: u64, _f: impl FnOnce(&[u8; 4096]) -> R) -> R {
        unreachable!("tables are not read as bytes")
    }

    fn put_context(&self, _context_page: &mut ContextPage, _context: VcpuContext) {
        unreachable!("tables have no vCPU")
    }

    fn with_context<R>(&self, _context_page: &mut ContextPage, _f: impl FnOnce(&mut VcpuContext) -> R) -> R {
        unreachable!("tables have no vCPU")
    }

    fn publish(&self) {}

    fn invalidate(&self, _stage2_id: Stage2Id, _removed: &[Removed]) {}

    fn invalidate_all(&self, _stage2_id: Stage2Id) {}

    fn forget_previous_vcpu(&self, _stage2_id: Stage2Id) {}
}
