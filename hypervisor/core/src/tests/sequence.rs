//! Random calls of the host and of guests, each held against the specification in [`super::model`]: the
//! answer, and then for every page and every party what tables and TLBs let it reach.

use std::env;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use proptest::sample::Index;
use shared_abi::addr::{Gfn, PageRange, Pfn};
use shared_abi::error::CallError;
use shared_abi::host_call::{Content, HostCall, ObjectHandle, PageState, VcpuIndex, VmHandle};

use super::bench_machine::*;
use super::model::{GuestAnswer, GuestCall, Model, Own, PAGES};
use crate::fake::Fake;
use crate::hypervisor::{CpuIndex, HostAbort, HostAccess};
use crate::loaded::{GuestPage, Loaded, ShareError};
use crate::machine::Space;

/// What the host has in its pages, and the guests in theirs.
const HOST_BYTE: u8 = 0x55;
const GUEST_BYTE: u8 = 0xaa;

/// A step, whose VMs, objects and pages are picked when it is taken, among those that there are.
#[derive(Clone, Debug)]
enum Step {
    Create {
        protected: bool,
        first: u64,
        pages: u64,
    },
    TopUp {
        vm: Index,
        first: u64,
        pages: u64,
    },
    ObjectCreate {
        vm: Index,
        pages: u64,
    },
    Bind {
        object: Index,
        offset: u64,
        gfn: u64,
        pages: u64,
    },
    Unbind {
        object: Index,
        offset: u64,
        pages: u64,
    },
    Populate {
        object: Index,
        offset: u64,
        first: u64,
        pages: u64,
        keep: bool,
    },
    Punch {
        object: Index,
        offset: u64,
        pages: u64,
    },
    Query {
        object: Index,
        offset: u64,
    },
    ObjectDestroy {
        object: Index,
    },
    Vcpu {
        vm: Index,
        index: u32,
    },
    Start {
        vm: Index,
    },
    Destroy {
        vm: Index,
    },
    Reclaim {
        page: u64,
    },
    Touch {
        page: u64,
    },
    Share {
        vm: Index,
        gfn: u64,
    },
    Unshare {
        vm: Index,
        gfn: u64,
    },
    Stop {
        vm: Index,
    },
    /// A well-formed VM with memory, so that sequences get somewhere.
    Ready {
        protected: bool,
        first: u64,
        run: u64,
    },
}

/// Lengths: mostly short, often a block or a giant, now and then nonsense.
fn length() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1..6_u64, 3 => Just(4), 2 => Just(16), 1 => Just(0), 1 => Just(u64::MAX)]
}

fn page() -> impl Strategy<Value = u64> {
    prop_oneof![8 => HOST_FIRST..PAGES, 1 => 0..PAGES, 1 => any::<u64>()]
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..20_u64, 3 => (0..4_u64).prop_map(|block| 4 * block), 1 => any::<u64>()]
}

fn gfn() -> impl Strategy<Value = u64> {
    prop_oneof![6 => GUEST_FIRST..GUEST_FIRST + 20, 2 => 0..PAGES, 1 => any::<u64>()]
}

fn step() -> impl Strategy<Value = Step> {
    let it = any::<Index>;
    prop_oneof![
        1 => (any::<bool>(), page(), 3..12_u64)
            .prop_map(|(protected, first, pages)| Step::Create { protected, first, pages }),
        1 => (it(), page(), length())
            .prop_map(|(vm, first, pages)| Step::TopUp { vm, first, pages }),
        1 => (it(), length()).prop_map(|(vm, pages)| Step::ObjectCreate { vm, pages }),
        1 => (it(), offset(), gfn(), length())
            .prop_map(|(object, offset, gfn, pages)| Step::Bind { object, offset, gfn, pages }),
        1 => (it(), offset(), length())
            .prop_map(|(object, offset, pages)| Step::Unbind { object, offset, pages }),
        8 => (it(), offset(), page(), length(), any::<bool>()).prop_map(
            |(object, offset, first, pages, keep)| Step::Populate { object, offset, first, pages, keep }
        ),
        4 => (it(), offset(), length())
            .prop_map(|(object, offset, pages)| Step::Punch { object, offset, pages }),
        1 => (it(), offset()).prop_map(|(object, offset)| Step::Query { object, offset }),
        1 => it().prop_map(|object| Step::ObjectDestroy { object }),
        1 => (it(), 0..3_u32).prop_map(|(vm, index)| Step::Vcpu { vm, index }),
        1 => it().prop_map(|vm| Step::Start { vm }),
        1 => it().prop_map(|vm| Step::Destroy { vm }),
        2 => page().prop_map(|page| Step::Reclaim { page }),
        1 => page().prop_map(|page| Step::Touch { page }),
        6 => (it(), gfn()).prop_map(|(vm, gfn)| Step::Share { vm, gfn }),
        4 => (it(), gfn()).prop_map(|(vm, gfn)| Step::Unshare { vm, gfn }),
        1 => it().prop_map(|vm| Step::Stop { vm }),
        2 => (any::<bool>(), 27..50_u64, 1..17_u64)
            .prop_map(|(protected, first, run)| Step::Ready { protected, first: 2 * first, run }),
    ]
}

/// The core and its specification, side by side.
struct Pair {
    real: TinyHypervisor,
    model: Model,
    vms: Vec<VmHandle>,
    objects: Vec<ObjectHandle>,
}

impl Pair {
    fn new() -> Self {
        let real = tiny();
        let model = Model::new();
        for page in 0..PAGES {
            if model.owners[page as usize] == Own::Host {
                real.machine().fill(Pfn(page), HOST_BYTE);
            }
        }
        Self {
            real,
            model,
            vms: [VmHandle(0), VmHandle(u32::MAX)].into(),
            objects: [ObjectHandle(0), ObjectHandle(u32::MAX)].into(),
        }
    }

    /// Takes a step. Handles that were ever given out are used for ever: stale ones must name nothing.
    fn take(&mut self, step: &Step) {
        let vm = |index: &Index| *index.get(&self.vms);
        let object = |index: &Index| *index.get(&self.objects);
        let call = match step {
            Step::Create {
                protected,
                first,
                pages,
            } => HostCall::VmCreate {
                protected: *protected,
                first: Pfn(*first),
                pages: *pages,
            },
            Step::TopUp {
                vm: index,
                first,
                pages,
            } => HostCall::VmTopUp {
                vm: vm(index),
                first: Pfn(*first),
                pages: *pages,
            },
            Step::ObjectCreate { vm: index, pages } => HostCall::ObjectCreate {
                vm: vm(index),
                pages: *pages,
            },
            Step::Bind {
                object: index,
                offset,
                gfn,
                pages,
            } => HostCall::ObjectBind {
                object: object(index),
                offset: *offset,
                gfn: Gfn(*gfn),
                pages: *pages,
            },
            Step::Unbind {
                object: index,
                offset,
                pages,
            } => HostCall::ObjectUnbind {
                object: object(index),
                offset: *offset,
                pages: *pages,
            },
            Step::Populate {
                object: index,
                offset,
                first,
                pages,
                keep,
            } => HostCall::ObjectPopulate {
                object: object(index),
                offset: *offset,
                first: Pfn(*first),
                pages: *pages,
                content: if *keep { Content::Keep } else { Content::Zero },
            },
            Step::Punch {
                object: index,
                offset,
                pages,
            } => HostCall::ObjectPunch {
                object: object(index),
                offset: *offset,
                pages: *pages,
            },
            Step::Query {
                object: index,
                offset,
            } => HostCall::ObjectQuery {
                object: object(index),
                offset: *offset,
            },
            Step::ObjectDestroy { object: index } => HostCall::ObjectDestroy {
                object: object(index),
            },
            Step::Vcpu {
                vm: index,
                index: vcpu,
            } => HostCall::VcpuCreate {
                vm: vm(index),
                index: VcpuIndex(*vcpu),
            },
            Step::Start { vm: index } => HostCall::VmStart {
                vm: vm(index),
                entry: Gfn(GUEST_FIRST).base(),
                argument: 0,
            },
            Step::Destroy { vm: index } => HostCall::VmDestroy { vm: vm(index) },
            Step::Reclaim { page } => HostCall::ForceReclaim { page: Pfn(*page) },
            Step::Touch { page } => return self.touch(*page),
            Step::Share { vm: index, gfn } => {
                return self.guest(vm(index), GuestCall::Share(*gfn));
            }
            Step::Unshare { vm: index, gfn } => {
                return self.guest(vm(index), GuestCall::Unshare(*gfn));
            }
            Step::Stop { vm: index } => return self.guest(vm(index), GuestCall::Stop),
            Step::Ready {
                protected,
                first,
                run,
            } => return self.ready(*protected, *first, *run),
        };
        self.call(&call);
    }

    /// A VM with a pool of 12 pages, and a run of pages behind that populated and started.
    fn ready(&mut self, protected: bool, first: u64, run: u64) {
        self.call(&HostCall::VmCreate {
            protected,
            first: Pfn(first),
            pages: 12,
        });
        let vm = *self.vms.last().unwrap();
        self.call(&HostCall::ObjectCreate { vm, pages: 17 });
        let object = *self.objects.last().unwrap();
        self.call(&HostCall::ObjectBind {
            object,
            offset: 0,
            gfn: Gfn(GUEST_FIRST),
            pages: 17,
        });
        self.call(&HostCall::ObjectPopulate {
            object,
            offset: 0,
            first: Pfn((first + 12).next_multiple_of(4)),
            pages: run,
            content: Content::Keep,
        });
        self.call(&HostCall::VcpuCreate {
            vm,
            index: VcpuIndex(0),
        });
        self.call(&HostCall::VmStart {
            vm,
            entry: Gfn(GUEST_FIRST).base(),
            argument: 0,
        });
    }

    fn call(&mut self, call: &HostCall) {
        let expected = self.model.check(call);
        if let (HostCall::VmDestroy { vm }, Ok(())) = (call, expected) {
            // Its tables are about to be taken apart: nobody walks them any more.
            self.real.machine().unwatch(self.space_of(*vm));
        }
        let before = self.model.owners.clone();
        match (self.real.host_call(call), expected) {
            (Ok(x), Ok(())) => {
                self.model.commit(call, x[0]);
                self.note(call, x);
            }
            // What pages a pool has left is nobody's business outside.
            (Err(failure), Ok(())) if failure.error == CallError::NoMemory => {
                assert!(failure.value > 0, "{call:?}");
            }
            (Err(failure), Ok(())) if failure.error == CallError::Again => {
                assert!(matches!(call, HostCall::ObjectPunch { .. }), "{call:?}");
                self.model.commit(call, failure.value);
            }
            (Err(failure), Err(error)) => {
                // Both refuse; the pool may be found short before the host's page is looked at.
                let short = failure.error == CallError::NoMemory;
                assert!(
                    short || failure.error == error,
                    "{call:?}: {failure:?}, {error:?}"
                );
            }
            (real, expected) => panic!("{call:?}: {real:?}, expected {expected:?}"),
        }
        self.check_content(call, &before);
        self.check_reach();
    }

    /// Keeps what a call made, and checks what it answered.
    fn note(&mut self, call: &HostCall, x: [u64; 5]) {
        match *call {
            HostCall::VmCreate { .. } => {
                let vm = VmHandle(x[0].try_into().unwrap());
                assert!(!self.vms.contains(&vm), "a handle came back");
                self.vms.push(vm);
                self.real.machine().watch(self.space_of(vm));
            }
            HostCall::ObjectCreate { .. } => {
                let object = ObjectHandle(x[0].try_into().unwrap());
                assert!(!self.objects.contains(&object), "a handle came back");
                self.objects.push(object);
            }
            HostCall::ObjectQuery { object, offset } => {
                let state = PageState::from_code(x[0]).unwrap();
                assert!(x[1] > 0);
                for offset in offset..offset + x[1] {
                    assert_eq!(self.model.state(object, offset), state, "offset {offset}");
                }
            }
            _ => {}
        }
    }

    fn space_of(&self, vm: VmHandle) -> Space {
        let vms = self.model.vms.iter().enumerate();
        let (place, found) = vms
            .filter_map(|(place, found)| Some((place, found.as_ref()?)))
            .find(|(_, found)| found.handle == vm)
            .unwrap();
        guest_space(place.try_into().unwrap(), found.root)
    }

    fn touch(&mut self, page: u64) {
        if page >= 1 << 52 {
            return;
        }
        let answer = self.real.host_abort(Gfn(page).base(), HostAccess::Write);
        let may = page < PAGES && self.model.host_reaches(page) != Some(false);
        let expected = if may {
            HostAbort::Retry
        } else {
            HostAbort::Inject
        };
        assert_eq!(answer, expected, "page {page:#x}");
        if may {
            assert!(host_reaches(&self.real, page));
        }
        self.check_reach();
    }

    fn guest(&mut self, vm: VmHandle, call: GuestCall) {
        let vms = &self.model.vms;
        let place = vms
            .iter()
            .position(|found| found.as_ref().is_some_and(|found| found.handle == vm));
        let expected = place.map_or(GuestAnswer::NotLoaded(CallError::NotFound), |place| {
            self.model.guest(place, call)
        });
        let answer = match self.real.vcpu_load(CpuIndex(0), vm, VcpuIndex(0)) {
            Err(error) => GuestAnswer::NotLoaded(error),
            Ok(loaded) => self.ask(place, &loaded, call),
        };
        assert_eq!(answer, expected, "{call:?}");
        self.check_reach();
    }

    fn ask(
        &self,
        place: Option<usize>,
        loaded: &Loaded<'_, '_, Fake<Tiny>>,
        call: GuestCall,
    ) -> GuestAnswer {
        let (answer, gfn) = match call {
            GuestCall::Share(gfn) => (
                one(gfn).and_then(|page| loaded.share(page)).map(|_| ()),
                gfn,
            ),
            GuestCall::Unshare(gfn) => (
                one(gfn).and_then(|page| loaded.unshare(page)).map(|_| ()),
                gfn,
            ),
            GuestCall::Stop => {
                loaded.stop();
                return GuestAnswer::Done;
            }
        };
        let present = match loaded.classify(Gfn(gfn)) {
            GuestPage::Bound(PageState::Private | PageState::Shared) => true,
            GuestPage::Bound(_) | GuestPage::Unbound => false,
        };
        let reached = place.and_then(|place| self.model.guest_reaches(place, gfn));
        assert_eq!(present, reached.is_some(), "gfn {gfn:#x}");
        match answer {
            Ok(()) => GuestAnswer::Done,
            Err(ShareError::Absent) => GuestAnswer::Absent,
            Err(ShareError::Denied) => GuestAnswer::Denied,
        }
    }

    /// No content crosses where it must not. Afterwards each new owner has filled its pages.
    fn check_content(&self, call: &HostCall, before: &[Own]) {
        let machine = self.real.machine();
        for (page, (old, new)) in (0..).zip(before.iter().zip(&self.model.owners)) {
            let byte = machine.uniform_byte(Pfn(page));
            match (*old, *new) {
                (old, new) if old == new => {}
                (Own::Host, Own::Memory { .. }) => {
                    let HostCall::ObjectPopulate { content, .. } = call else {
                        panic!("{call:?} gave a page to a guest");
                    };
                    let expected = match content {
                        Content::Keep => HOST_BYTE,
                        Content::Zero => 0,
                    };
                    assert_eq!(byte, Some(expected), "page {page:#x}");
                    machine.fill(Pfn(page), GUEST_BYTE);
                }
                (Own::Memory { host, .. }, Own::Host) => {
                    // What the host reached may be as it was: an ordinary VM's pages are not wiped.
                    let as_it_was = host && byte == Some(GUEST_BYTE);
                    assert!(byte == Some(0) || as_it_was, "page {page:#x}: {byte:?}");
                    machine.fill(Pfn(page), HOST_BYTE);
                }
                (Own::Pool(_), Own::Host) => {
                    assert_eq!(byte, Some(0), "page {page:#x} of a pool");
                    machine.fill(Pfn(page), HOST_BYTE);
                }
                (Own::Host, Own::Pool(_)) => {}
                change => panic!("{call:?}: page {page:#x} went {change:?}"),
            }
        }
    }

    /// For every page and every party: what the specification allows is what tables and TLBs give.
    fn check_reach(&self) {
        let machine = self.real.machine();
        for page in 0..PAGES {
            let reaches = host_reaches(&self.real, page);
            match self.model.host_reaches(page) {
                Some(may) => assert_eq!(reaches, may, "the host, page {page:#x}"),
                None if reaches => {
                    let found = machine.walk(self.real.host_space(), page).unwrap();
                    assert!(!found.normal && !found.executable, "device page {page:#x}");
                }
                None => {}
            }
        }
        for (place, vm) in self.model.vms.iter().enumerate() {
            let Some(vm) = vm else { continue };
            let space = guest_space(place.try_into().unwrap(), vm.root);
            for gfn in 0..PAGES {
                assert_eq!(
                    reached(&self.real, space, gfn),
                    self.model.guest_reaches(place, gfn),
                    "VM {place}, gfn {gfn:#x}"
                );
            }
        }
        no_violations(&self.real);
        machine.take_events();
    }
}

/// How many sequences: `CLOISTER_CASES`, or a number that keeps `cargo test` quick.
fn cases() -> u32 {
    let wanted = env::var("CLOISTER_CASES").ok();
    wanted.and_then(|cases| cases.parse().ok()).unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_core_does_what_the_specification_says(steps in prop::collection::vec(step(), 1..60)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.take(step);
        }
    }
}

/// The page of that number, if it has an address.
fn one(gfn: u64) -> Result<PageRange<Gfn>, ShareError> {
    PageRange::<Gfn>::new(Gfn(gfn), 1).ok_or(ShareError::Denied)
}
