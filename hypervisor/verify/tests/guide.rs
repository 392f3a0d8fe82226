//! Chooses the next action from the specification's state: mostly valid calls, some that barely fail, and a few that
//! are nonsense.

use hyp_core::machine::geometry::Geometry;
use hyp_verify::lockstep::action::{Action, Arg, CALLS, GuestStep};
use hyp_verify::lockstep::{CPUS, Pair};
use hyp_verify::spec::{SpecBinding, SpecOwner, SpecPresence, SpecVmState};
use shared_abi::addr::{Gfn, Pfn};
use shared_abi::host_call::{HostCall, InitialContent, ObjectHandle, VcpuIndex, VmHandle};

/// Random numbers from one seed (SplitMix64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`, which must not be 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn of<T: Copy>(&mut self, choice: &[T]) -> Option<T> {
        match choice.len() {
            0 => None,
            length => choice.get(self.below(length as u64) as usize).copied(),
        }
    }

    /// Returns a number of pages: usually few, a block or a level-1 block, and sometimes nonsense.
    fn length(&mut self) -> u64 {
        match self.below(20) {
            0 => 0,
            1 => u64::MAX,
            2..=6 => 4,
            7..=8 => 16,
            _ => 1 + self.below(6),
        }
    }

    fn page(&mut self) -> u64 {
        match self.below(12) {
            0 => self.next(),
            _ => self.below(140),
        }
    }
}

/// Returns the next action.
pub(super) fn next<G: Geometry>(pair: &Pair<'_, '_, G>, dice: &mut Dice) -> Action {
    for cpu in 0..CPUS {
        if let Some((_, _, true)) = pair.on_cpu(cpu)
            && !dice.one_in(4)
        {
            return Action::Put { cpu };
        }
    }
    match dice.below(100) {
        0..=44 => guest(pair, dice),
        45..=52 => load(pair, dice),
        53..=55 => Action::Put { cpu: dice.below(CPUS as u64) as usize },
        56..=90 => host(pair, dice),
        91..=93 => Action::Touch { page: dice.page() },
        _ => nonsense(pair, dice),
    }
}

fn named<G: Geometry>(pair: &Pair<'_, '_, G>, call: HostCall) -> Action {
    Action::host(&call, &pair.vms, &pair.objects)
}

fn vms<G: Geometry>(pair: &Pair<'_, '_, G>, test: impl Fn(SpecVmState) -> bool) -> Vec<VmHandle> {
    let alive = pair.spec.vms.iter().filter(|(_, vm)| test(vm.state));
    alive.map(|(handle, _)| *handle).collect()
}

fn load<G: Geometry>(pair: &Pair<'_, '_, G>, dice: &mut Dice) -> Action {
    let started = vms(pair, |life| life == SpecVmState::Started);
    let vm = dice.of(&started).unwrap_or(VmHandle(u32::MAX));
    let vm = pair.vms.iter().rposition(|known| *known == vm.0);
    Action::Load {
        cpu: dice.below(CPUS as u64) as usize,
        vm: vm.map_or(Arg::Value(u32::MAX.into()), Arg::Vm),
        vcpu: dice.below(2) as u32 + 7 * u32::from(dice.one_in(20)),
    }
}

fn guest<G: Geometry>(pair: &Pair<'_, '_, G>, dice: &mut Dice) -> Action {
    let running: Vec<usize> =
        (0..CPUS).filter(|cpu| matches!(pair.on_cpu(*cpu), Some((_, _, false)))).collect();
    let Some(cpu) = dice.of(&running) else {
        return load(pair, dice);
    };
    let bindings =
        pair.on_cpu(cpu).and_then(|(vm, ..)| pair.spec.vms.get(&vm)).map_or(&[][..], |vm| &vm.bindings);
    let gfn = match dice.of(bindings) {
        Some(binding) if !dice.one_in(12) => binding.gfn + dice.below(binding.pages + 1),
        _ => dice.page(),
    };
    let ipa = gfn.wrapping_mul(4096) + u64::from(dice.one_in(40));
    let x3 = u64::from(dice.one_in(60));
    let call = match dice.below(40) {
        0..=13 => GuestStep::Share([ipa, dice.length(), x3]),
        14..=24 => GuestStep::Unshare([ipa, dice.length(), x3]),
        25..=29 => GuestStep::Relinquish([ipa, u64::from(dice.one_in(40)), x3]),
        30 | 31 => GuestStep::CpuOn(dice.below(3) as u32),
        32 => GuestStep::CpuOff,
        33 if dice.one_in(3) => GuestStep::SystemOff,
        _ => GuestStep::Touch(gfn),
    };
    Action::Guest { cpu, call }
}

fn host<G: Geometry>(pair: &Pair<'_, '_, G>, dice: &mut Dice) -> Action {
    let alive = vms(pair, |life| life != SpecVmState::Dying);
    if alive.len() < 2 || (alive.len() < 4 && dice.one_in(30)) {
        return create(pair, dice);
    }
    let new = vms(pair, |life| life == SpecVmState::New);
    if let Some(vm) = dice.of(&new)
        && dice.one_in(2)
    {
        return build(pair, dice, vm);
    }
    let objects = pair.spec.vms.values().flat_map(|vm| &vm.objects);
    let mut sizes: Vec<_> = objects.map(|(object, slots)| (*object, slots.len() as u64)).collect();
    sizes.sort_unstable();
    let (object, size) = dice.of(&sizes).unwrap_or((ObjectHandle(u32::MAX), 1));
    let offset = dice.below(size);
    match dice.below(40) {
        0..=15 => populate(pair, dice),
        16..=20 => {
            let pages = dice.length();
            named(pair, HostCall::ObjectReclaim { object, offset, pages })
        }
        21..=24 => {
            let private: Vec<u64> = owned(pair, |owner| {
                matches!(owner, SpecOwner::Private(_) | SpecOwner::Shared(_) | SpecOwner::Lent(_))
            });
            let page = Pfn(dice.of(&private).unwrap_or(0));
            named(pair, HostCall::ForceReclaim { page })
        }
        25..=28 => named(pair, HostCall::ObjectQuery { object, offset }),
        29..=31 => {
            let vm = dice.of(&alive).unwrap_or(VmHandle(0));
            named(pair, HostCall::VmCounters { vm })
        }
        32..=36 => top_up(pair, dice, dice_vm(&alive), 1),
        37 => named(pair, HostCall::ObjectDestroy { object }),
        _ => {
            let stopped = vms(pair, |life| life >= SpecVmState::Stopped);
            let vm = match dice.of(&stopped) {
                Some(vm) => vm,
                None if dice.one_in(6) => dice.of(&alive).unwrap_or(VmHandle(0)),
                None => return populate(pair, dice),
            };
            named(pair, HostCall::VmDestroy { vm })
        }
    }
}

fn dice_vm(alive: &[VmHandle]) -> VmHandle {
    alive.first().copied().unwrap_or(VmHandle(0))
}

/// Returns the pages of RAM whose owner passes the test.
fn owned<G: Geometry>(pair: &Pair<'_, '_, G>, test: impl Fn(&SpecOwner) -> bool) -> Vec<u64> {
    let pages = pair.spec.owners.iter().filter(|(_, owner)| test(owner));
    pages.map(|(page, _)| *page).collect()
}

/// Returns first pages of runs of `pages` host pages. Each run's offset in its block passes `fits`.
pub(super) fn free<G: Geometry>(pair: &Pair<'_, '_, G>, pages: u64, fits: impl Fn(u64) -> bool) -> Vec<u64> {
    let host = |page: u64| pair.spec.owners.get(&page) == Some(&SpecOwner::Host);
    let starts = owned(pair, |owner| *owner == SpecOwner::Host).into_iter();
    starts.filter(|first| fits(*first) && (*first..first.saturating_add(pages.min(64))).all(host)).collect()
}

fn create<G: Geometry>(pair: &Pair<'_, '_, G>, dice: &mut Dice) -> Action {
    let pages = 6 + dice.below(8);
    let first = free(pair, pages, |first| first % 2 == 0);
    let call =
        HostCall::VmCreate { protected: !dice.one_in(4), first: Pfn(dice.of(&first).unwrap_or(0)), pages };
    named(pair, call)
}

/// Returns a call that gives a pool more pages.
pub(super) fn top_up<G: Geometry>(
    pair: &Pair<'_, '_, G>,
    dice: &mut Dice,
    vm: VmHandle,
    pages: u64,
) -> Action {
    let first = Pfn(dice.of(&free(pair, pages, |_| true)).unwrap_or(0));
    named(pair, HostCall::VmTopUp { vm, first, pages })
}

/// Returns the next call towards a started VM.
fn build<G: Geometry>(pair: &Pair<'_, '_, G>, dice: &mut Dice, vm: VmHandle) -> Action {
    let Some(found) = pair.spec.vms.get(&vm) else {
        return create(pair, dice);
    };
    let objects: Vec<ObjectHandle> = found.objects.keys().copied().collect();
    let call = match dice.below(12) {
        0..=2 if objects.len() < 2 => HostCall::ObjectCreate { vm, pages: 1 + dice.below(20) },
        3..=5 => {
            let object = dice.of(&objects).unwrap_or(ObjectHandle(0));
            let size = found.objects.get(&object).map_or(1, |slots| slots.len() as u64);
            let offset = if dice.one_in(3) { dice.below(size) } else { 0 };
            let pages = match dice.one_in(3) {
                true => dice.length(),
                false => size - offset,
            };
            let gfn = Gfn(if dice.one_in(3) { dice.below(120) } else { 32 + offset });
            HostCall::ObjectBind { object, offset, gfn, pages }
        }
        6 if dice.one_in(4) => match dice.of(&found.bindings) {
            Some(SpecBinding { object, offset, pages, .. }) => {
                HostCall::ObjectUnbind { object, offset, pages }
            }
            None => HostCall::VmCounters { vm },
        },
        7..=9 if found.on.len() < 2 => HostCall::VcpuCreate { vm, index: VcpuIndex(found.on.len() as u32) },
        10 if !found.bindings.is_empty() || dice.one_in(5) => {
            HostCall::VmStart { vm, entry: Gfn(32).base(), argument: dice.below(9) }
        }
        _ => return populate(pair, dice),
    };
    named(pair, call)
}

/// Returns a call that populates absent pages. The host's pages are usually aligned as the guest's.
fn populate<G: Geometry>(pair: &Pair<'_, '_, G>, dice: &mut Dice) -> Action {
    let alive = vms(pair, |life| life != SpecVmState::Dying);
    let vm = dice.of(&alive).unwrap_or(VmHandle(0));
    let found = pair.spec.vms.get(&vm);
    let Some(binding) = found.and_then(|vm| dice.of(&vm.bindings)) else {
        return create(pair, dice);
    };
    let slots = found.and_then(|vm| vm.objects.get(&binding.object)).map_or(&[][..], |slots| slots);
    let is_absent = |offset: &u64| slots.get(*offset as usize) == Some(&SpecPresence::Absent);
    let end = binding.offset + binding.pages;
    let absent: Vec<u64> = (binding.offset..end).filter(is_absent).collect();
    let offset = match dice.of(&absent) {
        Some(offset) if dice.one_in(3) => offset,
        Some(offset) => absent.iter().copied().find(|other| *other >= offset / 4 * 4).unwrap_or(offset),
        None => binding.offset,
    };
    let run = (offset..end).take_while(is_absent).count() as u64;
    let pages = match dice.below(6) {
        0 => dice.length(),
        1 | 2 => run.clamp(1, 4),
        3 => run.max(1),
        _ => 1,
    };
    let gfn = binding.gfn + (offset - binding.offset);
    let modulus = dice.of(&[1, 4, 4, 16]).unwrap_or(1);
    let first = free(pair, pages, |first| first % modulus == gfn % modulus);
    let call = HostCall::ObjectPopulate {
        object: binding.object,
        offset,
        first: Pfn(dice.of(&first).unwrap_or(dice.page())),
        pages,
        content: match found.is_some_and(|vm| vm.state == SpecVmState::New) && dice.one_in(2) {
            true => InitialContent::Keep,
            false => InitialContent::Zero,
        },
    };
    named(pair, call)
}

/// Returns any call with any registers.
fn nonsense<G: Geometry>(pair: &Pair<'_, '_, G>, dice: &mut Dice) -> Action {
    let call = dice.below(CALLS.len() as u64) as usize;
    let mut x = [Arg::Value(0); 5];
    for arg in &mut x {
        *arg = Arg::Value(match dice.below(5) {
            0 => dice.below(3),
            1 => dice.length(),
            _ => dice.page(),
        });
    }
    // Handles of destroyed VMs and objects find more bugs, so they are preferred.
    match CALLS[call].1.first() {
        Some(&"vm") if !pair.vms.is_empty() => {
            x[0] = Arg::Vm(dice.below(pair.vms.len() as u64) as usize);
        }
        Some(&"object") if !pair.objects.is_empty() => {
            x[0] = Arg::Object(dice.below(pair.objects.len() as u64) as usize);
        }
        _ => {}
    }
    if CALLS[call].0 == "vm-create" && !dice.one_in(8) {
        return Action::Touch { page: dice.page() };
    }
    Action::Host { call, x }
}
