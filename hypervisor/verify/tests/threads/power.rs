//! A CPU enters the vCPU in its cache without reading the VM, while the guest's other vCPUs change the state that it
//! would read: they stop the VM, turn vCPUs on and off, and change the MMIO guard.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{println, thread};

use hyp_core::hypervisor::Hypervisor;
use hyp_core::limits::CpuIndex;
use hyp_core::vcpu::cache::VcpuCache;
use hyp_core::vcpu::loaded::{GuestPage, LoadedVcpu};
use hyp_core::verify;
use hyp_verify::fake::{Fake, on_cpu};
use hyp_verify::lockstep::action::parse;
use hyp_verify::lockstep::{Pair, vcpu_run, with_pair};
use hyp_verify::oracle;
use hyp_verify::spec::Spec;
use shared_abi::addr::{Gfn, Ipa};
use shared_abi::error::CallError;
use shared_abi::host_call::{VcpuIndex, VmHandle};

use super::BENCH;
use super::order::{Answered, explain};
use crate::bench_machine::Tiny;
use crate::cases;
use crate::guide::Dice;

const VCPUS: usize = 3;
/// Pages without memory. They are devices until the guest maps pages in its MMIO guard.
const DEVICES: [u64; 2] = [4, 5];
/// A protected VM with all its vCPUs on.
const START: &str = "
    vm-create protected=1 first=40 pages=12
    vcpu-create vm=vm0 index=0
    vcpu-create vm=vm0 index=1
    vcpu-create vm=vm0 index=2
    vm-start vm=vm0 entry=0x20000 argument=0
    load cpu=0 vm=vm0 vcpu=0
    guest cpu=0 cpu-on 1
    put cpu=0
    load cpu=0 vm=vm0 vcpu=0
    guest cpu=0 cpu-on 2
    put cpu=0";

/// An action of a vCPU, with its entry and exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Do {
    /// The vCPU is entered. The result is x0.
    Enter,
    Leave,
    /// CPU_ON of a vCPU, with this value for its x0.
    On(u32, u64),
    /// CPU_OFF.
    Off,
    /// SYSTEM_OFF.
    Stop,
    /// An access to a device. The result tells whether the host may emulate it.
    Access(u64),
    /// MMIO_GUARD_MAP.
    Name(u64),
    /// MMIO_GUARD_UNMAP.
    Unname(u64),
}

/// The result of an action. A guest's refused call has no further value.
type Answer = Result<u64, Option<CallError>>;

#[derive(Debug)]
struct Done {
    vcpu: u32,
    what: Do,
    answer: Answer,
    began: u64,
    ended: u64,
}

/// The specification, with the state that it does not model: the x0 at which vCPUs start, and the MMIO guard.
#[derive(Clone, PartialEq)]
struct Model {
    spec: Spec,
    vm: VmHandle,
    /// The x0 of each vCPU.
    x0: [u64; VCPUS],
    /// The pages in the MMIO guard, once the guest has mapped one.
    named: Option<BTreeSet<u64>>,
}

impl Answered<Model> for Done {
    fn when(&self) -> (u64, u64) {
        (self.began, self.ended)
    }

    fn admits(&self, model: &mut Model) -> bool {
        let (vm, vcpu) = (model.vm, VcpuIndex(self.vcpu));
        let spec = &mut model.spec;
        self.answer
            == match self.what {
                Do::Enter => match spec.host_call(&vcpu_run(vm, vcpu), 0) {
                    Ok(_) => Ok(model.x0[self.vcpu as usize]),
                    Err(refusal) => Err(Some(refusal.x0())),
                },
                Do::Leave => {
                    spec.put(vm, vcpu);
                    Ok(0)
                }
                Do::On(target, x0) => match spec.cpu_on(vm, VcpuIndex(target)) {
                    Ok(_) => {
                        model.x0[target as usize] = x0;
                        Ok(0)
                    }
                    Err(_) => Err(None),
                },
                Do::Off => spec.cpu_off(vm, vcpu).map(|_| 0).map_err(|_| None),
                Do::Stop => spec.system_off(vm).map(|_| 0).map_err(|_| None),
                Do::Access(gfn) => Ok(model.named.as_ref().is_none_or(|named| named.contains(&gfn)).into()),
                Do::Name(gfn) => {
                    model.named.get_or_insert_default().insert(gfn);
                    Ok(0)
                }
                Do::Unname(gfn) => {
                    model.named.as_mut().map(|named| named.remove(&gfn));
                    Ok(0)
                }
            }
    }
}

/// A vCPU's run: its actions until it exits.
type Run = (u32, Vec<Do>);

/// The runs of a CPU, mostly of the vCPU in its cache. Each x0 that is passed to CPU_ON is unique.
fn runs(cpu: u32, dice: &mut Dice) -> Vec<Run> {
    let run = |turn: u64| {
        let vcpu = if dice.one_in(4) { dice.below(VCPUS as u64) as u32 } else { cpu };
        let step = |step: u64| {
            let device = DEVICES[dice.below(2) as usize];
            match dice.below(8) {
                0 | 1 => {
                    let target = dice.below(VCPUS as u64) as u32;
                    Do::On(target, 1 + step + 16 * turn + 256 * u64::from(cpu))
                }
                2 => Do::Name(device),
                3 => Do::Unname(device),
                _ => Do::Access(device),
            }
        };
        let mut steps: Vec<Do> = (0..2).map(step).collect();
        match dice.below(12) {
            0 => steps.push(Do::Stop),
            1..=3 => steps.push(Do::Off),
            _ => {}
        }
        (vcpu, steps)
    };
    (0..5).map(run).collect()
}

fn step(loaded: &mut LoadedVcpu<'_, '_, Fake<Tiny>>, what: Do) -> Answer {
    match what {
        Do::Enter => return Ok(loaded.with_context(|context| context.registers.x[0])),
        Do::Leave => {}
        Do::On(target, x0) => {
            return loaded.power_on(VcpuIndex(target), Ipa(0x2_0000), x0).map(|()| 0).map_err(|_| None);
        }
        Do::Off => loaded.power_off(),
        Do::Stop => loaded.stop(),
        Do::Access(gfn) => {
            let (page, allowed) = verify::classify_or_device(loaded, Gfn(gfn));
            assert_eq!(page, GuestPage::Unbound);
            return Ok(allowed.into());
        }
        Do::Name(gfn) => loaded.with_guard(|guard| guard.map(Gfn(gfn))).unwrap(),
        Do::Unname(gfn) => loaded.with_guard(|guard| guard.unmap(Gfn(gfn))).unwrap(),
    }
    Ok(0)
}

/// Runs a CPU's part through its vCPU cache, as the host would.
fn run(
    real: &Hypervisor<'_, Fake<Tiny>>,
    vm: VmHandle,
    cpu: usize,
    runs: &[Run],
    clock: &AtomicU64,
) -> Vec<Done> {
    let now = || clock.fetch_add(1, Ordering::SeqCst);
    let mut cache = VcpuCache::new(real, CpuIndex(cpu));
    let mut done = Vec::new();
    for (vcpu, steps) in runs {
        let mut began = now();
        let mut told = |what, answer, began, ended| {
            done.push(Done { vcpu: *vcpu, what, answer, began, ended });
        };
        let left = cache.run(vm, VcpuIndex(*vcpu), |loaded| {
            for what in [Do::Enter].iter().chain(steps) {
                told(*what, step(loaded, *what), began, now());
                began = now();
            }
            Ok(())
        });
        match left {
            Ok(()) => told(Do::Leave, Ok(0), began, now()),
            Err(error) => told(Do::Enter, Err(Some(error)), began, now()),
        }
    }
    done
}

/// One round: two CPUs run at once, then the state of each vCPU and device is checked.
fn round(seed: u64) -> usize {
    with_pair(&BENCH, |pair: &mut Pair<'_, '_, Tiny>| {
        for action in parse(START).expect("a script") {
            pair.step(&action).unwrap_or_else(|divergence| panic!("{}", divergence.0));
        }
        let (real, clock, barrier) = (pair.real, AtomicU64::new(0), Barrier::new(2));
        real.machine().jostle();
        let vm = VmHandle(pair.vms[0]);
        let mut dice = Dice(seed);
        let programs = [runs(0, &mut dice), runs(1, &mut dice)];
        let mut threads: Vec<Vec<Done>> = thread::scope(|scope| {
            let spawn = |(cpu, runs): (usize, &'_ Vec<Run>)| {
                let (clock, barrier, runs) = (&clock, &barrier, runs.clone());
                scope.spawn(move || {
                    barrier.wait();
                    on_cpu(cpu, || run(real, vm, cpu, &runs, clock))
                })
            };
            let threads: Vec<_> = programs.iter().enumerate().map(spawn).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let looks: Vec<Run> = (0..3).map(|vcpu| (vcpu, DEVICES.map(Do::Access).to_vec())).collect();
        threads.push(on_cpu(0, || run(real, vm, 0, &looks, &clock)));

        let told = || -> String { threads.iter().flatten().map(|done| format!("{done:?}\n")).collect() };
        let model = Model { spec: pair.spec.clone(), vm, x0: [0; VCPUS], named: None };
        let mut is_there = |after: &Model| {
            pair.spec.clone_from(&after.spec);
            pair.agree().is_ok()
        };
        let explained = explain(&model, &threads, &mut is_there);
        assert!(explained, "seed {seed}: no order explains\n{}", told());
        oracle::check(real).unwrap_or_else(|found| panic!("seed {seed}: {found}\n{}", told()));
        threads.iter().flatten().filter(|done| done.what == Do::Enter && done.answer.is_ok()).count()
    })
}

#[test]
fn a_vcpu_that_a_cpu_kept_runs_as_if_it_was_looked_at_each_time() {
    let rounds = u64::from(cases()) * 8;
    let entered: usize = (0..rounds).map(round).sum();
    println!("{rounds} rounds of 2 CPUs that entered vCPUs {entered} times, each explained by an order");
}
