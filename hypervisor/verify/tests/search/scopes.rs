//! The small machines that the search explores, and the actions that it tries in every state.
//!
//! A scope is two scripts. The search runs the first one once, and tries each line of the second one in every state.
//! In the second script `vm1` is the newest VM in slot 1, `vm101` the VM before it in that slot, and `vm99` names
//! nothing. `object16` is the newest first object of the VM in slot 1.

use hyp_core::machine::geometry::Geometry;
use hyp_verify::lockstep::Bench;
use hyp_verify::lockstep::action::{Action, Arg, parse};

use super::TinyPair;

/// A machine to search.
pub(super) struct Scope {
    pub(super) name: &'static str,
    /// RAM, as a number of pages from 0 on. The field after it: how many of them are the hypervisor's.
    ram: u64,
    reserved: u64,
    pub(super) prefix: Vec<Action>,
    moves: Vec<Action>,
    /// Long calls stop after a block.
    pub(super) short: bool,
}

impl Scope {
    fn new(name: &'static str, prefix: &str, moves: &str) -> Self {
        Self {
            name,
            ram: 72,
            reserved: 32,
            prefix: parse(prefix).expect("a script"),
            moves: parse(moves).expect("a script"),
            short: false,
        }
    }

    pub(super) const fn bench(&self) -> Bench {
        Bench { ram: 0..self.ram, reserved: 0..self.reserved, denied: 100..101 }
    }

    /// Returns the actions to try in this state.
    pub(super) fn moves<G: Geometry>(&self, pair: &TinyPair<'_, '_, G>) -> Vec<Action> {
        let resolve = |action: &Action| resolve(pair, *action);
        self.moves.iter().map(resolve).collect()
    }
}

/// Replaces slots by handles.
fn resolve<G: Geometry>(pair: &TinyPair<'_, '_, G>, action: Action) -> Action {
    let newest = |known: &[u32], place: usize, skip: usize| {
        let mut there = (0..known.len()).rev().filter(|index| known[*index] & 0xff == place as u32);
        there.nth(skip)
    };
    let nothing = Arg::Value(u32::MAX.into());
    let arg = |arg: Arg| match arg {
        Arg::Vm(place) => newest(&pair.vms, place % 100, place / 100).map_or(nothing, Arg::Vm),
        Arg::Object(place) => newest(&pair.objects, place % 100, place / 100).map_or(nothing, Arg::Object),
        value @ Arg::Value(_) => value,
    };
    match action {
        Action::Host { call, x } => Action::Host { call, x: x.map(arg) },
        Action::Load { cpu, vm, vcpu } => Action::Load { cpu, vm: arg(vm), vcpu },
        other => other,
    }
}

/// A protected guest's memory, a block and two pages: transitions of pages, half blocks, blocks and more, before its
/// start and after it.
const MEMORY: (&str, &str) = (
    "vm-create protected=1 first=32 pages=10
     object-create vm=vm0 pages=6
     object-bind object=object0 offset=0 gfn=32 pages=6
     vcpu-create vm=vm0 index=0",
    "vm-start vm=vm0 entry=0x20000 argument=7
     load cpu=0 vm=vm0 vcpu=0
     put cpu=0
     object-populate object=object0 offset=0 first=44 pages=4 keep=0
     object-populate object=object0 offset=0 first=44 pages=1 keep=1
     object-populate object=object0 offset=1 first=45 pages=1 keep=0
     object-populate object=object0 offset=2 first=46 pages=2 keep=0
     object-populate object=object0 offset=0 first=44 pages=6 keep=0
     object-populate object=object0 offset=4 first=48 pages=1 keep=0
     object-populate object=object0 offset=0 first=48 pages=1 keep=0
     object-reclaim object=object0 offset=0 pages=1
     object-reclaim object=object0 offset=1 pages=4
     object-reclaim object=object0 offset=0 pages=6
     force-reclaim page=45
     force-reclaim page=48
     object-query object=object0 offset=0
     object-query object=object0 offset=3
     vm-counters vm=vm0
     guest cpu=0 share 0x20000 1 0
     guest cpu=0 share 0x20000 4 0
     guest cpu=0 share 0x21000 0 0
     guest cpu=0 share 0x22000 3 0
     guest cpu=0 share 0x20000 512 0
     guest cpu=0 unshare 0x20000 1 0
     guest cpu=0 unshare 0x20000 6 0
     guest cpu=0 unshare 0x21000 2 0
     guest cpu=0 relinquish 0x20000 0 0
     guest cpu=0 relinquish 0x21000 0 0
     guest cpu=0 relinquish 0x24000 0 0
     guest cpu=0 touch 32
     guest cpu=0 touch 36
     guest cpu=0 touch 40
     touch page=44
     touch page=48",
);

/// The life cycle of a VM and its two vCPUs, on two CPUs.
const LIFE: (&str, &str) = (
    "",
    "vm-create protected=1 first=32 pages=6
     vm-top-up vm=vm0 first=38 pages=1
     vcpu-create vm=vm0 index=0
     vcpu-create vm=vm0 index=1
     vm-start vm=vm0 entry=0x20000 argument=7
     vm-destroy vm=vm0
     vm-destroy vm=vm100
     vm-counters vm=vm0
     load cpu=0 vm=vm0 vcpu=0
     load cpu=0 vm=vm0 vcpu=1
     load cpu=1 vm=vm0 vcpu=0
     load cpu=1 vm=vm0 vcpu=1
     load cpu=1 vm=vm0 vcpu=2
     load cpu=0 vm=vm100 vcpu=0
     put cpu=0
     put cpu=1
     guest cpu=0 cpu-on 0
     guest cpu=0 cpu-on 1
     guest cpu=0 cpu-on 2
     guest cpu=0 cpu-off
     guest cpu=0 system-off
     guest cpu=1 cpu-on 0
     guest cpu=1 cpu-on 1
     guest cpu=1 cpu-off
     guest cpu=1 system-off",
);

/// Two protected VMs and an ordinary one that get the same two pages.
const PARTIES: (&str, &str) = (
    "vm-create protected=1 first=32 pages=8
     vm-create protected=0 first=40 pages=8
     vm-create protected=1 first=48 pages=8
     object-create vm=vm0 pages=2
     object-create vm=vm1 pages=2
     object-create vm=vm2 pages=2
     object-bind object=object0 offset=0 gfn=32 pages=2
     object-bind object=object1 offset=0 gfn=32 pages=2
     object-bind object=object2 offset=0 gfn=16 pages=2
     vcpu-create vm=vm0 index=0
     vcpu-create vm=vm1 index=0
     vcpu-create vm=vm2 index=0
     vm-start vm=vm0 entry=0x20000 argument=7
     vm-start vm=vm1 entry=0x20000 argument=7
     vm-start vm=vm2 entry=0x10000 argument=7",
    "object-populate object=object0 offset=0 first=64 pages=1 keep=0
     object-populate object=object0 offset=1 first=65 pages=1 keep=0
     object-populate object=object0 offset=0 first=64 pages=2 keep=0
     object-populate object=object16 offset=0 first=64 pages=1 keep=0
     object-populate object=object16 offset=0 first=65 pages=1 keep=0
     object-populate object=object32 offset=0 first=64 pages=2 keep=0
     object-populate object=object32 offset=1 first=64 pages=1 keep=0
     object-reclaim object=object0 offset=0 pages=2
     object-reclaim object=object16 offset=0 pages=1
     object-reclaim object=object32 offset=1 pages=1
     force-reclaim page=64
     force-reclaim page=65
     load cpu=0 vm=vm0 vcpu=0
     load cpu=0 vm=vm1 vcpu=0
     load cpu=1 vm=vm2 vcpu=0
     put cpu=0
     put cpu=1
     guest cpu=0 share 0x20000 2 0
     guest cpu=0 unshare 0x20000 2 0
     guest cpu=0 relinquish 0x20000 0 0
     guest cpu=0 touch 32
     guest cpu=1 share 0x10000 1 0
     guest cpu=1 share 0x11000 1 0
     guest cpu=1 unshare 0x10000 2 0
     guest cpu=1 relinquish 0x11000 0 0
     guest cpu=1 touch 17
     vm-destroy vm=vm0
     vm-destroy vm=vm1
     vm-destroy vm=vm2
     vm-create protected=1 first=64 pages=3
     vm-create protected=0 first=32 pages=8
     touch page=64",
);

/// Three VMs are made and destroyed.
const VMS: (&str, &str) = (
    "",
    "vm-create protected=1 first=32 pages=4
     vm-create protected=0 first=36 pages=4
     vm-create protected=1 first=40 pages=4
     vcpu-create vm=vm0 index=0
     vcpu-create vm=vm1 index=0
     vcpu-create vm=vm2 index=0
     vm-start vm=vm0 entry=0x20000 argument=7
     vm-start vm=vm1 entry=0x20000 argument=7
     vm-start vm=vm2 entry=0x20000 argument=7
     load cpu=0 vm=vm0 vcpu=0
     load cpu=0 vm=vm1 vcpu=0
     load cpu=1 vm=vm1 vcpu=0
     load cpu=1 vm=vm2 vcpu=0
     put cpu=0
     put cpu=1
     guest cpu=0 system-off
     guest cpu=1 cpu-off
     vm-destroy vm=vm0
     vm-destroy vm=vm1
     vm-destroy vm=vm2
     vm-destroy vm=vm101
     vm-top-up vm=vm102 first=44 pages=1",
);

/// A VM is built from a pool with too few pages.
const BUILD: (&str, &str) = (
    "vm-create protected=1 first=32 pages=3",
    "vm-top-up vm=vm0 first=36 pages=1
     vm-top-up vm=vm0 first=37 pages=1
     vm-top-up vm=vm0 first=40 pages=4
     object-create vm=vm0 pages=5
     object-create vm=vm0 pages=1
     object-bind object=object0 offset=0 gfn=32 pages=5
     object-bind object=object0 offset=0 gfn=30 pages=2
     object-bind object=object0 offset=2 gfn=64 pages=3
     object-bind object=object1 offset=0 gfn=32 pages=1
     object-unbind object=object0 offset=0 pages=5
     object-unbind object=object0 offset=0 pages=2
     object-unbind object=object1 offset=0 pages=1
     object-populate object=object0 offset=0 first=48 pages=4 keep=1
     object-populate object=object0 offset=3 first=51 pages=1 keep=0
     object-reclaim object=object0 offset=0 pages=4
     object-reclaim object=object0 offset=1 pages=1
     force-reclaim page=49
     object-destroy object=object0
     object-destroy object=object1
     object-query object=object0 offset=1
     object-query object=object100 offset=0
     object-populate object=object100 offset=1 first=48 pages=1 keep=0
     vcpu-create vm=vm0 index=0
     vm-start vm=vm0 entry=0x20000 argument=7",
);

/// A VM is destroyed, a block's worth of work at a time. All other calls meet a dying VM.
const DYING: (&str, &str) = (
    "vm-create protected=1 first=32 pages=10
     object-create vm=vm0 pages=7
     object-bind object=object0 offset=0 gfn=32 pages=7
     vcpu-create vm=vm0 index=0
     object-populate object=object0 offset=0 first=44 pages=4 keep=0
     object-populate object=object0 offset=4 first=48 pages=2 keep=0
     vm-start vm=vm0 entry=0x20000 argument=7",
    "vm-destroy vm=vm0
     load cpu=0 vm=vm0 vcpu=0
     put cpu=0
     guest cpu=0 share 0x20000 512 0
     guest cpu=0 share 0x21000 1 0
     guest cpu=0 unshare 0x20000 6 0
     vm-top-up vm=vm0 first=56 pages=1
     object-create vm=vm0 pages=1
     object-bind object=object0 offset=0 gfn=50 pages=1
     object-unbind object=object0 offset=0 pages=7
     object-populate object=object0 offset=0 first=56 pages=6 keep=0
     object-populate object=object0 offset=5 first=57 pages=1 keep=0
     object-populate object=object0 offset=6 first=58 pages=1 keep=0
     object-reclaim object=object0 offset=0 pages=6
     object-reclaim object=object0 offset=1 pages=1
     object-query object=object0 offset=0
     object-destroy object=object0
     vcpu-create vm=vm0 index=1
     vm-start vm=vm0 entry=0 argument=0
     vm-counters vm=vm0
     force-reclaim page=44
     force-reclaim page=49
     touch page=44
     touch page=49
     vm-create protected=0 first=56 pages=4
     vm-destroy vm=vm1",
);

/// Invalid values, in a few states of a started VM and of an ordinary one.
const NONSENSE: (&str, &str) = (
    "vm-create protected=1 first=32 pages=12
     vm-create protected=0 first=44 pages=8
     object-create vm=vm0 pages=6
     object-create vm=vm1 pages=2
     object-bind object=object0 offset=0 gfn=32 pages=5
     object-bind object=object1 offset=0 gfn=32 pages=2
     vcpu-create vm=vm0 index=0
     vcpu-create vm=vm1 index=0
     object-populate object=object0 offset=0 first=56 pages=2 keep=1
     object-populate object=object1 offset=0 first=60 pages=1 keep=1",
    "version
     vm-create protected=2 first=64 pages=4
     vm-create protected=1 first=64 pages=2
     vm-create protected=1 first=64 pages=0xffffffffffffffff
     vm-create protected=1 first=0xffffffffffff0 pages=17
     vm-create protected=1 first=65 pages=4
     vm-create protected=1 first=70 pages=4
     vm-create protected=1 first=30 pages=4
     vm-create protected=1 first=56 pages=4
     vm-top-up vm=vm0 first=64 pages=0
     vm-top-up vm=vm0 first=0xfffffffffffff pages=1
     vm-top-up vm=vm0 first=0xfffffffffffff pages=2
     vm-top-up vm=vm0 first=71 pages=2
     vm-top-up vm=vm0 first=0 pages=1
     vm-top-up vm=vm0 first=60 pages=1
     vm-top-up vm=vm99 first=64 pages=1
     vm-top-up vm=0x100000000 first=64 pages=1
     object-create vm=vm0 pages=0
     object-create vm=vm0 pages=257
     object-create vm=vm0 pages=0xffffffffffffffff
     object-create vm=vm99 pages=1
     object-bind object=object99 offset=0 gfn=0 pages=1
     object-bind object=object0 offset=0 gfn=128 pages=1
     object-bind object=object0 offset=0 gfn=127 pages=2
     object-bind object=object0 offset=0 gfn=0xffffffffffffffff pages=1
     object-bind object=object0 offset=5 gfn=0 pages=2
     object-bind object=object0 offset=0xffffffffffffffff gfn=0 pages=1
     object-bind object=object0 offset=0 gfn=0 pages=0
     object-bind object=object0 offset=5 gfn=36 pages=1
     object-bind object=object0 offset=4 gfn=0 pages=2
     object-unbind object=object99 offset=0 pages=1
     object-unbind object=object0 offset=0 pages=7
     object-unbind object=object0 offset=0 pages=4
     object-unbind object=object0 offset=0 pages=5
     object-populate object=object99 offset=0 first=64 pages=1 keep=0
     object-populate object=object0 offset=2 first=64 pages=0 keep=0
     object-populate object=object0 offset=2 first=0xffffffffffffffff pages=1 keep=0
     object-populate object=object0 offset=2 first=64 pages=1 keep=2
     object-populate object=object0 offset=2 first=64 pages=5 keep=0
     object-populate object=object0 offset=4 first=64 pages=2 keep=0
     object-populate object=object0 offset=1 first=64 pages=2 keep=0
     object-populate object=object0 offset=2 first=71 pages=2 keep=0
     object-populate object=object0 offset=2 first=90 pages=2 keep=0
     object-populate object=object0 offset=2 first=100 pages=1 keep=0
     object-populate object=object0 offset=2 first=31 pages=2 keep=0
     object-populate object=object0 offset=2 first=60 pages=1 keep=0
     object-populate object=object16 offset=1 first=56 pages=1 keep=0
     object-populate object=object16 offset=1 first=60 pages=1 keep=0
     object-populate object=object0 offset=2 first=64 pages=1 keep=1
     object-reclaim object=object99 offset=0 pages=1
     object-reclaim object=object0 offset=6 pages=1
     object-reclaim object=object0 offset=0 pages=0
     object-reclaim object=object0 offset=1 pages=0xffffffffffffffff
     object-query object=object99 offset=0
     object-query object=object0 offset=6
     object-destroy object=object99
     object-destroy object=object0
     object-destroy object=object16
     vcpu-create vm=vm99 index=0
     vcpu-create vm=vm0 index=0
     vcpu-create vm=vm0 index=0xffffffff
     vm-start vm=vm99 entry=0 argument=0
     vm-start vm=vm0 entry=0x20000 argument=0
     vm-start vm=vm1 entry=0x20000 argument=0
     vm-destroy vm=vm99
     force-reclaim page=0xffffffffffffffff
     force-reclaim page=0xfffffffffffff
     force-reclaim page=100
     force-reclaim page=0
     force-reclaim page=32
     force-reclaim page=64
     force-reclaim page=60
     vm-counters vm=vm99
     load cpu=0 vm=vm99 vcpu=0
     load cpu=0 vm=vm0 vcpu=1
     load cpu=0 vm=vm0 vcpu=0
     load cpu=1 vm=vm1 vcpu=0
     load cpu=1 vm=vm0 vcpu=0
     put cpu=0
     guest cpu=0 share 0x20000 1 1
     guest cpu=0 share 0x20001 1 0
     guest cpu=0 share 0x7f000 2 0
     guest cpu=0 share 0xfffffffffffff000 1 0
     guest cpu=0 share 0x20000 0xffffffffffffffff 0
     guest cpu=0 share 0x25000 1 0
     guest cpu=0 share 0x20000 1 0
     guest cpu=0 unshare 0x20000 1 1
     guest cpu=0 unshare 0x20001 1 0
     guest cpu=0 unshare 0x80000 1 0
     guest cpu=0 unshare 0x25000 1 0
     guest cpu=0 unshare 0x22000 1 0
     guest cpu=0 relinquish 0x20000 1 0
     guest cpu=0 relinquish 0x20000 0 1
     guest cpu=0 relinquish 0x20001 0 0
     guest cpu=0 relinquish 0x80000 0 0
     guest cpu=0 relinquish 0x25000 0 0
     guest cpu=0 relinquish 0x22000 0 0
     guest cpu=0 relinquish 0x20000 0 0
     guest cpu=1 share 0x20000 1 0
     guest cpu=1 unshare 0x20000 1 0
     guest cpu=1 relinquish 0x20000 0 0
     touch page=0
     touch page=32
     touch page=56
     touch page=90
     touch page=100
     touch page=128",
);

/// A machine whose tables of VMs, objects, bindings and vCPUs are full.
fn full() -> Scope {
    let mut prefix = String::from("vm-create protected=1 first=48 pages=16\n");
    for place in 1..16 {
        let first = 60 + 4 * place;
        prefix += &format!("vm-create protected=0 first={first} pages=3\n");
        prefix += &format!("vm-top-up vm=vm0 first={} pages=1\n", first + 3);
    }
    prefix += "object-create vm=vm0 pages=16\n".repeat(4).as_str();
    for binding in 0..8 {
        prefix += &format!("object-bind object=object0 offset={binding} gfn={binding} pages=1\n");
    }
    for vcpu in 0..16 {
        prefix += &format!("vcpu-create vm=vm0 index={vcpu}\n");
    }
    // Some calls break two rules, to check which one is reported.
    let moves = "vm-create protected=1 first=124 pages=3
        vm-create protected=1 first=125 pages=3
        vm-create protected=1 first=48 pages=4
        object-create vm=vm0 pages=1
        object-bind object=object0 offset=8 gfn=8 pages=1
        object-bind object=object0 offset=0 gfn=20 pages=1
        object-bind object=object1 offset=0 gfn=9 pages=1
        object-unbind object=object0 offset=7 pages=1
        object-destroy object=object3
        vcpu-create vm=vm0 index=16
        vcpu-create vm=vm0 index=3
        vm-destroy vm=vm15
        vm-start vm=vm0 entry=0x20000 argument=7";
    Scope { ram: 128, reserved: 48, ..Scope::new("full", &prefix, moves) }
}

/// All scopes.
pub(super) fn all() -> Vec<Scope> {
    let mut scopes: Vec<Scope> = [
        ("memory", MEMORY),
        ("life", LIFE),
        ("parties", PARTIES),
        ("vms", VMS),
        ("build", BUILD),
        ("dying", DYING),
        ("nonsense", NONSENSE),
    ]
    .into_iter()
    .map(|(name, (prefix, moves))| Scope::new(name, prefix, moves))
    .collect();
    scopes.iter_mut().for_each(|scope| scope.short = scope.name == "dying");
    scopes.push(full());
    scopes
}
