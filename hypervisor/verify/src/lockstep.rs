//! The core and its specification, side by side. Each [`Action`] runs on both. After it, both must agree on the
//! results, on the pages that each party reaches, and on the content of the pages.
//!
//! The exhaustive search, the random sequences, the scripts and the fuzz targets drive the core through
//! [`Pair::step`].

#![expect(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test harness: a panic fails the test"
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

/// The number of CPUs of a machine under test.
pub const CPUS: usize = 2;

/// The byte that fills the host's pages.
pub const HOST_BYTE: u8 = 0x55;
/// The byte that fills a protected guest's secret pages, unless [`Pair::secret`] differs.
pub const GUEST_BYTE: u8 = 0xaa;
/// The byte that fills the pages that a guest shares with the host.
pub const PUBLIC_BYTE: u8 = 0x11;

/// The memory layout of a machine under test. Ranges are of page numbers.
#[derive(Clone, Debug)]
pub struct Bench {
    /// RAM.
    pub ram: Range<u64>,
    /// The hypervisor's part of RAM. The host's tables are at its start.
    pub reserved: Range<u64>,
    /// Devices that the host must not reach.
    pub denied: Range<u64>,
}

/// The outcome of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The action is complete.
    Done,
    /// Part of the action is complete.
    Again,
    /// The pool has too few pages.
    NoMemory,
    /// The call is refused to the host.
    Refused(Refusal),
    /// The call is refused to a guest.
    GuestRefused(GuestRefusal),
    /// The registers encode no call.
    BadValue,
    /// The guest exits: the host must provide a page or a vCPU, and then the guest retries.
    Exit,
    /// The host's access takes an abort.
    Abort,
    /// The action is impossible in this state, and changes nothing.
    Skipped,
}

/// A difference between the core and its specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence(pub String);

/// Returns a [`Divergence`] unless the condition holds.
macro_rules! agree {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::lockstep::Divergence(std::format!($($message)+)));
        }
    };
}
use agree;

/// A vCPU that is loaded on a CPU.
struct OnCpu<'h, 'm, G: Geometry> {
    loaded: LoadedVcpu<'h, 'm, Fake<G>>,
    /// The vCPU has exited: the host must put it before anything else happens on this CPU.
    exited: bool,
}

/// The core and its specification.
pub struct Pair<'h, 'm, G: Geometry> {
    /// The core.
    pub real: &'h Hypervisor<'m, Fake<G>>,
    /// Its specification.
    pub spec: Spec,
    /// All VM handles that were ever given, oldest first.
    pub vms: Vec<u32>,
    /// All object handles that were ever given, oldest first.
    pub objects: Vec<u32>,
    stage2_ids: BTreeMap<VmHandle, Stage2Id>,
    cpus: [Option<OnCpu<'h, 'm, G>>; CPUS],
    /// For each CPU, the vCPU that it ran last and may resume.
    parked: [Option<LoadedVcpu<'h, 'm, Fake<G>>>; CPUS],
    /// The owner of each page after the last step.
    owners: Vec<Option<SpecOwner>>,
    /// The number of hypercalls and of exits, by VM.
    counts: BTreeMap<VmHandle, (u64, u64)>,
    trng: Trng,
    /// The number of pages that the last call was short of, if it failed with `NoMemory`.
    pub short_of: u64,
    /// The values that the last step returned to the host: the results of a call, or an exit record.
    pub told: Vec<u64>,
    /// The machine's events in the last step, each with its CPU.
    pub events: Vec<(usize, Event)>,
    /// The byte in the memory and registers of protected guests.
    pub secret: u8,
    /// Compares the content of the pages after each step.
    pub checking_content: bool,
    /// Compares the pages that each party reaches after each step.
    pub checking: bool,
}

/// Makes a machine and its specification, and runs `f` on them.
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

    /// Runs an action on the core and on its specification.
    ///
    /// # Errors
    ///
    /// Returns [`Divergence`] if they disagree. Do not use the pair after an error.
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

    /// Returns the register value that an argument stands for.
    fn value(&self, arg: Arg) -> u64 {
        const NOTHING: u32 = u32::MAX;
        match arg {
            Arg::Value(value) => value,
            Arg::Vm(index) => self.vms.get(index).copied().unwrap_or(NOTHING).into(),
            Arg::Object(index) => self.objects.get(index).copied().unwrap_or(NOTHING).into(),
        }
    }

    /// Returns the VM and vCPU that are loaded on a CPU, and whether the vCPU has exited.
    #[must_use]
    pub fn on_cpu(&self, cpu: usize) -> Option<(VmHandle, VcpuIndex, bool)> {
        let on = self.cpus.get(cpu)?.as_ref()?;
        Some((on.loaded.vm(), on.loaded.vcpu(), on.exited))
    }

    /// Returns the pages of a VM's tables.
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

/// Returns the call that enters a vCPU.
#[must_use]
pub const fn vcpu_run(vm: VmHandle, vcpu: VcpuIndex) -> HostCall {
    let entry = Entry { resume: Resume::Continue, list_registers: [ListRegister(0); 4] };
    HostCall::VcpuRun { vm, vcpu, entry }
}

/// The address space of a VM whose pool starts at page `root`, as VTTBR_EL2 holds it.
fn guest_stage2_id(vm: VmHandle, root: u64) -> Stage2Id {
    let place = u8::try_from(vm.0 & 0xff).unwrap_or(u8::MAX);
    Stage2Id { root: Pfn(root).base(), vmid: Vmid(place.wrapping_add(1)) }
}

/// Page numbers in a block at which test sequences start and end.
#[must_use]
pub fn block_pages<G: Geometry>() -> u64 {
    G::span(Level::Two)
}
