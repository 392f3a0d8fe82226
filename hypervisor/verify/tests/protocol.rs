//! The protocol checker can fail. A stream of the core keeps every rule. For each rule, the same stream with one
//! error breaks that rule.

use std::collections::BTreeSet;

use hyp_core::limits::CpuIndex;
use hyp_core::machine::Vmid;
use hyp_core::machine::event::{Barrier, Event, Scope};
use hyp_core::machine::geometry::Geometry;
use hyp_core::machine::lock::LockId;
use hyp_verify::fake::on_cpu;
use hyp_verify::protocol::{Checker, Rule};
use shared_abi::host_call::{HostCall, VcpuIndex};

use super::bench_machine::*;

type Stream = Vec<(usize, Event)>;

const HOST: Vmid = Vmid(0);
const ISHST: Event = Event::Barrier(Barrier::DsbIshst);
const ISH: Event = Event::Barrier(Barrier::DsbIsh);
const ISB: Event = Event::Barrier(Barrier::Isb);

/// A life cycle: a VM with two vCPUs gets a block and pages, shares one and unshares it, both vCPUs run on one CPU,
/// the host takes a page by force, the VM is destroyed, and another takes its slot.
fn life() -> Stream {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    hypervisor.host_call(&HostCall::VcpuCreate { vm: vm.vm, index: VcpuIndex(1) }).unwrap();
    vm.populate(&hypervisor, 0, 72, 4).unwrap();
    vm.start(&hypervisor);
    {
        let guest = vm.load(&hypervisor).unwrap();
        let page = guest_pages(GUEST_FIRST + 1, 1);
        guest.share(page).unwrap();
        guest.unshare(page).unwrap();
        guest.power_on(VcpuIndex(1), shared_abi::addr::Ipa(0), 0).unwrap();
    }
    drop(hypervisor.vcpu_load(CpuIndex(0), vm.vm, VcpuIndex(1)).unwrap());
    vm.reclaim(&hypervisor, 1, 1).unwrap();
    while vm.destroy(&hypervisor).is_err() {}
    TestVm::new(&hypervisor, true, 54, 10);
    hypervisor.machine().take_trace()
}

fn check(stream: &Stream) -> Option<Rule> {
    let mut checker = Checker::new(Tiny::INDEX_BITS);
    checker.observe_all(stream).err().map(|found| found.rule)
}

/// Returns the index of the first event from `from` on that `wanted` accepts.
#[track_caller]
fn find(stream: &Stream, from: usize, wanted: impl Fn(Event) -> bool) -> usize {
    let rest = &stream[from..];
    from + rest.iter().position(|(_, event)| wanted(*event)).unwrap()
}

fn is_ipa(event: Event) -> bool {
    matches!(event, Event::Tlbi { scope: Scope::Ipa(_), .. })
}

fn is(wanted: Event) -> impl Fn(Event) -> bool {
    move |event| event == wanted
}

fn combined(vmid: Vmid) -> Event {
    let scope = Scope::Combined;
    Event::Tlbi { vmid, scope }
}

fn all(vmid: Vmid) -> Event {
    let scope = Scope::All;
    Event::Tlbi { vmid, scope }
}

/// The event after the first load of the VM's vCPU.
fn loaded(stream: &Stream) -> usize {
    find(stream, 0, |event| matches!(event, Event::Load(..)))
}

/// The guest's share: the write that makes the host's entry valid.
fn share(stream: &Stream) -> usize {
    let valid = |event| matches!(event, Event::Write { value, .. } if value & 1 == 1);
    find(stream, loaded(stream), valid)
}

/// The first invalidation by IPA that a running machine's TLB needs: the host's.
fn ipa(stream: &Stream) -> usize {
    find(stream, 0, is_ipa)
}

/// A rule, and an error that breaks it.
type Control = (Rule, fn(&mut Stream));

const CONTROLS: &[Control] = &[
    (Rule::BreakBeforeMake, |stream| {
        // A valid entry is overwritten by another valid entry.
        let at = share(stream);
        let (cpu, Event::Write { table, index, value }) = stream[at] else {
            panic!("a write");
        };
        let value = value + 0x1000;
        stream.insert(at + 1, (cpu, Event::Write { table, index, value }));
    }),
    (Rule::BreakBeforeMake, |stream| {
        // An entry becomes invalid and valid again, without an invalidation in between.
        let at = share(stream);
        let (cpu, Event::Write { table, index, .. }) = stream[at] else {
            panic!("a write");
        };
        let made = stream[at];
        let value = 0;
        let broken = (cpu, Event::Write { table, index, value });
        stream.splice(at + 1..at + 1, [broken, made]);
    }),
    (Rule::VisibleFirst, |stream| {
        let at = ipa(stream);
        assert_eq!(stream.remove(at - 1).1, ISHST);
    }),
    (Rule::VisibleFirst, |stream| {
        // The barrier comes after the invalidation.
        let at = ipa(stream);
        stream.swap(at - 1, at);
    }),
    (Rule::Invalidated, |stream| {
        stream.remove(ipa(stream));
    }),
    (Rule::Invalidated, |stream| {
        // The next page is invalidated instead.
        let at = ipa(stream);
        let Event::Tlbi { scope: Scope::Ipa(page), .. } = stream[at].1 else {
            panic!("by IPA");
        };
        let scope = Scope::Ipa(page ^ 64);
        stream[at].1 = Event::Tlbi { vmid: HOST, scope };
    }),
    (Rule::WholeVmid, |stream| {
        // A host table is replaced by a block, and its pages are invalidated one by one.
        let at = find(stream, loaded(stream), is(all(HOST)));
        let cpu = stream[at].0;
        let by_page = (0..Tiny::IPA_PAGES).map(|page| {
            let scope = Scope::Ipa(page);
            (cpu, Event::Tlbi { vmid: HOST, scope })
        });
        let instead: Stream = by_page.chain([(cpu, ISH), (cpu, combined(HOST))]).collect();
        stream.splice(at..=at, instead);
        // The next event would break another rule first.
        let end = find(stream, at, is(ISB));
        stream.insert(end + 1, (cpu, Event::Released(LockId::HOST)));
    }),
    (Rule::RightVmid, |stream| {
        let at = ipa(stream);
        let Event::Tlbi { scope, .. } = stream[at].1 else {
            panic!("by IPA");
        };
        stream[at].1 = Event::Tlbi { vmid: Vmid(1), scope };
    }),
    (Rule::CombinedToo, |stream| {
        let at = find(stream, ipa(stream), is(combined(HOST)));
        stream.remove(at);
    }),
    (Rule::CombinedToo, |stream| {
        // The combined entries are invalidated before the stage-2 entries that they come from.
        let at = find(stream, ipa(stream), is(ISH));
        stream.remove(at);
    }),
    (Rule::Complete, |stream| {
        let at = find(stream, ipa(stream), is(combined(HOST)));
        assert_eq!(stream.remove(at + 1).1, ISH);
    }),
    (Rule::Synchronized, |stream| {
        let at = find(stream, ipa(stream), is(ISB));
        stream.remove(at);
    }),
    (Rule::Published, |stream| {
        let at = find(stream, share(stream), is(ISHST));
        stream.remove(at);
    }),
    (Rule::Published, |stream| {
        let at = find(stream, share(stream), is(ISHST));
        assert_eq!(stream.remove(at + 1).1, ISB);
    }),
    (Rule::GoneBeforeReuse, |stream| {
        // A page is wiped while its old owner can still write to it.
        let at = ipa(stream);
        let wipe = find(stream, at, |event| matches!(event, Event::Wipe(_)));
        let wipe = stream.remove(wipe);
        stream.insert(at, wipe);
    }),
    (Rule::HandOver, |stream| {
        // A guest gets pages with the host's content.
        let populated = Event::Wipe(range(72, 4));
        let at = find(stream, 0, is(populated));
        stream.remove(at);
    }),
    (Rule::HandOver, |stream| {
        // The host gets back a page that was cleaned, not wiped.
        let reclaimed = range(73, 1);
        let at = find(stream, 0, is(Event::Wipe(reclaimed)));
        stream[at].1 = Event::Clean(reclaimed);
    }),
    (Rule::TablePage, |stream| {
        // The VM's pool still has the host's content.
        let at = find(stream, 0, is(Event::Wipe(range(54, 10))));
        stream.remove(at);
    }),
    (Rule::VmidReuse, |stream| {
        let again = |event| matches!(event, Event::Stage2Id(space) if space.vmid == Vmid(1));
        let first = find(stream, 0, again);
        let second = find(stream, first + 1, again);
        let rest = &stream[..second];
        let last = rest.iter().rposition(|(_, event)| *event == all(Vmid(1)));
        stream.remove(last.unwrap());
    }),
    (Rule::PreviousVcpu, |stream| {
        let here = |event| {
            let scope = Scope::CombinedHere;
            event == Event::Tlbi { vmid: Vmid(1), scope }
        };
        let at = find(stream, 0, here);
        stream.remove(at);
    }),
    (Rule::Descriptor, |stream| {
        const CONTIGUOUS: u64 = 1 << 52;
        let at = share(stream);
        if let Event::Write { value, .. } = &mut stream[at].1 {
            *value |= CONTIGUOUS;
        }
    }),
    (Rule::Vttbr, |stream| {
        const COMMON_NOT_PRIVATE: u64 = 1;
        let root = host_root(stream);
        stream.push((0, Event::Enter(root | COMMON_NOT_PRIVATE)));
    }),
    (Rule::Vttbr, |stream| {
        // EL1 runs with the VM's VTTBR_EL2 while its vCPU is not loaded on this CPU.
        let at = loaded(stream) + 1;
        let root = 54 << 12;
        stream.insert(at, (1, Event::Enter(1 << 48 | root)));
    }),
    (Rule::LockOrder, |stream| {
        let at = find(stream, 0, is(Event::Taken(LockId::HOST)));
        stream.insert(at + 1, (0, Event::Taken(LockId::slot(3))));
    }),
    (Rule::LockOrder, |stream| {
        let at = find(stream, 0, is(Event::Taken(LockId::slot(0))));
        stream.insert(at + 1, (0, Event::Taken(LockId::slot(1))));
    }),
    (Rule::LockOrder, |stream| {
        // Two CPUs hold the lock.
        let at = find(stream, 0, is(Event::Taken(LockId::HOST)));
        stream.insert(at + 1, (1, Event::Taken(LockId::HOST)));
    }),
    (Rule::LockHeld, |stream| {
        let at = find(stream, 0, is(Event::Taken(LockId::HOST)));
        let root = host_root(stream);
        stream.insert(at + 1, (0, Event::Enter(root)));
    }),
    (Rule::LockHeld, |stream| {
        let at = find(stream, 0, is(Event::Taken(LockId::HOST)));
        stream.insert(at + 1, (0, Event::CallEnd(0)));
    }),
    (Rule::UnderLock, |stream| {
        let at = share(stream);
        let before = &stream[..at];
        let taken = before.iter().rposition(|(_, event)| *event == Event::Taken(LockId::HOST));
        stream.remove(taken.unwrap());
    }),
    (Rule::OneCpu, |stream| {
        let at = loaded(stream);
        let (_, event) = stream[at];
        stream.insert(at + 1, (1, event));
    }),
    (Rule::Stream, |stream| stream.insert(9, (0, Event::Dropped(1)))),
    (Rule::Stream, |stream| {
        let at = find(stream, 0, |event| matches!(event, Event::Taken(_)));
        stream.remove(at);
    }),
];

/// Returns the address of the host's root table.
fn host_root(stream: &Stream) -> u64 {
    let at = find(stream, 0, |event| matches!(event, Event::Stage2Id(_)));
    match stream[at].1 {
        Event::Stage2Id(space) => space.root.0,
        _ => panic!("a space"),
    }
}

#[test]
fn a_life_keeps_the_rules_and_shows_every_kind_of_duty() {
    let stream = life();
    assert_eq!(check(&stream), None);
    let scopes: BTreeSet<_> = stream
        .iter()
        .filter_map(|(_, event)| match event {
            Event::Tlbi { scope, .. } => Some(core::mem::discriminant(scope)),
            _ => None,
        })
        .map(|scope| format!("{scope:?}"))
        .collect();
    assert_eq!(scopes.len(), 5, "every scope of a TLBI");
}

/// One CPU lends a page while another CPU removes part of the host's block around it, which splits the block. At no
/// moment does the checker see a change of owner.
#[test]
fn a_lent_page_may_be_in_a_block_that_another_cpu_splits() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, false, 54, 10);
    let before = hypervisor.machine().take_trace();
    on_cpu(1, || vm.populate(&hypervisor, 0, 80, 1)).unwrap();
    let lends = hypervisor.machine().take_trace();
    TestVm::new(&hypervisor, true, 82, 10);
    let splits = hypervisor.machine().take_trace();
    assert!(splits.iter().any(|(_, event)| matches!(event, Event::Tlbi { scope: Scope::Ipa(80), .. })));

    // Cut at the wipe and after it, at every moment at which the other CPU holds the host's lock.
    let wipe = find(&lends, 0, |event| matches!(event, Event::Wipe(_)));
    let (before_it, at_it) = splits.split_at(find(&splits, 0, is(Event::Taken(LockId::HOST))));
    for (first, then) in [lends.split_at(wipe), lends.split_at(wipe + 1)] {
        for cut in 0..=find(&at_it.to_vec(), 0, is(Event::Released(LockId::HOST))) {
            let (so_far, rest) = at_it.split_at(cut);
            let stream = [&before, before_it, first, so_far, then, rest].concat();
            assert_eq!(check(&stream), None, "after {cut} events of the other's");
        }
    }
}

#[test]
fn one_thing_done_wrong_is_refused_in_the_rules_name() {
    let stream = life();
    let wrong: Vec<_> = CONTROLS
        .iter()
        .enumerate()
        .filter_map(|(number, (rule, spoil))| {
            let mut spoiled = stream.clone();
            spoil(&mut spoiled);
            let found = check(&spoiled);
            (found != Some(*rule)).then_some((number, rule, found))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_rule_has_a_control() {
    let controlled: BTreeSet<Rule> = CONTROLS.iter().map(|(rule, _)| *rule).collect();
    let all: BTreeSet<Rule> = Rule::ALL.iter().copied().collect();
    assert_eq!(controlled, all);
}
