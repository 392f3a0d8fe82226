//! Three VMs with memory in all states, which the tests tamper with.

use hyp_core::limits::{ObjectIndex, VmIndex};
use hyp_core::machine::geometry::{Geometry, Level};
use hyp_core::machine::{Machine, Stage2Id, TableRef};
use hyp_core::memory::stage2::descriptor::{MemoryType, leaf};
use hyp_core::ownership::page_state::{ObjectPage, PageState};
use hyp_core::verify::{self, tamper};
use hyp_verify::fake::Fake;
use hyp_verify::oracle::walker::{self, Meaning};
use shared_abi::addr::{Gfn, Pfn};

use crate::bench_machine::*;

/// The pools of a protected VM, another protected VM, and an ordinary VM.
pub(super) const POOLS: [(u64, u64); 3] = [(54, 14), (68, 10), (78, 10)];
/// The first VM's memory: a block. The constants after it: a page that it shares, and a page.
pub(super) const BLOCK: u64 = 88;
pub(super) const SHARED: u64 = 92;
pub(super) const PRIVATE: u64 = 93;
/// The memory of the second VM and of the third.
pub(super) const OTHER: u64 = 98;
pub(super) const LENT: u64 = 100;
/// Pages of the host: in a block of its own, and in a split block.
pub(super) const HOST: u64 = 112;
pub(super) const HOST_IN_SPLIT_BLOCK: u64 = 94;
/// The offset of `SHARED` in the first VM's object. The pages after it follow.
pub(super) const OFFSET: u64 = 8;

/// Three VMs with memory in all states.
pub(super) struct Scene {
    pub(super) hypervisor: TinyHypervisor,
    pub(super) vms: [TestVm; 3],
}

impl Scene {
    pub(super) fn new() -> Self {
        let hypervisor = tiny();
        let mut pools = POOLS.iter();
        let vms = [true, true, false].map(|protected| {
            let (first, pages) = *pools.next().unwrap();
            TestVm::new(&hypervisor, protected, first, pages)
        });
        let [protected, other, ordinary] = &vms;
        protected.populate(&hypervisor, 4, BLOCK, 4).unwrap();
        protected.populate(&hypervisor, OFFSET, SHARED, 2).unwrap();
        other.populate(&hypervisor, 0, OTHER, 1).unwrap();
        ordinary.populate(&hypervisor, 0, LENT, 1).unwrap();
        for vm in &vms {
            vm.start(&hypervisor);
        }
        share(&hypervisor, protected, OFFSET);
        // From here on, the tests tamper with tables.
        hypervisor.machine().stop_checking();
        Self { hypervisor, vms }
    }

    pub(super) fn machine(&self) -> &Fake<Tiny> {
        self.hypervisor.machine()
    }

    pub(super) fn stage2_id(&self, vm: usize) -> Stage2Id {
        self.vms[vm].stage2_id
    }

    /// Returns the table and index of the entry that translates a page (or would), and its value.
    pub(super) fn slot(&self, stage2_id: Stage2Id, page: u64) -> (TableRef, usize, u64) {
        let mut table = stage2_id.root.page();
        for level in 1..=3 {
            let (which, index) = walker::place(Tiny::INDEX_BITS, level, page).unwrap();
            let slot = verify::table(Pfn(table.0 + which));
            let value = self.machine().read_entry(slot, index);
            match walker::meaning(Tiny::INDEX_BITS, level, value) {
                Meaning::Table(next) => table = next,
                _ => return (slot, index, value),
            }
        }
        unreachable!("a table of level 3 names no table");
    }

    /// Changes the entry that translates a page.
    pub(super) fn tamper(&self, stage2_id: Stage2Id, page: u64, change: impl FnOnce(u64) -> u64) {
        let (table, index, value) = self.slot(stage2_id, page);
        self.machine().write_entry(table, index, change(value));
    }

    /// Maps a page without the core's knowledge.
    pub(super) fn map(&self, stage2_id: Stage2Id, page: u64, to: u64) {
        self.tamper(stage2_id, page, |_| leaf(Level::Three, Pfn(to), MemoryType::Normal));
    }

    /// Changes a page state without the core's knowledge.
    pub(super) fn falsify(&self, page: u64, state: PageState) {
        tamper::page_state(&self.hypervisor, Pfn(page), state);
    }
}

pub(super) fn share(hypervisor: &TinyHypervisor, vm: &TestVm, offset: u64) {
    let loaded = vm.load(hypervisor).unwrap();
    let page = shared_abi::addr::PageRange::<Gfn>::new(Gfn(GUEST_FIRST + offset), 1).unwrap();
    loaded.share(page).unwrap();
}

pub(super) fn object_page(vm: u8, offset: u64) -> ObjectPage {
    ObjectPage::new(VmIndex(vm), ObjectIndex(0), offset)
}
