//! Target: all that a host can ask of the hypervisor, with guests that act on two CPUs in between. It runs the real
//! core beside its specification.
//!
//! Calls are made from registers, as at EL2. After each step, core and specification agree on the results, on the
//! access of every party to every page, on the TLBs, and on the content of the pages ([`Pair::step`]). At the end
//! every VM can be destroyed, and the host has all its memory back. A failure is printed as a script that the tests
//! of `hyp-verify` can replay.

use std::ops::Range;

use hyp_verify::lockstep::action::{Action, Arg, CALLS, GuestStep};
use hyp_verify::lockstep::{Bench, Pair, Verdict, with_pair};
use hyp_verify::spec::HostReach;

use crate::board::{DENIED, GUEST_FIRST, GUEST_PAGES, POOL_PAGES, RAM, RESERVED, Tiny};
use crate::input::Input;

/// Runs the target on an input: steps.
pub fn run(data: &[u8]) {
    /// The limit of steps, because each step checks every page of every VM.
    const MAX_STEPS: usize = 200;
    let range = |(first, pages): (u64, u64)| first..first + pages;
    let bench = Bench { ram: range(RAM), reserved: range(RESERVED), denied: range(DENIED) };
    with_pair(&bench, |pair| {
        let mut play = Play { pair, script: Vec::new() };
        let mut input = Input::new(data);
        while !input.is_empty() && play.script.len() < MAX_STEPS {
            play.choose(&mut input);
        }
        play.finish(&bench.ram, &bench.reserved);
    });
}

/// A run, and its actions so far.
struct Play<'p, 'h, 'm> {
    pair: &'p mut Pair<'h, 'm, Tiny>,
    script: Vec<Action>,
}

impl Play<'_, '_, '_> {
    fn take(&mut self, action: Action) -> Verdict {
        self.script.push(action);
        self.pair.step(&action).unwrap_or_else(|divergence| {
            let lines = self.script.iter().map(|action| format!("{action}\n"));
            panic!("{}\n{}", divergence.0, lines.collect::<String>())
        })
    }

    fn call(&mut self, name: &str, x: [Arg; 5]) -> Verdict {
        let call = CALLS.iter().position(|(known, _)| *known == name);
        let call = call.expect("a call of that name");
        self.take(Action::Host { call, x })
    }

    fn choose(&mut self, input: &mut Input<'_>) {
        match input.u8() % 8 {
            // Every handle that was ever given stays in use: a stale one must name nothing.
            kind @ 0..=2 => {
                let call = usize::from(input.u8() % 20);
                let first = match kind {
                    0 => Arg::Value(input.number()),
                    1 => Arg::Vm(newest(self.pair.vms.len(), input)),
                    _ => Arg::Object(newest(self.pair.objects.len(), input)),
                };
                let mut x = [first; 5];
                for arg in x.iter_mut().skip(1) {
                    *arg = Arg::Value(input.number());
                }
                self.take(Action::Host { call, x });
            }
            3 => self.ready(input),
            4 => {
                let (cpu, kind) = (usize::from(input.u8() % 2), input.u8() % 8);
                let page = match input.number() {
                    near @ 0..0x40 => GUEST_FIRST + near,
                    far => far,
                };
                let mut x = |ipa| [ipa, input.number(), u64::from(input.u8() / 0xf0)];
                let call = match kind {
                    0 => GuestStep::Share(x(page.wrapping_shl(12))),
                    1 => GuestStep::Unshare(x(page.wrapping_shl(12))),
                    2 => GuestStep::Relinquish(x(page.wrapping_shl(12))),
                    3 => GuestStep::Share(x(page)),
                    4 => GuestStep::CpuOn(u32::from(input.u8() % 4)),
                    5 => GuestStep::CpuOff,
                    6 => GuestStep::SystemOff,
                    _ => GuestStep::Touch(page),
                };
                self.take(Action::Guest { cpu, call });
            }
            5 => {
                let page = input.number();
                self.take(Action::Touch { page });
            }
            6 => {
                let cpu = usize::from(input.u8() % 2);
                let vm = Arg::Vm(newest(self.pair.vms.len(), input));
                let vcpu = u32::from(input.u8() % 3);
                self.take(Action::Load { cpu, vm, vcpu });
            }
            _ => {
                let cpu = usize::from(input.u8() % 2);
                self.take(Action::Put { cpu });
            }
        }
    }

    /// Makes and starts a VM, and loads it on a CPU: memory bound, a run of pages present, two vCPUs.
    fn ready(&mut self, input: &mut Input<'_>) {
        let (flags, first, run) = (input.u8(), input.u8(), input.u8());
        let first = RESERVED.0 + RESERVED.1 + u64::from(first % 64);
        let (vm, object) = (Arg::Vm(self.pair.vms.len()), Arg::Object(self.pair.objects.len()));
        let [protected, keep] = [1, 2].map(|bit| u64::from(flags & bit != 0));
        let memory = (first + POOL_PAGES).next_multiple_of(4);
        let mut call = |name, first: Arg, rest: [u64; 4]| {
            let [a, b, c, d] = rest.map(Arg::Value);
            self.call(name, [first, a, b, c, d])
        };
        if call("vm-create", Arg::Value(protected), [first, POOL_PAGES, 0, 0]) != Verdict::Done {
            return;
        }
        call("object-create", vm, [GUEST_PAGES, 0, 0, 0]);
        call("object-bind", object, [0, GUEST_FIRST, GUEST_PAGES, 0]);
        call("object-populate", object, [0, memory, (run % 17).into(), keep]);
        call("vcpu-create", vm, [0; 4]);
        call("vcpu-create", vm, [1, 0, 0, 0]);
        call("vm-start", vm, [GUEST_FIRST << 12, 0, 0, 0]);
        let cpu = usize::from(flags >> 2 & 1);
        self.take(Action::Put { cpu });
        self.take(Action::Load { cpu, vm, vcpu: 0 });
    }

    /// Destroys every VM. After that the host must have all the memory that it had at the start.
    fn finish(&mut self, ram: &Range<u64>, reserved: &Range<u64>) {
        for cpu in 0..2 {
            self.take(Action::Put { cpu });
        }
        for vm in 0..self.pair.vms.len() {
            let destroy = |play: &mut Self| {
                let rest = [Arg::Value(0); 4];
                let [a, b, c, d] = rest;
                play.call("vm-destroy", [Arg::Vm(vm), a, b, c, d])
            };
            while destroy(self) == Verdict::Again {}
        }
        for page in ram.clone() {
            let expected = if reserved.contains(&page) { HostReach::No } else { HostReach::Yes };
            assert_eq!(self.pair.spec.host_reach(page), expected, "page {page}");
        }
    }
}

/// Reads an index below `count`, counted from the newest one. Sometimes it is out of range.
fn newest(count: usize, input: &mut Input<'_>) -> usize {
    count.wrapping_sub(1 + usize::from(input.u8() & 0x1f))
}

/// The bytes of a seed's steps.
#[derive(Default)]
struct Steps(Vec<u8>);

impl Steps {
    fn step(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// Makes and starts a VM whose pool starts at the host's page `first`, and loads it on CPU 0.
    fn ready(self, protected: bool, first: u8, run: u8) -> Self {
        self.step(&[3, 2 | u8::from(protected), first, run])
    }

    /// A call on the newest VM.
    fn vm(self, function: u8, x: [u8; 4]) -> Self {
        self.step(&[1, function, 0]).step(&x)
    }

    /// A call on the newest object.
    fn object(self, function: u8, x: [u8; 4]) -> Self {
        self.step(&[2, function, 0]).step(&x)
    }

    /// A call of the guest on CPU 0: its kind, its first page, and its number of pages.
    fn guest(self, kind: u8, page: u8, pages: u8) -> Self {
        self.step(&[4, 0, kind, page, pages, 0])
    }
}

/// All seeds.
#[must_use]
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    const SHARE: u8 = 0;
    const UNSHARE: u8 = 1;
    const RELINQUISH: u8 = 2;
    const PUT: [u8; 2] = [7, 0];
    let new = Steps::default;
    let ready = || new().ready(true, 0, 4);
    vec![
        ("version", new().step(&[0; 7]).0),
        ("create", new().step(&[0, 1, 1, 54, 12, 0, 0]).0),
        (
            "by-hand",
            new()
                .step(&[0, 1, 1, 54, 12, 0, 0])
                .vm(3, [16, 0, 0, 0])
                .object(4, [0, 32, 16, 0])
                .object(6, [0, 68, 16, 1])
                .vm(10, [0, 0, 0, 0])
                .vm(11, [0, 0, 0, 0])
                .step(&[6, 0, 0, 0])
                .vm(13, [0; 4])
                .step(&PUT)
                .vm(13, [0; 4])
                .0,
        ),
        ("share", ready().guest(SHARE, 0, 1).guest(UNSHARE, 0, 1).0),
        ("share-range", ready().guest(SHARE, 0, 4).guest(UNSHARE, 1, 9).0),
        ("share-absent", ready().guest(SHARE, 5, 1).step(&PUT).0),
        ("unaligned", ready().guest(3, 1, 1).0),
        ("share-block", new().ready(true, 0, 8).guest(SHARE, 4, 4).object(7, [4, 4, 0, 0]).0),
        (
            "relinquish",
            ready()
                .guest(RELINQUISH, 1, 0)
                .step(&PUT)
                .step(&[6, 0, 0, 0])
                .step(&[4, 0, 7, 1])
                .object(6, [1, 100, 1, 0])
                .0,
        ),
        ("object-reclaim", ready().object(7, [0, 2, 0, 0]).object(8, [0; 4]).0),
        ("reclaim", ready().step(&[0, 14, 68, 0, 0, 0, 0]).step(&[4, 0, 7, 0]).0),
        (
            "two",
            new()
                .ready(true, 0, 4)
                .step(&[3, 7, 20, 4])
                .guest(SHARE, 0, 4)
                .step(&[4, 1, SHARE, 1, 2, 0])
                .step(&PUT)
                .step(&[1, 13, 1, 0, 0, 0, 0])
                .0,
        ),
        ("ordinary", new().ready(false, 0, 8).object(7, [0, 3, 0, 0]).guest(SHARE, 4, 1).0),
        ("top-up", ready().vm(2, [80, 3, 0, 0]).vm(15, [0; 4]).0),
        ("touch", ready().step(&[5, 68, 5, 3, 5, 1]).0),
        (
            "power",
            ready()
                .step(&[4, 0, 4, 0, 1])
                .step(&PUT)
                .step(&[6, 1, 0, 1])
                .step(&[4, 1, 5, 0])
                .step(&[6, 0, 0, 0])
                .step(&[4, 0, 6, 0])
                .0,
        ),
    ]
}
