//! The core and its specification, side by side: every [`Action`] is done to both, and then they have to
//! agree about what was answered, what every party reaches on every page, and what is in the pages.
//!
//! The exhaustive search, the random sequences, the scripts and the fuzz targets all drive the core
//! through [`Pair::step`].

#![expect(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test harness: what goes wrong in it fails the test"
)]

pub mod action;
mod check;
pub mod guest;
mod host;
pub mod saved;

use std::collections::BTreeMap;
use std::format;
use std::ops::Range;
use std::string::String;
use std::vec;
use std::vec::Vec;

use hyp_core::call::trng::Trng;
use hyp_core::hypervisor::Hypervisor;
use hyp_core::limits::CpuIndex;
use hyp_core::machine::event::Event;
use hyp_core::machine::geometry::{Geometry, Level};
use hyp_core::machine::{Stage2Id, Vmid};
use hyp_core::ownership::host::{HostAbort, HostAccess};
use hyp_core::ownership::setup::Setup;
use hyp_core::vcpu::loaded::LoadedVcpu;
use hyp_core::verify;
use shared_abi::addr::{Gfn, PageRange, Pfn};
use shared_abi::error::CallError;
use shared_abi::host_call::{HostCall, VcpuIndex, VmHandle};
use shared_abi::vcpu::{Entry, ListRegister, Resume};

use crate::fake::{Fake, on_cpu};
use crate::spec::guest::GuestRefusal;
use crate::spec::host::Refusal;
use crate::spec::{HostReach, Layout, Spec, SpecOwner};
use action::{Action, Arg};

/// CPUs of a machine under test.
pub const CPUS: usize = 2;

/// What the host has in its pages.
pub const HOST_BYTE: u8 = 0x55;
/// What is a guest's secret, unless [`Pair::secret`] says otherwise.
pub const GUEST_BYTE: u8 = 0xaa;
/// What guests put where the host may see it.
pub const PUBLIC_BYTE: u8 = 0x11;

/// A machine under test.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Pages of RAM.
    pub ram: Range<u64>,
    /// The hypervisor's part of it; the host's tables are at its beginning.
    pub reserved: Range<u64>,
    /// Devices that the host must not reach.
    pub denied: Range<u64>,
}

/// What an action came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It was done.
    Done,
    /// A part of it was done.
    Again,
    /// The pool was too short.
    NoMemory,
    /// Refused, to the host.
    Refused(Refusal),
    /// Refused, to a guest.
    GuestRefused(GuestRefusal),
    /// Registers that are no call's.
    BadValue,
    /// Another page or vCPU has to come first: the guest exited, and tries again.
    Exit,
    /// The host's touch is an abort.
    Abort,
    /// It makes no sense where it stands: nothing was done.
    Skipped,
}

/// The core and its specification disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence(pub String);

/// Fails with a divergence unless a condition holds.
macro_rules! agree {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::lockstep::Divergence(std::format!($($message)+)));
        }
    };
}
use agree;

/// A vCPU that a CPU has.
struct OnCpu<'h, 'm, G: Geometry> {
    loaded: LoadedVcpu<'h, 'm, Fake<G>>,
    /// It has exited: the host has to put it back before anything else happens on this CPU.
    exited: bool,
}

/// The core and its specification.
pub struct Pair<'h, 'm, G: Geometry> {
    /// The core.
    pub real: &'h Hypervisor<'m, Fake<G>>,
    /// Its specification.
    pub spec: Spec,
    /// All handles that were ever given, oldest first.
    pub vms: Vec<u32>,
    /// The same for objects.
    pub objects: Vec<u32>,
    stage2_ids: BTreeMap<VmHandle, Stage2Id>,
    cpus: [Option<OnCpu<'h, 'm, G>>; CPUS],
    /// What each CPU ran last, and may resume.
    parked: [Option<LoadedVcpu<'h, 'm, Fake<G>>>; CPUS],
    /// Who owned each page after the last step, by page.
    owners: Vec<Option<SpecOwner>>,
    /// Hypercalls and exits of each VM.
    counts: BTreeMap<VmHandle, (u64, u64)>,
    trng: Trng,
    /// How many pages the last call that found a pool too short asked for.
    pub short_of: u64,
    /// What the last step told the host: results of a call, or an exit record.
    pub told: Vec<u64>,
    /// What the machine did in the last step, and which CPU had it do so.
    pub events: Vec<(usize, Event)>,
    /// What protected guests have in their memory and in their registers.
    pub secret: u8,
    /// Whether what is in the pages is looked at after each step.
    pub checking_content: bool,
    /// Whether what each party reaches is looked at after each step.
    pub checking: bool,
}

/// Makes the machine, works on it, and throws it away.
pub fn with_pair<G: Geometry, R>(bench: &Bench, f: impl FnOnce(&mut Pair<'_, '_, G>) -> R) -> R {
    let range = |range: &Range<u64>| {
        PageRange::<Pfn>::new(Pfn(range.start), range.end - range.start).expect("a range")
    };
    let ram = [range(&bench.ram)];
    let denied = [range(&bench.denied)];
    let needs = Hypervisor::<Fake<G>>::needs(&ram, &denied);
    let mut owner_words = vec![u64::MAX; needs.owner_words];
    let setup = Setup {
        ram: &ram,
        reserved: &[range(&bench.reserved)],
        denied_devices: &denied,
        owner_words: &mut owner_words,
        tables: PageRange::<Pfn>::new(Pfn(bench.reserved.start), needs.tables).expect("tables"),
        cpus: CPUS,
        expected: None,
    };
    let real = Hypervisor::new(Fake::<G>::checked(), setup).expect("a machine");
    f(&mut Pair::new(&real, bench))
}

impl<'h, 'm, G: Geometry> Pair<'h, 'm, G> {
    fn new(real: &'h Hypervisor<'m, Fake<G>>, bench: &Bench) -> Self {
        let spec = Spec::new(Layout {
            ram: bench.ram.clone(),
            reserved: bench.reserved.clone(),
            denied: bench.denied.clone(),
            ipa_pages: G::IPA_PAGES,
            largest_object: 16 * G::LEVEL1_BLOCK_PAGES,
            pages_per_call: G::PAGES_PER_CALL,
            kept_per_call: G::KEPT_PER_CALL,
        });
        let machine = real.machine();
        for (page, owner) in &spec.owners {
            if *owner == SpecOwner::Host {
                machine.fill(Pfn(*page), HOST_BYTE);
            }
        }
        machine.watch(real.host_stage2_id());
        Self {
            real,
            owners: (0..G::IPA_PAGES).map(|page| spec.owners.get(&page).copied()).collect(),
            spec,
            vms: Vec::new(),
            objects: Vec::new(),
            stage2_ids: BTreeMap::new(),
            cpus: [const { None }; CPUS],
            parked: [const { None }; CPUS],
            counts: BTreeMap::new(),
            trng: Trng::new(&[1; 32]),
            short_of: 0,
            told: Vec::new(),
            events: Vec::new(),
            secret: GUEST_BYTE,
            checking_content: true,
            checking: true,
        }
    }

    /// Does an action to both.
    ///
    /// # Errors
    ///
    /// [`Divergence`] if they do not agree; the pair is of no use then.
    pub fn step(&mut self, action: &Action) -> Result<Verdict, Divergence> {
        self.told.clear();
        self.real.machine().take_trace();
        let verdict = match *action {
            Action::Host { call, x } => {
                let (function, registers) = Action::registers(call, &x, |arg| self.value(arg));
                self.host_call(function, &registers)?
            }
            Action::Touch { page } => self.touch(page)?,
            Action::Load { cpu, vm, vcpu } => {
                let vm = u32::try_from(self.value(vm)).unwrap_or(u32::MAX);
                self.load(cpu, VmHandle(vm), VcpuIndex(vcpu))?
            }
            Action::Guest { cpu, call } => self.guest(cpu, call)?,
            Action::Put { cpu } => self.put(cpu),
        };
        self.events = self.real.machine().take_trace();
        self.check_content()?;
        if self.checking {
            self.agree()?;
        }
        Ok(verdict)
    }

    /// What a register holds.
    fn value(&self, arg: Arg) -> u64 {
        const NOTHING: u32 = u32::MAX;
        match arg {
            Arg::Value(value) => value,
            Arg::Vm(index) => self.vms.get(index).copied().unwrap_or(NOTHING).into(),
            Arg::Object(index) => self.objects.get(index).copied().unwrap_or(NOTHING).into(),
        }
    }

    /// Which VM and vCPU a CPU has, and whether that has exited.
    #[must_use]
    pub fn on_cpu(&self, cpu: usize) -> Option<(VmHandle, VcpuIndex, bool)> {
        let on = self.cpus.get(cpu)?.as_ref()?;
        Some((on.loaded.vm(), on.loaded.vcpu(), on.exited))
    }

    /// Where the tables of a VM are.
    #[must_use]
    pub fn stage2_id(&self, vm: VmHandle) -> Option<Stage2Id> {
        self.stage2_ids.get(&vm).copied()
    }

    fn touch(&self, page: u64) -> Result<Verdict, Divergence> {
        if page >= 1 << 52 {
            return Ok(Verdict::Skipped);
        }
        let answer = self.real.host_abort(Gfn(page).base(), HostAccess::Write);
        let (expected, verdict) = match self.spec.host_reach(page) {
            HostReach::No => (HostAbort::Inject, Verdict::Abort),
            HostReach::Yes | HostReach::Device => (HostAbort::Retry, Verdict::Done),
        };
        agree!(answer == expected, "the host touches page {page}: {answer:?}");
        if answer == HostAbort::Retry {
            let found = self.real.machine().walk(self.real.host_stage2_id(), page);
            agree!(found.is_some(), "the host touches page {page} again and again");
        }
        Ok(verdict)
    }

    fn load(&mut self, cpu: usize, vm: VmHandle, vcpu: VcpuIndex) -> Result<Verdict, Divergence> {
        if cpu >= CPUS || self.cpus[cpu].is_some() {
            return Ok(Verdict::Skipped);
        }
        let expected = self.spec.host_call(&vcpu_run(vm, vcpu), 0);
        let parked = self.parked[cpu].take();
        let real: Result<_, CallError> = on_cpu(cpu, || {
            if let Some(mut loaded) = parked
                && verify::resume(&mut loaded, vm, vcpu)
            {
                return Ok(loaded);
            }
            self.real.vcpu_load(CpuIndex(cpu), vm, vcpu)
        });
        match (real, expected) {
            (Ok(loaded), Ok(_)) => {
                self.cpus[cpu] = Some(OnCpu { loaded, exited: false });
                Ok(Verdict::Done)
            }
            (Err(error), Err(refusal)) if error == refusal.x0() => Ok(Verdict::Refused(refusal)),
            (real, expected) => {
                Err(Divergence(format!("load: {:?}, expected {expected:?}", real.map(|_| ()))))
            }
        }
    }

    fn put(&mut self, cpu: usize) -> Verdict {
        self.interrupt(cpu);
        match self.cpus.get_mut(cpu).and_then(Option::take) {
            None => Verdict::Skipped,
            Some(mut on) => {
                let (vm, vcpu) = (on.loaded.vm(), on.loaded.vcpu());
                on_cpu(cpu, || verify::park(&mut on.loaded));
                self.parked[cpu] = Some(on.loaded);
                self.spec.put(vm, vcpu);
                Verdict::Done
            }
        }
    }
}

/// The call that enters a vCPU.
#[must_use]
pub const fn vcpu_run(vm: VmHandle, vcpu: VcpuIndex) -> HostCall {
    let entry = Entry { resume: Resume::Continue, list_registers: [ListRegister(0); 4] };
    HostCall::VcpuRun { vm, vcpu, entry }
}

/// The space of a VM whose pool starts at page `root`: what VTTBR_EL2 holds for it.
fn guest_stage2_id(vm: VmHandle, root: u64) -> Stage2Id {
    let place = u8::try_from(vm.0 & 0xff).unwrap_or(u8::MAX);
    Stage2Id { root: Pfn(root).base(), vmid: Vmid(place.wrapping_add(1)) }
}

/// Pages of a block: what sequences like to begin and end at.
#[must_use]
pub fn block_pages<G: Geometry>() -> u64 {
    G::span(Level::Two)
}
