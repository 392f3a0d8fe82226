//! Several threads call one hypervisor at once.
//!
//! Their results must be those of *some* sequential order of the calls in which a call that ended before another
//! began comes first (linearizability, Herlihy and Wing). The test tries the orders on the specification. After the
//! order that fits, specification, tables, TLBs and oracle must agree.
//!
//! Calls that are documented to work page by page have no single point in time: the destruction of a VM, and a range
//! that is not a single run. They are not mixed with calls that could observe that.

mod order;
mod power;

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{println, thread};

use hyp_core::hypervisor::Hypervisor;
use hyp_core::limits::CpuIndex;
use hyp_core::ownership::host::HostAccess;
use hyp_core::transition::ShareError;
use hyp_core::vcpu::cache::VcpuCache;
use hyp_core::vcpu::loaded::LoadedVcpu;
use hyp_core::verify;
use hyp_verify::fake::{Fake, on_cpu};
use hyp_verify::lockstep::action::{GuestStep, parse};
use hyp_verify::lockstep::guest::specified;
use hyp_verify::lockstep::{Bench, Pair, vcpu_run, with_pair};
use hyp_verify::oracle;
use hyp_verify::spec::Spec;
use shared_abi::addr::{Gfn, PageRange, Pfn};
use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::{HostCall, InitialContent, ObjectHandle, VcpuIndex, VmHandle};

use super::bench_machine::Tiny;
use super::cases;
use super::guide::Dice;
use order::{Answered, explain};

/// An action of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Do {
    Host(HostCall),
    Load(VmHandle),
    Share(u64, u64),
    Unshare(u64, u64),
    Relinquish(u64),
    Put,
}

/// The result of an action: x1, or an error.
type Answer = Result<u64, CallError>;

/// The start and end of an action, by a clock that all threads share.
#[derive(Clone, Copy, Debug)]
struct Done {
    what: Do,
    answer: Answer,
    began: u64,
    ended: u64,
    /// The VM that was loaded.
    vm: Option<VmHandle>,
}

/// Two protected VMs with one page present each, two pages that both want, and an ordinary VM.
const START: &str = "
    vm-create protected=1 first=40 pages=12
    vm-create protected=1 first=52 pages=12
    vm-create protected=0 first=64 pages=12
    object-create vm=vm0 pages=4
    object-create vm=vm1 pages=4
    object-create vm=vm2 pages=4
    object-bind object=object0 offset=0 gfn=32 pages=4
    object-bind object=object1 offset=0 gfn=32 pages=4
    object-bind object=object2 offset=0 gfn=32 pages=4
    vcpu-create vm=vm0 index=0
    vcpu-create vm=vm1 index=0
    vcpu-create vm=vm2 index=0
    object-populate object=object0 offset=0 first=80 pages=2 keep=0
    object-populate object=object1 offset=0 first=82 pages=1 keep=0
    vm-start vm=vm0 entry=0x20000 argument=0
    vm-start vm=vm1 entry=0x20000 argument=0
    vm-start vm=vm2 entry=0x20000 argument=0";

const BENCH: Bench = Bench { ram: 0..104, reserved: 0..40, denied: 110..111 };

/// Calls of a host thread, on pages that other threads use too.
fn host_calls(pair: &Pair<'_, '_, Tiny>, dice: &mut Dice) -> Vec<Do> {
    let call = |dice: &mut Dice| {
        let object = ObjectHandle(pair.objects[dice.below(3) as usize]);
        let vm = VmHandle(pair.vms[dice.below(3) as usize]);
        let offset = dice.below(3);
        let page = Pfn(80 + dice.below(5));
        match dice.below(9) {
            0..=3 => HostCall::ObjectPopulate {
                object,
                offset,
                first: page,
                pages: 1 + dice.below(2),
                content: InitialContent::Zero,
            },
            4 | 5 => HostCall::ObjectReclaim { object, offset, pages: 1 },
            6 | 7 => HostCall::ForceReclaim { page },
            _ => HostCall::VmTopUp { vm, first: page, pages: 1 },
        }
    };
    (0..3).map(|_| Do::Host(call(dice))).collect()
}

/// Calls of a guest, on a vCPU that two CPUs may want to load.
fn guest_calls(pair: &Pair<'_, '_, Tiny>, dice: &mut Dice) -> Vec<Do> {
    let call = |dice: &mut Dice| {
        let gfn = 32 + dice.below(3);
        match dice.below(5) {
            0 | 1 => Do::Share(gfn, 1 + dice.below(2)),
            2 | 3 => Do::Unshare(gfn, 1 + dice.below(2)),
            _ => Do::Relinquish(gfn),
        }
    };
    let vm = VmHandle(pair.vms[dice.below(2) as usize]);
    vec![Do::Load(vm), call(dice), call(dice), Do::Put]
}

/// Runs a thread's calls on a CPU.
fn run(real: &Hypervisor<'_, Fake<Tiny>>, cpu: usize, calls: &[Do], clock: &AtomicU64) -> Vec<Done> {
    let mut loaded = None;
    let mut parked = None::<LoadedVcpu<'_, '_, Fake<Tiny>>>;
    let mut done = Vec::new();
    let mut of = None;
    for &what in calls {
        let began = clock.fetch_add(1, Ordering::SeqCst);
        let share_error = |error| match error {
            ShareError::Absent => CallError::NotFound,
            ShareError::Denied => CallError::Denied,
        };
        let range = |gfn, pages| PageRange::<Gfn>::new(Gfn(gfn), pages).unwrap();
        let answer = match (what, &loaded) {
            (Do::Host(call), _) => match real.host_call(&call) {
                Ok(x) => Ok(x[0]),
                Err(CallFailure { error, .. }) => Err(error),
            },
            (Do::Load(vm), _) => {
                let resumed = parked
                    .take()
                    .and_then(|mut kept| verify::resume(&mut kept, vm, VcpuIndex(0)).then_some(kept));
                match resumed.map_or_else(|| real.vcpu_load(CpuIndex(cpu), vm, VcpuIndex(0)), Ok) {
                    Ok(vcpu) => {
                        (loaded, of) = (Some(vcpu), Some(vm));
                        Ok(0)
                    }
                    Err(error) => {
                        of = None;
                        Err(error)
                    }
                }
            }
            (_, None) => continue,
            (Do::Share(gfn, pages), Some(vcpu)) => vcpu.share(range(gfn, pages)).map_err(share_error),
            (Do::Unshare(gfn, pages), Some(vcpu)) => vcpu.unshare(range(gfn, pages)).map_err(share_error),
            (Do::Relinquish(gfn), Some(vcpu)) => match vcpu.relinquish(Gfn(gfn)) {
                Ok(was_there) => Ok(was_there.into()),
                Err(failure) => Err(failure.error),
            },
            (Do::Put, Some(_)) => {
                parked = loaded.take();
                parked.iter_mut().for_each(verify::park);
                Ok(0)
            }
        };
        let ended = clock.fetch_add(1, Ordering::SeqCst);
        done.push(Done { what, answer, began, ended, vm: of });
    }
    done
}

impl Answered<Spec> for Done {
    fn when(&self) -> (u64, u64) {
        (self.began, self.ended)
    }

    fn admits(&self, spec: &mut Spec) -> bool {
        admits(spec, self)
    }
}

/// Runs a call on the specification. Returns true if the result is the same.
fn admits(spec: &mut Spec, done: &Done) -> bool {
    // The specification does not model how many pages a pool has, so it admits `NoMemory` at any time.
    if done.answer == Err(CallError::NoMemory) {
        return true;
    }
    let vcpu = VcpuIndex(0);
    let vm = done.vm.unwrap_or(VmHandle(0));
    let mut guest = |call: GuestStep| specified(spec, vm, vcpu, call, done.answer.unwrap_or(0));
    match done.what {
        Do::Host(call) => match (done.answer, spec.host_call(&call, done.answer.unwrap_or(0))) {
            (Ok(x1), Ok(expected)) => x1 == expected,
            (Err(error), Err(refusal)) => error == refusal.x0(),
            _ => false,
        },
        Do::Load(vm) => match (done.answer, spec.host_call(&vcpu_run(vm, vcpu), 0)) {
            (Ok(_), Ok(_)) => true,
            (Err(error), Err(refusal)) => error == refusal.x0(),
            _ => false,
        },
        Do::Put => {
            spec.put(vm, vcpu);
            true
        }
        Do::Share(gfn, pages) | Do::Unshare(gfn, pages) => {
            let x = [gfn << 12, pages, 0];
            let call = match done.what {
                Do::Share(..) => GuestStep::Share(x),
                _ => GuestStep::Unshare(x),
            };
            match (done.answer, guest(call)) {
                (Ok(pages), Ok(outcome)) => outcome.answer == Some(pages),
                (Err(CallError::NotFound), Ok(outcome)) => outcome.answer.is_none(),
                (Err(CallError::Denied), Err(_)) => true,
                _ => false,
            }
        }
        Do::Relinquish(gfn) => match (done.answer, guest(GuestStep::Relinquish([gfn << 12, 0, 0]))) {
            (Ok(there), Ok(outcome)) => outcome.exit.is_some() == (there == 1),
            (Err(CallError::Denied), Err(_)) => true,
            _ => false,
        },
    }
}

/// One round: two host threads and two guests.
fn round(seed: u64) {
    with_pair(&BENCH, |pair: &mut Pair<'_, '_, Tiny>| {
        for action in parse(START).expect("a script") {
            pair.step(&action).unwrap_or_else(|divergence| panic!("{}", divergence.0));
        }
        pair.real.machine().jostle();
        let mut dice = Dice(seed);
        let calls = [
            host_calls(pair, &mut dice),
            host_calls(pair, &mut dice),
            guest_calls(pair, &mut dice),
            guest_calls(pair, &mut dice),
        ];
        let (real, clock, barrier) = (pair.real, AtomicU64::new(0), Barrier::new(calls.len()));
        let threads: Vec<Vec<Done>> = thread::scope(|scope| {
            let spawn = |(index, calls): (usize, &Vec<Do>)| {
                let (clock, barrier, calls) = (&clock, &barrier, calls.clone());
                scope.spawn(move || {
                    barrier.wait();
                    // Guests run on real CPU numbers. The specification does not depend on the CPU of a host call.
                    on_cpu(index, || run(real, index.saturating_sub(2), &calls, clock))
                })
            };
            let threads: Vec<_> = calls.iter().enumerate().map(spawn).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let told = || -> String { threads.iter().flatten().map(|done| format!("{done:?}\n")).collect() };
        let before = pair.spec.clone();
        let mut is_there = |after: &Spec| {
            pair.spec.clone_from(after);
            pair.agree().is_ok()
        };
        let explained = explain(&before, &threads, &mut is_there);
        assert!(explained, "seed {seed}: no order explains\n{}", told());
        oracle::check(real).unwrap_or_else(|found| panic!("seed {seed}: {found}\n{}", told()));
    });
}

#[test]
fn what_threads_are_answered_at_once_some_order_would_have_answered_too() {
    let rounds = u64::from(cases()) * 8;
    (0..rounds).for_each(round);
    println!("{rounds} rounds of 4 threads, each explained by an order");
}

/// A thread that makes random calls on its own VMs and on those of others.
fn havoc(real: &Hypervisor<'_, Fake<Tiny>>, thread: usize, seed: u64, calls: u64) {
    // Two threads share each CPU number. Only one of them has the CPU's vCPU cache.
    let (cpu, keeps) = (thread % 2, thread < 2);
    let mut cache = VcpuCache::new(real, CpuIndex(cpu));
    let mut vms = vec![VmHandle(0x100), VmHandle(0x101)];
    let mut objects = vec![ObjectHandle(0x100), ObjectHandle(0x110)];
    let mut dice = Dice(seed);
    for _ in 0..calls {
        let vm = dice.of(&vms).unwrap();
        let object = dice.of(&objects).unwrap();
        let page = Pfn(54 + dice.below(66));
        let (offset, pages) = (dice.below(6), 1 + dice.below(5));
        let call = match dice.below(16) {
            0 => HostCall::VmCreate { protected: !dice.one_in(4), first: Pfn(page.0 & !1), pages: 8 },
            1 => HostCall::ObjectCreate { vm, pages: 6 },
            2 => HostCall::ObjectBind { object, offset: 0, gfn: Gfn(32), pages: 6 },
            3 => HostCall::VcpuCreate { vm, index: VcpuIndex(0) },
            4 => HostCall::VmStart { vm, entry: Gfn(32).base(), argument: 0 },
            5 if dice.one_in(4) => HostCall::VmDestroy { vm },
            6 => HostCall::ForceReclaim { page },
            7 => HostCall::ObjectReclaim { object, offset, pages },
            8 => HostCall::VmTopUp { vm, first: page, pages: 1 },
            9 => HostCall::ObjectQuery { object, offset },
            10 | 11 => {
                guest_havoc(&mut cache, vm, &mut dice);
                if !keeps {
                    cache = VcpuCache::new(real, CpuIndex(cpu));
                }
                continue;
            }
            _ => {
                HostCall::ObjectPopulate { object, offset, first: page, pages, content: InitialContent::Zero }
            }
        };
        let answer = real.host_call(&call);
        let made = answer.ok().and_then(|x| u32::try_from(x[0]).ok());
        match (call, made) {
            (HostCall::VmCreate { .. }, Some(handle)) => vms.push(VmHandle(handle)),
            (HostCall::ObjectCreate { .. }, Some(handle)) => objects.push(ObjectHandle(handle)),
            _ => {}
        }
        real.host_abort(Gfn(page.0).base(), HostAccess::Read);
    }
}

fn guest_havoc(cache: &mut VcpuCache<'_, '_, Fake<Tiny>>, vm: VmHandle, dice: &mut Dice) {
    let _ = cache.run(vm, VcpuIndex(0), |vcpu| {
        for _ in 0..dice.below(8) {
            let gfn = Gfn(32 + dice.below(6));
            let pages = PageRange::<Gfn>::new(gfn, 1 + dice.below(6)).unwrap();
            // Ordinary VMs do not have these calls.
            match dice.below(4) {
                _ if !vcpu.is_protected() => {}
                0 => drop(vcpu.relinquish(gfn)),
                1 => drop(vcpu.unshare(pages)),
                _ => drop(vcpu.share(pages)),
            }
            let _ = vcpu.classify(gfn);
        }
        Ok(())
    });
}

#[test]
fn after_a_stress_of_many_threads_nothing_is_amiss() {
    let calls = u64::from(cases()) * 20;
    let rounds = 4;
    for seed in 0..rounds {
        with_pair(&super::random::bench(), |pair: &mut Pair<'_, '_, Tiny>| {
            let real = pair.real;
            real.machine().jostle();
            thread::scope(|scope| {
                for thread in 0..4 {
                    scope.spawn(move || {
                        on_cpu(thread, || havoc(real, thread, seed * 100 + thread as u64, calls))
                    });
                }
            });
            oracle::check(real).unwrap_or_else(|found| panic!("seed {seed}: {found}"));
            assert_eq!(real.machine().violations(), Vec::new());
        });
    }
    println!("{} calls by 4 threads at once", 4 * rounds * calls);
}
