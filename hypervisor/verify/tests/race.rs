//! Races between two checks of the same state: another CPU acts in between.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;

use hyp_core::cpu::registers::VcpuContext;
use hyp_core::hypervisor::Hypervisor;
use hyp_core::machine::event::Event;
use hyp_core::machine::lock::LockId;
use hyp_core::machine::{ContextPage, Frames, Machine, Removed, Stage2Id, TableRef};
use hyp_core::ownership::setup::Setup;
use hyp_verify::fake::Fake;
use shared_abi::addr::{Gfn, Pfn};
use shared_abi::error::CallError;
use shared_abi::host_call::{HostCall, InitialContent, ObjectHandle, ObjectPageState, VmHandle};

use super::bench_machine::*;

type Hook = Box<dyn FnOnce() + Send>;

/// A fake machine that runs a closure when this thread records a given event.
#[derive(Default)]
struct Interposed {
    fake: Fake<Tiny>,
    hook: Mutex<Option<(thread::ThreadId, Event, Hook)>>,
}

impl Interposed {
    fn when(&self, event: Event, hook: impl FnOnce() + Send + 'static) {
        let entry = (thread::current().id(), event, Box::new(hook) as Hook);
        *self.hook.lock().unwrap() = Some(entry);
    }
}

impl Machine for Interposed {
    type Geometry = Tiny;

    fn read_entry(&self, table: TableRef, index: usize) -> u64 {
        self.fake.read_entry(table, index)
    }

    fn write_entry(&self, table: TableRef, index: usize, value: u64) {
        self.fake.write_entry(table, index, value);
    }

    fn fill(&self, table: TableRef, first: u64, step: u64) {
        Machine::fill(&self.fake, table, first, step);
    }

    fn wipe(&self, pages: &Frames) {
        self.fake.wipe(pages);
    }

    fn clean(&self, pages: &Frames) {
        self.fake.clean(pages);
    }

    fn with_page<R>(&self, pages: &Frames, index: u64, f: impl FnOnce(&[u8; 4096]) -> R) -> R {
        self.fake.with_page(pages, index, f)
    }

    fn put_context(&self, context_page: &mut ContextPage, context: VcpuContext) {
        self.fake.put_context(context_page, context);
    }

    fn with_context<R>(&self, context_page: &mut ContextPage, f: impl FnOnce(&mut VcpuContext) -> R) -> R {
        self.fake.with_context(context_page, f)
    }

    fn publish(&self) {
        self.fake.publish();
    }

    fn invalidate(&self, stage2_id: Stage2Id, removed: &[Removed]) {
        self.fake.invalidate(stage2_id, removed);
    }

    fn invalidate_all(&self, stage2_id: Stage2Id) {
        self.fake.invalidate_all(stage2_id);
    }

    fn forget_previous_vcpu(&self, stage2_id: Stage2Id) {
        self.fake.forget_previous_vcpu(stage2_id);
    }

    fn event(&self, event: impl FnOnce() -> Event) {
        let event = event();
        let due = self
            .hook
            .lock()
            .unwrap()
            .take_if(|(thread, wanted, _)| *thread == thread::current().id() && *wanted == event);
        if let Some((_, _, hook)) = due {
            hook();
        }
    }
}

static HYPERVISOR: OnceLock<Hypervisor<'static, Interposed>> = OnceLock::new();

fn call(call: HostCall) -> u64 {
    HYPERVISOR.get().unwrap().host_call(&call).unwrap()[0]
}

/// Makes a VM with an object of 4 pages.
fn vm(first: u64) -> ObjectHandle {
    let vm = VmHandle(
        u32::try_from(call(HostCall::VmCreate { protected: true, first: Pfn(first), pages: 12 })).unwrap(),
    );
    let object = ObjectHandle(u32::try_from(call(HostCall::ObjectCreate { vm, pages: 4 })).unwrap());
    call(HostCall::ObjectBind { object, offset: 0, gfn: Gfn(GUEST_FIRST), pages: 4 });
    object
}

fn populate(object: ObjectHandle, offset: u64) -> HostCall {
    HostCall::ObjectPopulate { object, offset, first: Pfn(80), pages: 1, content: InitialContent::Zero }
}

/// The host takes a page by force. After the core has looked up the page's owner, and before it takes the VM's lock,
/// the page moves to another VM. The other VM must keep the page.
#[test]
fn a_page_that_changes_hands_in_between_is_not_taken_from_its_new_owner() {
    let ram = vec![range(RAM.0, RAM.1)].leak();
    let needs = Hypervisor::<Interposed>::needs(ram, &[]);
    let setup = Setup {
        ram,
        reserved: vec![range(RESERVED.0, RESERVED.1)].leak(),
        denied_devices: &[],
        owner_words: vec![0; needs.owner_words].leak(),
        tables: range(RESERVED.0, needs.tables),
        cpus: 2,
        expected: None,
    };
    let hypervisor = Hypervisor::new(Interposed::default(), setup).unwrap();
    assert!(HYPERVISOR.set(hypervisor).is_ok());
    let hypervisor = HYPERVISOR.get().unwrap();
    let (old, new) = (vm(54), vm(66));
    call(populate(old, 1));

    // The lookup is complete except for the release of its lock. Another CPU's reclaim takes the VM's lock first, and
    // is complete when this CPU takes it.
    hypervisor.machine().when(Event::Released(LockId::HOST), move || {
        static HAS_THE_VM: AtomicBool = AtomicBool::new(false);
        let machine = HYPERVISOR.get().unwrap().machine();
        thread::spawn(move || {
            machine.when(Event::Taken(LockId::slot(0)), || {
                HAS_THE_VM.store(true, Ordering::Release);
            });
            call(HostCall::ObjectReclaim { object: old, offset: 1, pages: 1 });
        });
        while !HAS_THE_VM.load(Ordering::Acquire) {
            thread::yield_now();
        }
        // A third CPU gives the page to the other VM.
        machine.when(Event::Taken(LockId::slot(0)), move || {
            call(populate(new, 3));
        });
    });
    let failure = hypervisor.host_call(&HostCall::ForceReclaim { page: Pfn(80) });
    assert_eq!(failure.unwrap_err().error, CallError::Denied);
    let query = |object, offset| {
        let query = HostCall::ObjectQuery { object, offset };
        ObjectPageState::from_code(call(query)).unwrap()
    };
    assert_eq!(query(new, 3), ObjectPageState::Private);
    assert_eq!(query(old, 1), ObjectPageState::Absent);
    assert_eq!(hypervisor.machine().fake.walk(hypervisor.host_stage2_id(), 80), None);
    assert!(hypervisor.machine().hook.lock().unwrap().is_none(), "all of it happened");
}
