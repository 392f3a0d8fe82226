//! The tables of objects and of address spaces: each is taken from the pool and returned to it once, and a
//! call returns no more tables than it may.

use shared_abi::addr::{PageRange, Pfn};

use super::memory::{Memory, Tiny};
use crate::machine::geometry::Geometry;
use crate::machine::{Frames, Machine, TableRef, Vmid};
use crate::memory::object::{Object, Presence};
use crate::memory::pool::Pool;
use crate::memory::stage2::descriptor::MemoryType;
use crate::memory::stage2::table::{Mapping, Stage2};
use crate::memory::tlb::TlbGather;

fn range(first: u64, pages: u64) -> PageRange<Pfn> {
    PageRange::<Pfn>::new(Pfn(first), pages).unwrap()
}

fn pool(machine: &Memory, first: u64, pages: u64) -> Pool {
    let mut pool = Pool::default();
    pool.add(machine, Frames::new(range(first, pages)));
    pool
}

/// An address space with its root in pages 8 and 9.
fn space(machine: &Memory) -> Stage2 {
    let root = Frames::new(range(8, 2));
    machine.wipe(&root);
    Stage2::new(&root, Vmid(1))
}

fn free(pool: &Pool) -> u64 {
    u64::MAX - pool.short_of(u64::MAX).unwrap()
}

/// Repeats `dismantle` with at most `most` tables per call until no table is left. Returns the number of
/// calls.
fn in_parts(pool: &mut Pool, most: u64, mut dismantle: impl FnMut(&mut Pool, u64) -> u64) -> u64 {
    let mut steps = 0;
    loop {
        let before = free(pool);
        let gone = dismantle(pool, most);
        assert_eq!(free(pool) - before, gone);
        assert!(gone <= most);
        steps += 1;
        if gone < most {
            return steps;
        }
    }
}

#[test]
fn an_objects_tables_go_back_one_by_one() {
    for (most, steps) in [(1, 8), (2, 4), (3, 3), (7, 2), (9, 1)] {
        let machine = Memory::default();
        let mut pool = pool(&machine, 10, 20);
        // Two directories, and five split chunks with one poisoned page each.
        let mut object = Object::new(&machine, &mut pool, 2 * Tiny::LEVEL1_BLOCK_PAGES).unwrap();
        for offset in [1, 6, 11, 17, 30] {
            let (absent, poison) = (Presence::Absent, Presence::Poisoned);
            object.set(&machine, &mut pool, offset, 1, absent, poison);
        }
        assert_eq!(free(&pool), 13);
        let took = in_parts(&mut pool, most, |pool, most| object.dismantle(&machine, pool, most));
        assert_eq!((took, free(&pool)), (steps, 20), "{most} at a time");
    }
}

#[test]
fn a_spaces_tables_go_back_one_by_one() {
    for (most, steps) in [(1, 6), (2, 3), (4, 2), (6, 1)] {
        let machine = Memory::default();
        let mut pool = pool(&machine, 10, 20);
        let tables = space(&machine);
        // Single pages in three blocks of two level-1 blocks; the second level-1 block is under the second
        // root table.
        for page in [1, 5, 70] {
            let mut gather = TlbGather::new(tables.stage2_id());
            let mapping = Mapping { page, to: Pfn(100), pages: 1, memory_type: MemoryType::Normal };
            tables.map(&machine, &mut pool, mapping, &mut gather);
            gather.finish(&machine);
        }
        assert_eq!(free(&pool), 15);
        let took = in_parts(&mut pool, most, |pool, most| tables.dismantle(&machine, pool, most));
        assert_eq!((took, free(&pool)), (steps, 20), "{most} at a time");
    }
}

#[test]
fn replaced_tables_are_zero_in_the_pool() {
    let machine = Memory::default();
    let mut pool = pool(&machine, 10, 20);
    let tables = space(&machine);
    let mut map = |page, pages| {
        let mut gather = TlbGather::new(tables.stage2_id());
        let mapping = Mapping { page, to: Pfn(64 + page), pages, memory_type: MemoryType::Normal };
        tables.map(&machine, &mut pool, mapping, &mut gather);
        gather.finish(&machine);
    };
    for page in [1, 2, 6, 15] {
        map(page, 1);
    }
    map(0, Tiny::LEVEL1_BLOCK_PAGES);
    assert_eq!(free(&pool), 20);
    while let Some(table) = pool.take(&machine) {
        let entries = (0..Tiny::ENTRIES).map(|index| machine.read_entry(table, index));
        assert!(entries.into_iter().all(|entry| entry == 0), "{table:?}");
    }
}

#[test]
fn a_chunk_that_is_uniform_again_needs_no_table() {
    let machine = Memory::default();
    let mut pool = pool(&machine, 10, 8);
    let mut object = Object::new(&machine, &mut pool, 16).unwrap();
    let present = |page| Presence::Present(Pfn(page));
    let mut set = |pool: &mut Pool, offset, from, to| {
        object.set(&machine, pool, offset, 1, from, to);
        free(pool)
    };
    assert_eq!(set(&mut pool, 1, Presence::Absent, present(81)), 6);
    assert_eq!(set(&mut pool, 1, present(81), Presence::Absent), 7, "absent");
    for offset in 0..3 {
        assert_eq!(set(&mut pool, offset, Presence::Absent, present(80 + offset)), 6);
    }
    assert_eq!(set(&mut pool, 3, Presence::Absent, present(83)), 7, "a run");
    for offset in 0..3 {
        assert_eq!(set(&mut pool, offset, present(80 + offset), Presence::Poisoned), 6);
    }
    assert_eq!(set(&mut pool, 3, present(83), Presence::Poisoned), 7, "poison");
}

#[test]
fn pages_in_a_row_leave_a_pool_together() {
    let machine = Memory::default();
    let run = |pool: &mut Pool, most| {
        let run = pool.take_run(&machine, most)?;
        Some((run.first().0, run.len()))
    };
    let mut pool = pool(&machine, 10, 5);
    assert_eq!(run(&mut pool, 3), Some((12, 3)));
    assert_eq!(run(&mut pool, 1), Some((11, 1)));
    for page in [30, 31, 20] {
        pool.put(&machine, TableRef::new(Pfn(page)));
    }
    assert_eq!(run(&mut pool, 9), Some((20, 1)));
    assert_eq!(run(&mut pool, 9), Some((30, 2)));
    assert_eq!((run(&mut pool, 9), free(&pool)), (Some((10, 1)), 0));
    assert_eq!(run(&mut pool, 9), None);
}
