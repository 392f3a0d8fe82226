//! The oracle: agrees with what the core does, and names what was tampered with.

use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

use shared_abi::addr::{Gfn, Pfn};
use shared_abi::host_call::{Content, HostCall, VcpuIndex};

use super::bench_machine::*;
use crate::fake::Fake;
use crate::geometry::{Geometry, Granule4K, Level};
use crate::hypervisor::{CpuIndex, HostAccess, Hypervisor};
use crate::machine::{Machine, Space, TableRef};
use crate::oracle::changes::Calls;
use crate::oracle::walker::{self, Meaning};
use crate::oracle::{Difference, Oracle, Party, Rule, check, words_needed};
use crate::record::{ObjectIndex, ObjectPage, Record, VmIndex};
use crate::stage2::descriptor::{Access, leaf, table};
use crate::vm::Life;

/// Pools: of a protected VM, of another, and of an ordinary one.
const POOLS: [(u64, u64); 3] = [(54, 14), (68, 10), (78, 10)];
/// What the first VM has: a block; a page that it shares; a page.
const BLOCK: u64 = 88;
const SHARED: u64 = 92;
const PRIVATE: u64 = 93;
/// What the second has, and the third.
const OTHER: u64 = 98;
const LENT: u64 = 100;
/// What is still the host's, in a block of its own and in one that is split.
const HOST: u64 = 112;
const HOST_IN_SPLIT_BLOCK: u64 = 94;
/// Where in its object the first VM has `SHARED` and what follows.
const OFFSET: u64 = 8;

/// Three VMs with memory in all states.
struct Scene {
    hypervisor: TinyHypervisor,
    vms: [TestVm; 3],
}

impl Scene {
    fn new() -> Self {
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
        // From here on tables are tampered with.
        hypervisor.machine().stop_checking();
        Self { hypervisor, vms }
    }

    fn machine(&self) -> &Fake<Tiny> {
        self.hypervisor.machine()
    }

    fn space(&self, vm: usize) -> Space {
        self.vms[vm].space
    }

    /// Where the entry is that translates a page of a space, or would, and what it holds.
    fn slot(&self, space: Space, page: u64) -> (TableRef, usize, u64) {
        let mut table = space.root.page();
        for level in 1..=3 {
            let (which, index) = walker::place(Tiny::INDEX_BITS, level, page).unwrap();
            let slot = TableRef::new(Pfn(table.0 + which));
            let value = self.machine().read_entry(slot, index);
            match walker::meaning(Tiny::INDEX_BITS, level, value) {
                Meaning::Table(next) => table = next,
                _ => return (slot, index, value),
            }
        }
        unreachable!("a table of level 3 names no table");
    }

    /// Changes the entry that translates a page of a space.
    fn tamper(&self, space: Space, page: u64, change: impl FnOnce(u64) -> u64) {
        let (table, index, value) = self.slot(space, page);
        self.machine().write_entry(table, index, change(value));
    }

    /// Maps a page of a space behind the core's back.
    fn map(&self, space: Space, page: u64, to: u64) {
        self.tamper(space, page, |_| leaf(Level::Three, Pfn(to), Access::Memory));
    }

    /// Changes the record of a page, behind everybody's back.
    fn falsify(&self, page: u64, record: Record) {
        let mut host = self.hypervisor.host.lock(self.machine());
        host.records_mut().falsify(Pfn(page), record);
    }

    /// Changes a VM behind everybody's back.
    fn vm<R>(&self, vm: usize, change: impl FnOnce(&mut crate::vm::Vm) -> R) -> R {
        let mut place = self.hypervisor.places[vm].lock(self.machine());
        change(place.vm.as_mut().unwrap())
    }
}

fn share(hypervisor: &TinyHypervisor, vm: &TestVm, offset: u64) {
    let loaded = vm.load(hypervisor).unwrap();
    let page = shared_abi::addr::PageRange::<Gfn>::new(Gfn(GUEST_FIRST + offset), 1).unwrap();
    loaded.share(page).unwrap();
}

fn object_page(vm: u8, offset: u64) -> ObjectPage {
    ObjectPage::new(VmIndex(vm), ObjectIndex(0), offset)
}

/// One bit of a descriptor.
const ACCESS_FLAG: u64 = 1 << 10;
const CONTIGUOUS: u64 = 1 << 52;
const NEVER_EXECUTED: u64 = 1 << 54;

type Case = (&'static str, fn(&Scene), Rule, Party, u64);

/// What was tampered with, and what the oracle has to say.
const CASES: &[Case] = {
    use Party::{Host, Hypervisor};
    const FIRST: Party = Party::Vm(VmIndex(0));
    const SECOND: Party = Party::Vm(VmIndex(1));
    const THIRD: Party = Party::Vm(VmIndex(2));
    &[
        (
            "the host reaches a private page",
            |scene| scene.map(scene.hypervisor.host_space(), PRIVATE, PRIVATE),
            Rule::Private,
            Host,
            PRIVATE,
        ),
        (
            "the host does not reach what is shared with it",
            |scene| scene.tamper(scene.hypervisor.host_space(), SHARED, |_| 0),
            Rule::Shared,
            Host,
            SHARED,
        ),
        (
            "the host does not reach its own page",
            |scene| scene.tamper(scene.hypervisor.host_space(), HOST_IN_SPLIT_BLOCK, |_| 0),
            Rule::Host,
            Host,
            HOST_IN_SPLIT_BLOCK,
        ),
        (
            "a guest reaches a host page",
            |scene| scene.map(scene.space(0), GUEST_FIRST + OFFSET + 2, HOST),
            Rule::Host,
            FIRST,
            HOST,
        ),
        (
            "the host does not reach what it lent",
            |scene| scene.tamper(scene.hypervisor.host_space(), LENT, |_| 0),
            Rule::Lent,
            Host,
            LENT,
        ),
        (
            "a protected VM borrows",
            |scene| {
                scene.falsify(PRIVATE, Record::lent(object_page(0, OFFSET + 1)));
                scene.map(scene.hypervisor.host_space(), PRIVATE, PRIVATE);
            },
            Rule::Lent,
            FIRST,
            PRIVATE,
        ),
        (
            "an ordinary VM owns",
            |scene| {
                scene.falsify(LENT, Record::guest(object_page(2, 0)));
                scene.tamper(scene.hypervisor.host_space(), LENT, |_| 0);
            },
            Rule::Private,
            THIRD,
            LENT,
        ),
        (
            "the host reaches a page of a pool",
            |scene| scene.map(scene.hypervisor.host_space(), POOLS[0].0, POOLS[0].0),
            Rule::Kept,
            Host,
            POOLS[0].0,
        ),
        (
            "a guest reaches its own tables",
            |scene| scene.map(scene.space(0), GUEST_FIRST + OFFSET + 2, POOLS[0].0),
            Rule::Kept,
            FIRST,
            POOLS[0].0,
        ),
        (
            "a guest reaches the hypervisor",
            |scene| scene.map(scene.space(0), GUEST_FIRST + OFFSET + 2, RESERVED.0),
            Rule::Kept,
            FIRST,
            RESERVED.0,
        ),
        (
            "a table is in a host page",
            |scene| scene.tamper(scene.space(1), 0, |_| table(Pfn(HOST))),
            Rule::Custody,
            SECOND,
            HOST,
        ),
        (
            "a vCPU's registers are in a host page",
            |scene| scene.vm(0, |vm| vm.vcpus[0].context = Pfn(HOST)),
            Rule::Custody,
            FIRST,
            HOST,
        ),
        (
            "a guest does not reach its page",
            |scene| scene.tamper(scene.space(0), GUEST_FIRST + OFFSET + 1, |_| 0),
            Rule::Bijection,
            FIRST,
            PRIVATE,
        ),
        (
            "a guest reaches another page of its own",
            |scene| scene.map(scene.space(0), GUEST_FIRST + OFFSET + 1, SHARED),
            Rule::Bijection,
            FIRST,
            PRIVATE,
        ),
        (
            "a record names another page of the object",
            |scene| scene.falsify(PRIVATE, Record::guest(object_page(0, OFFSET + 2))),
            Rule::Bijection,
            FIRST,
            PRIVATE,
        ),
        (
            "a record names a VM that is not there",
            |scene| scene.falsify(PRIVATE, Record::guest(object_page(7, OFFSET + 1))),
            Rule::Bijection,
            Party::Vm(VmIndex(7)),
            PRIVATE,
        ),
        (
            "a record gives a page away that the object has",
            |scene| {
                scene.falsify(PRIVATE, Record::HOST);
                scene.map(scene.hypervisor.host_space(), PRIVATE, PRIVATE);
            },
            Rule::Host,
            FIRST,
            PRIVATE,
        ),
        (
            "a page is in two guests",
            |scene| scene.map(scene.space(1), GUEST_FIRST + 1, PRIVATE),
            Rule::Once,
            SECOND,
            PRIVATE,
        ),
        (
            "a page is at two places of a guest",
            |scene| scene.map(scene.space(0), GUEST_FIRST + OFFSET + 2, PRIVATE),
            Rule::Once,
            FIRST,
            PRIVATE,
        ),
        (
            "a block miscounts",
            |scene| {
                let mut host = scene.hypervisor.host.lock(scene.machine());
                host.records_mut().miscount(Pfn(SHARED));
            },
            Rule::Counts,
            Hypervisor,
            SHARED,
        ),
        (
            "a VM miscounts what it shares",
            |scene| scene.vm(0, |vm| vm.report.shared += 1),
            Rule::Counts,
            FIRST,
            POOLS[0].0,
        ),
        (
            "a page of a pool is lost",
            |scene| scene.vm(1, |vm| vm.pool.take(scene.machine()).map(|_| ()).unwrap()),
            Rule::Counts,
            SECOND,
            POOLS[1].0,
        ),
        (
            "a pool has no VM",
            |scene| {
                scene.falsify(HOST, Record::pool(VmIndex(9)));
                let space = scene.hypervisor.host_space();
                let (table, index, _) = scene.slot(space, HOST);
                scene.machine().write_entry(table, index, 0);
                for page in HOST + 1..HOST + 4 {
                    scene.falsify(page, Record::pool(VmIndex(9)));
                }
            },
            Rule::Counts,
            Party::Vm(VmIndex(9)),
            HOST,
        ),
        (
            "the host reaches a denied device",
            |scene| {
                scene.hypervisor.host_abort(Gfn(2).base(), HostAccess::Read);
                scene.tamper(scene.hypervisor.host_space(), DENIED.0, |_| {
                    leaf(Level::Three, Pfn(DENIED.0), Access::Device)
                });
            },
            Rule::Devices,
            Host,
            DENIED.0,
        ),
        (
            "a guest reaches a device",
            |scene| scene.map(scene.space(0), GUEST_FIRST + OFFSET + 2, 120),
            Rule::Devices,
            FIRST,
            120,
        ),
        (
            "the host reaches one page for another",
            |scene| scene.map(scene.hypervisor.host_space(), HOST_IN_SPLIT_BLOCK, SHARED),
            Rule::Identity,
            Host,
            HOST_IN_SPLIT_BLOCK,
        ),
        (
            "RAM is not accessed",
            |scene| {
                scene.tamper(scene.space(0), GUEST_FIRST + 4, |leaf| leaf & !ACCESS_FLAG);
            },
            Rule::Attributes,
            FIRST,
            BLOCK,
        ),
        (
            "RAM is not executable",
            |scene| {
                scene.tamper(scene.hypervisor.host_space(), SHARED, |leaf| leaf | NEVER_EXECUTED);
            },
            Rule::Attributes,
            Host,
            SHARED,
        ),
        (
            "a leaf is contiguous",
            |scene| {
                scene.tamper(scene.space(0), GUEST_FIRST + OFFSET, |leaf| leaf | CONTIGUOUS);
            },
            Rule::Attributes,
            FIRST,
            SHARED,
        ),
        (
            "a device is memory",
            |scene| {
                scene.hypervisor.host_abort(Gfn(2).base(), HostAccess::Read);
                scene.map(scene.hypervisor.host_space(), 2, 2);
            },
            Rule::Attributes,
            Host,
            2,
        ),
        (
            "an entry is invalid and not zero",
            |scene| scene.tamper(scene.space(0), GUEST_FIRST, |_| 2),
            Rule::Attributes,
            FIRST,
            GUEST_FIRST,
        ),
        (
            "a VM is torn down while it runs",
            |scene| {
                scene.vm(0, |vm| {
                    vm.life = Life::Dying;
                    vm.vcpus[0].loaded = Some(CpuIndex(1));
                });
            },
            Rule::Dead,
            FIRST,
            0,
        ),
    ]
};

#[test]
fn what_was_tampered_with_is_named() {
    for (what, tamper, rule, party, page) in CASES {
        let scene = Scene::new();
        assert_eq!(check(&scene.hypervisor), Ok(()), "before: {what}");
        tamper(&scene);
        let found = check(&scene.hypervisor).expect_err(what);
        // Which page of the pool a vCPU's registers are in is the pool's to say.
        let page = if *page == 0 { found.page } else { *page };
        let expected = Difference { rule: *rule, party: *party, page };
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn every_rule_has_been_broken() {
    let mut broken: BTreeSet<Rule> = CASES.iter().map(|(_, _, rule, ..)| *rule).collect();
    // By the tests below.
    broken.extend([Rule::Transition, Rule::Wiped]);
    assert_eq!(broken, BTreeSet::from(Rule::ALL));
}

fn words<M: Machine>(hypervisor: &Hypervisor<'_, M>) -> Vec<u64> {
    vec![0; words_needed(hypervisor)]
}

#[test]
fn a_page_that_changes_hands_without_a_call_is_named() {
    let scene = Scene::new();
    let hypervisor = &scene.hypervisor;
    let mut words = words(hypervisor);
    let mut oracle = Oracle::new(hypervisor, &mut words).unwrap();
    assert_eq!(oracle.check(hypervisor, || Calls::NONE), Ok(()));
    scene.vms[1].populate(hypervisor, 1, OTHER + 1, 1).unwrap();
    let found = oracle.check(hypervisor, || Calls::PUNCH).unwrap_err();
    let expected = Difference { rule: Rule::Transition, party: Party::Vm(VmIndex(1)), page: OTHER + 1 };
    assert_eq!(found, expected);
    assert_eq!(oracle.check(hypervisor, || Calls::POPULATE), Ok(()));
    assert_eq!(oracle.check(hypervisor, || Calls::NONE), Ok(()), "known");
}

#[test]
fn a_page_that_comes_back_unwiped_is_named() {
    let scene = Scene::new();
    let hypervisor = &scene.hypervisor;
    let mut words = words(hypervisor);
    let mut oracle = Oracle::new(hypervisor, &mut words).unwrap();
    // What was lent never left the host, so nobody wiped it.
    scene.machine().fill(Pfn(LENT), 0x5a);
    scene.vms[2].punch(hypervisor, 0, 1).unwrap();
    assert_eq!(oracle.check(hypervisor, || Calls::PUNCH), Ok(()));
    scene.vms[0].punch(hypervisor, OFFSET + 1, 1).unwrap();
    scene.machine().fill(Pfn(PRIVATE), 0x5a);
    let found = oracle.check(hypervisor, || Calls::PUNCH).unwrap_err();
    let expected = Difference { rule: Rule::Wiped, party: Party::Host, page: PRIVATE };
    assert_eq!(found, expected);
}

#[test]
fn a_whole_life_is_as_it_should_be() {
    let scene = Scene::new();
    let hypervisor = &scene.hypervisor;
    let mut words = words(hypervisor);
    let mut oracle = Oracle::new(hypervisor, &mut words).unwrap();
    let mut agrees = |calls| oracle.check(hypervisor, || calls).unwrap();
    let [protected, other, _] = &scene.vms;
    hypervisor.host_abort(Gfn(2).base(), HostAccess::Read);
    agrees(Calls::NONE);
    share(hypervisor, protected, OFFSET + 1);
    agrees(Calls::GUEST);
    let top_up = HostCall::VmTopUp { vm: protected.vm, first: Pfn(HOST), pages: 4 };
    hypervisor.host_call(&top_up).unwrap();
    agrees(Calls::of(&top_up));
    let populate = protected.populate(hypervisor, 0, 104, 4);
    assert_eq!(populate, Ok(4));
    agrees(Calls::POPULATE);
    let reclaim = HostCall::ForceReclaim { page: Pfn(OTHER) };
    hypervisor.host_call(&reclaim).unwrap();
    agrees(Calls::of(&reclaim));
    assert_eq!(other.punch(hypervisor, 0, OBJECT_PAGES), Ok(OBJECT_PAGES));
    agrees(Calls::PUNCH);
    for vm in &scene.vms {
        vm.destroy(hypervisor).unwrap();
        agrees(Calls::DESTROY);
    }
}

#[test]
fn a_long_teardown_is_as_it_should_be_after_each_part() {
    let hypervisor = make::<Granule4K>((0x1000, 0x3000), (0x1000, 0x100), (0x900, 1)).unwrap();
    let mut words = words(&hypervisor);
    let mut oracle = Oracle::new(&hypervisor, &mut words).unwrap();
    let mut agrees = |calls| oracle.check(&hypervisor, || calls).unwrap();
    let call = |call| hypervisor.host_call(&call).map(|values| values[0]);
    let vm = call(HostCall::VmCreate { protected: true, first: Pfn(0x1200), pages: 64 });
    let vm = shared_abi::host_call::VmHandle(u32::try_from(vm.unwrap()).unwrap());
    let object = call(HostCall::ObjectCreate { vm, pages: 0x2000 });
    let object = shared_abi::host_call::ObjectHandle(u32::try_from(object.unwrap()).unwrap());
    call(HostCall::ObjectBind { object, offset: 0, gfn: Gfn(0x4_0000), pages: 0x2000 }).unwrap();
    let index = VcpuIndex(0);
    call(HostCall::VcpuCreate { vm, index }).unwrap();
    agrees(Calls::DONATE);
    for (offset, first, pages) in [(0, 0x1400, 0x200), (0x200, 0x1800, 3), (0x801, 0x1a05, 70)] {
        call(HostCall::ObjectPopulate { object, offset, first: Pfn(first), pages, content: Content::Zero })
            .unwrap();
        agrees(Calls::POPULATE);
    }
    let mut parts = 1;
    while call(HostCall::VmDestroy { vm }).is_err() {
        agrees(Calls::DESTROY);
        parts += 1;
    }
    agrees(Calls::DESTROY);
    assert!(parts > 1, "the VM was too small for this test");
}
