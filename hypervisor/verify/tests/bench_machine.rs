//! Small machines and VMs that the other tests start from.

use hyp_core::hypervisor::Hypervisor;
use hyp_core::limits::CpuIndex;
use hyp_core::machine::geometry::Geometry;
use hyp_core::machine::{Stage2Id, Vmid};
use hyp_core::ownership::setup::{Setup, SetupError};
use hyp_core::vcpu::loaded::LoadedVcpu;
use hyp_verify::fake::Fake;
use shared_abi::addr::{Gfn, PageRange, Pfn};
use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::{HostCall, InitialContent, ObjectHandle, ObjectPageState, VcpuIndex, VmHandle};
use shared_abi::record::Digest;

/// Tables of 4 entries: a block has 4 pages, a level-1 block 16, the IPA space 128.
#[derive(Debug)]
pub(super) enum Tiny {}

impl Geometry for Tiny {
    const INDEX_BITS: u32 = 2;
}

/// [`Tiny`], but a call does at most one block's worth of work.
#[derive(Debug)]
pub(super) enum Short {}

impl Geometry for Short {
    const INDEX_BITS: u32 = 2;
    const PAGES_PER_CALL: u64 = 4;
    const KEPT_PER_CALL: u64 = 1;
}

/// RAM. It starts and ends in the middle of a block.
pub(super) const RAM: (u64, u64) = (9, 110);
/// The hypervisor's part of RAM.
pub(super) const RESERVED: (u64, u64) = (10, 44);
/// The first page of the host's memory.
pub(super) const HOST_FIRST: u64 = 54;
/// Pages of devices that the host must not reach.
pub(super) const DENIED: (u64, u64) = (3, 1);

pub(super) type TinyHypervisor = Hypervisor<'static, Fake<Tiny>>;

pub(super) fn range(first: u64, pages: u64) -> PageRange<Pfn> {
    PageRange::<Pfn>::new(Pfn(first), pages).unwrap()
}

pub(super) fn guest_pages(first: u64, pages: u64) -> PageRange<Gfn> {
    PageRange::<Gfn>::new(Gfn(first), pages).unwrap()
}

/// Makes a hypervisor of any geometry. It and its memory live as long as the test process.
pub(super) fn make<G: Geometry>(
    ram: (u64, u64),
    reserved: (u64, u64),
    denied: (u64, u64),
) -> Result<Hypervisor<'static, Fake<G>>, SetupError> {
    make_expecting(ram, reserved, denied, None)
}

/// Makes a hypervisor that expects a launch measurement, as a manifest names it.
pub(super) fn make_expecting<G: Geometry>(
    ram: (u64, u64),
    reserved: (u64, u64),
    denied: (u64, u64),
    expected: Option<Digest>,
) -> Result<Hypervisor<'static, Fake<G>>, SetupError> {
    let ram = vec![range(ram.0, ram.1)].leak();
    let denied_devices = vec![range(denied.0, denied.1)].leak();
    let needs = Hypervisor::<Fake<G>>::needs(ram, denied_devices);
    let setup = Setup {
        ram,
        reserved: vec![range(reserved.0, reserved.1)].leak(),
        denied_devices,
        owner_words: Box::leak(vec![u64::MAX; needs.owner_words].into_boxed_slice()),
        tables: range(reserved.0, needs.tables),
        cpus: 2,
        expected,
    };
    Hypervisor::new(Fake::checked(), setup)
}

pub(super) fn tiny() -> TinyHypervisor {
    let hypervisor = make(RAM, RESERVED, DENIED).unwrap();
    hypervisor.machine().watch(hypervisor.host_stage2_id());
    hypervisor
}

/// The address space of the VM at `index` whose pool starts at `root`.
pub(super) fn guest_stage2_id(index: u8, root: u64) -> Stage2Id {
    Stage2Id { root: Pfn(root).base(), vmid: Vmid(index + 1) }
}

/// A VM with one object of 16 pages, bound at guest page 32, and one vCPU.
pub(super) struct TestVm {
    pub(super) vm: VmHandle,
    pub(super) object: ObjectHandle,
    pub(super) stage2_id: Stage2Id,
}

pub(super) const GUEST_FIRST: u64 = 32;
pub(super) const OBJECT_PAGES: u64 = 16;

impl TestVm {
    /// Makes a VM whose pool is `pool` pages from `first` on.
    pub(super) fn new(hypervisor: &TinyHypervisor, protected: bool, first: u64, pool: u64) -> Self {
        let call = |call| hypervisor.host_call(&call).unwrap()[0];
        let vm = VmHandle(
            u32::try_from(call(HostCall::VmCreate { protected, first: Pfn(first), pages: pool })).unwrap(),
        );
        let object =
            ObjectHandle(u32::try_from(call(HostCall::ObjectCreate { vm, pages: OBJECT_PAGES })).unwrap());
        call(HostCall::ObjectBind { object, offset: 0, gfn: Gfn(GUEST_FIRST), pages: OBJECT_PAGES });
        call(HostCall::VcpuCreate { vm, index: VcpuIndex(0) });
        let index = u8::try_from(vm.0 & 0xff).unwrap();
        let stage2_id = guest_stage2_id(index, first);
        hypervisor.machine().watch(stage2_id);
        Self { vm, object, stage2_id }
    }

    pub(super) fn start(&self, hypervisor: &TinyHypervisor) {
        hypervisor
            .host_call(&HostCall::VmStart { vm: self.vm, entry: Gfn(GUEST_FIRST).base(), argument: 0 })
            .unwrap();
    }

    pub(super) fn populate(
        &self,
        hypervisor: &TinyHypervisor,
        offset: u64,
        first: u64,
        pages: u64,
    ) -> Result<u64, CallFailure> {
        self.populate_with(hypervisor, offset, first, pages, InitialContent::Zero)
    }

    pub(super) fn populate_with(
        &self,
        hypervisor: &TinyHypervisor,
        offset: u64,
        first: u64,
        pages: u64,
        content: InitialContent,
    ) -> Result<u64, CallFailure> {
        hypervisor
            .host_call(&HostCall::ObjectPopulate {
                object: self.object,
                offset,
                first: Pfn(first),
                pages,
                content,
            })
            .map(|x| x[0])
    }

    pub(super) fn reclaim(
        &self,
        hypervisor: &TinyHypervisor,
        offset: u64,
        pages: u64,
    ) -> Result<u64, CallFailure> {
        hypervisor.host_call(&HostCall::ObjectReclaim { object: self.object, offset, pages }).map(|x| x[0])
    }

    pub(super) fn query(&self, hypervisor: &TinyHypervisor, offset: u64) -> (ObjectPageState, u64) {
        let x = hypervisor.host_call(&HostCall::ObjectQuery { object: self.object, offset }).unwrap();
        (ObjectPageState::from_code(x[0]).unwrap(), x[1])
    }

    pub(super) fn load<'h>(
        &self,
        hypervisor: &'h TinyHypervisor,
    ) -> Result<LoadedVcpu<'h, 'static, Fake<Tiny>>, CallError> {
        hypervisor.vcpu_load(CpuIndex(0), self.vm, VcpuIndex(0))
    }

    /// Destroys the VM. Returns the number of pages that came back.
    pub(super) fn destroy(&self, hypervisor: &TinyHypervisor) -> Result<u64, CallFailure> {
        hypervisor.machine().unwatch(self.stage2_id);
        hypervisor.host_call(&HostCall::VmDestroy { vm: self.vm }).map(|x| x[0])
    }
}

/// Returns true if the host's tables and TLBs map `page`. Asserts that they agree, and that the map is the identity.
pub(super) fn host_reaches(hypervisor: &TinyHypervisor, page: u64) -> bool {
    reached(hypervisor, hypervisor.host_stage2_id(), page).is_some_and(|to| {
        assert_eq!(to, page, "the host's map is the identity");
        true
    })
}

/// Returns the physical page that an address space maps at an IPA page. Asserts that the TLBs agree with the tables.
pub(super) fn reached(hypervisor: &TinyHypervisor, stage2_id: Stage2Id, page: u64) -> Option<u64> {
    let machine = hypervisor.machine();
    let found = machine.walk(stage2_id, page);
    assert_eq!(machine.remembered(stage2_id, page), found, "TLB against tables, page {page:#x}");
    found.map(|found| {
        assert!(found.usable);
        found.page.0
    })
}

pub(super) fn no_violations(hypervisor: &TinyHypervisor) {
    assert_eq!(hypervisor.machine().violations(), Vec::new());
}
