//! A hypervisor on a fake machine. It is so small that each step can check the access of every party to every page.

use std::collections::{BTreeMap, BTreeSet};

use hyp_core::hypervisor::Hypervisor;
use hyp_core::machine::geometry::Geometry;
use hyp_core::machine::{Stage2Id, Vmid};
use hyp_core::ownership::setup::Setup;
use hyp_verify::fake::Fake;
use shared_abi::addr::{Gfn, PageRange, Pfn};
use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::{HostCall, InitialContent, ObjectHandle, VcpuIndex, VmHandle};

/// Tables of 4 entries: a block has 4 pages, a level-1 block 16, the IPA space 128.
#[derive(Debug)]
pub enum Tiny {}

impl Geometry for Tiny {
    const INDEX_BITS: u32 = 2;
}

/// The number of pages in an IPA space.
pub const PAGES: u64 = 128;
/// RAM: its first page and its number of pages. It starts and ends in the middle of a block.
pub const RAM: (u64, u64) = (9, 110);
/// The hypervisor's part of RAM.
pub const RESERVED: (u64, u64) = (10, 44);
/// A device that the host must not reach.
pub const DENIED: (u64, u64) = (3, 1);
/// The first guest page of a ready VM's memory.
pub const GUEST_FIRST: u64 = 32;
/// The number of its pages.
pub const GUEST_PAGES: u64 = 17;
/// The number of pages in a ready VM's pool.
pub const POOL_PAGES: u64 = 12;

/// The byte that fills the host's pages. The constant after it: the byte that fills the guests' pages.
const HOST_BYTE: u8 = 0x55;
const GUEST_BYTE: u8 = 0xaa;

/// The hypervisor under test.
pub type Tested<'m> = Hypervisor<'m, Fake<Tiny>>;

fn range((first, pages): (u64, u64)) -> PageRange<Pfn> {
    PageRange::<Pfn>::new(Pfn(first), pages).expect("a range")
}

fn within((first, pages): (u64, u64), page: u64) -> bool {
    page >= first && page - first < pages
}

/// Makes a new machine and runs `f` on it.
pub fn with_board(f: impl FnOnce(&mut Board<'_, '_>)) {
    let (ram, reserved, denied) = ([range(RAM)], [range(RESERVED)], [range(DENIED)]);
    let needs = Tested::needs(&ram, &denied);
    let mut owner_words = vec![u64::MAX; needs.owner_words];
    let setup = Setup {
        ram: &ram,
        reserved: &reserved,
        denied_devices: &denied,
        owner_words: &mut owner_words,
        tables: range((RESERVED.0, needs.tables)),
        cpus: 2,
        expected: None,
    };
    let hypervisor = Hypervisor::new(Fake::default(), setup).expect("a sound setup");
    hypervisor.machine().watch(hypervisor.host_stage2_id());
    for page in RAM.0..RAM.0 + RAM.1 {
        if !within(RESERVED, page) {
            hypervisor.machine().fill(Pfn(page), HOST_BYTE);
        }
    }
    f(&mut Board::new(&hypervisor));
}

/// A VM as an outside observer knows it.
#[derive(Clone, Copy, Debug)]
struct Vm {
    protected: bool,
    stage2_id: Stage2Id,
    /// It is being destroyed, and its tables are being freed.
    dying: bool,
}

/// The parties that reach a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reach {
    host: bool,
    /// The VMID of the guest that reaches it.
    guest: Option<u8>,
}

/// The hypervisor, and the facts that follow from its calls and their results alone.
#[derive(Debug)]
pub struct Board<'h, 'm> {
    hypervisor: &'h Tested<'m>,
    /// Every VM handle that was ever given, and one that never was.
    pub vms: Vec<VmHandle>,
    /// Every object handle that was ever given, and one that never was.
    pub objects: Vec<ObjectHandle>,
    live: BTreeMap<u32, Vm>,
    /// The physical pages that protected guests share.
    shared: BTreeSet<u64>,
    reach: Vec<Reach>,
}

impl<'h, 'm> Board<'h, 'm> {
    fn new(hypervisor: &'h Tested<'m>) -> Self {
        let mut board = Self {
            hypervisor,
            vms: [VmHandle(u32::MAX)].into(),
            objects: [ObjectHandle(u32::MAX)].into(),
            live: BTreeMap::new(),
            shared: BTreeSet::new(),
            reach: Vec::new(),
        };
        board.reach = board.look();
        board
    }

    /// The hypervisor.
    #[must_use]
    pub const fn hypervisor(&self) -> &'h Tested<'m> {
        self.hypervisor
    }

    /// Makes a host call and checks every consequence of its result.
    ///
    /// # Errors
    ///
    /// The failure of the call.
    pub fn call(&mut self, call: &HostCall) -> Result<[u64; 5], CallFailure> {
        if let HostCall::VmDestroy { vm } = call
            && let Some(found) = self.live.get(&vm.0)
        {
            // No CPU walks the tables of a VM that is being destroyed. If the call is refused, the watch is restored.
            self.hypervisor.machine().unwatch(found.stage2_id);
        }
        let answer = self.hypervisor.host_call(call);
        self.note(call, &answer);
        let refused = matches!(answer, Err(failure) if failure.error != CallError::Again);
        let before = self.reach.clone();
        self.check();
        if refused {
            assert_eq!(self.reach, before, "{call:?} was refused and changed something");
        }
        answer
    }

    fn note(&mut self, call: &HostCall, answer: &Result<[u64; 5], CallFailure>) {
        match (*call, answer) {
            (HostCall::VmCreate { protected, first, .. }, Ok([handle, ..])) => {
                let handle = u32::try_from(*handle).expect("a handle");
                assert!(!self.vms.contains(&VmHandle(handle)), "a handle came back");
                let vmid = u8::try_from(handle & 0xff).expect("a byte") + 1;
                let stage2_id = Stage2Id { root: first.base(), vmid: Vmid(vmid) };
                let taken = self.live.values().any(|vm| vm.stage2_id.vmid == stage2_id.vmid);
                assert!(!taken, "two VMs have one VMID");
                self.hypervisor.machine().watch(stage2_id);
                self.vms.push(VmHandle(handle));
                let vm = Vm { protected, stage2_id, dying: false };
                self.live.insert(handle, vm);
            }
            (HostCall::ObjectCreate { .. }, Ok([handle, ..])) => {
                let handle = ObjectHandle(u32::try_from(*handle).expect("a handle"));
                assert!(!self.objects.contains(&handle), "a handle came back");
                self.objects.push(handle);
            }
            (HostCall::VmDestroy { vm }, Ok(_)) => {
                self.live.remove(&vm.0).expect("only a live VM can be destroyed");
            }
            (HostCall::VmDestroy { vm }, Err(failure)) => {
                if let Some(found) = self.live.get_mut(&vm.0) {
                    found.dying |= failure.error == CallError::Again;
                    if !found.dying {
                        self.hypervisor.machine().watch(found.stage2_id);
                    }
                }
            }
            (_, Err(failure)) if failure.error == CallError::NoMemory => {
                assert!(failure.value > 0, "short of nothing");
            }
            _ => {}
        }
    }

    /// Makes and starts a VM: memory bound, a run of pages present, two vCPUs. Returns `None` if a call is refused.
    pub fn ready(&mut self, protected: bool, first: u64, run: u64) -> Option<VmHandle> {
        let created = self.call(&HostCall::VmCreate { protected, first: Pfn(first), pages: POOL_PAGES });
        let vm = VmHandle(u32::try_from(created.ok()?[0]).ok()?);
        let pages = GUEST_PAGES;
        let object = self.call(&HostCall::ObjectCreate { vm, pages }).ok()?;
        let object = ObjectHandle(u32::try_from(object[0]).ok()?);
        let mut call = |call| self.call(&call).ok();
        call(HostCall::ObjectBind { object, offset: 0, gfn: Gfn(GUEST_FIRST), pages })?;
        // If this is refused, the VM has no memory, which is a valid state too.
        let _ = call(HostCall::ObjectPopulate {
            object,
            offset: 0,
            first: Pfn((first + POOL_PAGES).next_multiple_of(4)),
            pages: run,
            content: InitialContent::Keep,
        });
        for index in [0, 1].map(VcpuIndex) {
            call(HostCall::VcpuCreate { vm, index })?;
        }
        call(HostCall::VmStart { vm, entry: Gfn(GUEST_FIRST).base(), argument: 0 })?;
        Some(vm)
    }

    /// Records that a guest shared or unshared this many pages.
    pub fn guest_shared(&mut self, vm: VmHandle, gfn: u64, pages: u64, shared: bool) {
        let Some(found) = self.live.get(&vm.0) else {
            panic!("a guest without a VM");
        };
        assert!(found.protected, "an ordinary VM has nothing to share");
        for gfn in gfn..gfn + pages {
            let page = self.hypervisor.machine().walk(found.stage2_id, gfn);
            let page = page.expect("it was told that its page is there").page.0;
            let changed = if shared { self.shared.insert(page) } else { self.shared.remove(&page) };
            assert!(changed, "page {gfn:#x} was in that state before");
        }
    }

    /// Checks all invariants for every page and every party.
    pub fn check(&mut self) {
        let before = std::mem::take(&mut self.reach);
        self.reach = self.look();
        let machine = self.hypervisor.machine();
        for (page, (now, then)) in (0..).zip(self.reach.iter().zip(&before)) {
            self.check_page(page, *now);
            if !within(RAM, page) || now == then {
                continue;
            }
            // A page that the host gets was not private before, or is wiped.
            let found = machine.uniform_byte(Pfn(page));
            if now.host && !then.host && !self.shared.contains(&page) {
                assert_eq!(found, Some(0), "page {page:#x}");
            }
            let byte = match now {
                Reach { guest: Some(_), .. } => GUEST_BYTE,
                Reach { host: true, .. } => HOST_BYTE,
                _ => continue,
            };
            let known = [Some(0), Some(HOST_BYTE), Some(GUEST_BYTE)];
            assert!(known.contains(&found), "a page of mixed content");
            machine.fill(Pfn(page), byte);
        }
        // A page that no guest owns any more is no longer shared.
        let reach = &self.reach;
        self.shared.retain(|page| {
            let index = usize::try_from(*page).expect("small");
            reach[index].guest.is_some()
        });
        assert_eq!(machine.violations(), Vec::new());
        machine.take_events();
    }

    fn check_page(&self, page: u64, reach: Reach) {
        if within(RESERVED, page) || within(DENIED, page) {
            assert_eq!(reach, Reach::default(), "page {page:#x} is not theirs");
        }
        let Some(vmid) = reach.guest else { return };
        assert!(within(RAM, page), "a guest has a device");
        let mut vms = self.live.values();
        let vm = vms.find(|vm| vm.stage2_id.vmid.0 == vmid).expect("a VM that lives");
        let may = !vm.protected || self.shared.contains(&page);
        assert_eq!(reach.host, may, "the host at page {page:#x} of VM {vmid}");
    }

    /// Returns the access of all parties by the tables. Checks that the TLBs hold no other translations.
    fn look(&self) -> Vec<Reach> {
        let machine = self.hypervisor.machine();
        let walk = |stage2_id, page| {
            let found = machine.walk(stage2_id, page);
            assert_eq!(machine.remembered(stage2_id, page), found, "a stale TLB entry");
            found.map(|found| found.page.0)
        };
        let mut reach: Vec<Reach> = (0..PAGES)
            .map(|page| {
                let found = walk(self.hypervisor.host_stage2_id(), page);
                assert!(found.is_none_or(|to| to == page), "the host's map");
                Reach { host: found.is_some(), guest: None }
            })
            .collect();
        for vm in self.live.values().filter(|vm| !vm.dying) {
            for gfn in 0..PAGES {
                if let Some(to) = walk(vm.stage2_id, gfn) {
                    let to = usize::try_from(to).expect("small");
                    assert!(to < reach.len(), "a guest is beyond the machine");
                    let other = reach[to].guest.replace(vm.stage2_id.vmid.0);
                    assert_eq!(other, None, "page {to:#x} has two guests");
                }
            }
        }
        reach
    }

    /// Destroys every VM. After that the host must have all the memory that it had at the start.
    pub fn finish(&mut self) {
        let handles: Vec<u32> = self.live.keys().copied().collect();
        for handle in handles {
            let vm = VmHandle(handle);
            for _ in 0..=PAGES {
                match self.call(&HostCall::VmDestroy { vm }) {
                    Ok(_) => break,
                    Err(failure) => assert_eq!(failure.error, CallError::Again),
                }
            }
            assert!(!self.live.contains_key(&handle), "the VM's destruction does not end");
        }
        for page in RAM.0..RAM.0 + RAM.1 {
            let index = usize::try_from(page).expect("small");
            assert_eq!(self.reach[index].host, !within(RESERVED, page), "page {page:#x} is lost");
        }
    }
}
