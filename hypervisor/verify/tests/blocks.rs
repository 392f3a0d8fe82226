//! The cost of a transition of a whole block equals that of a page.

use hyp_core::hypervisor::Hypervisor;
use hyp_core::limits::CpuIndex;
use hyp_core::machine::event::{Event, Scope};
use hyp_core::machine::geometry::Granule4K;
use hyp_core::vcpu::loaded::LoadedVcpu;
use hyp_verify::fake::Fake;
use shared_abi::addr::{Gfn, Pfn};
use shared_abi::host_call::{HostCall, InitialContent, ObjectHandle, VcpuIndex, VmHandle};

use super::bench_machine::*;

/// RAM from 1 GiB on, as on metal. The constant after it: the hypervisor's part of RAM.
const METAL_RAM: (u64, u64) = (0x4_0000, 0x4000);
const METAL_RESERVED: (u64, u64) = (0x4_0000, 0x400);
const POOL: (u64, u64) = (0x4_0800, 64);
/// The start of the guest's memory. The constant after it: the start of the host's pages for it.
const GUEST: u64 = 0x4_0000;
const FRAMES: u64 = 0x4_1000;

type Metal = Hypervisor<'static, Fake<Granule4K>>;

struct Block {
    hypervisor: Metal,
    vm: VmHandle,
    object: ObjectHandle,
}

impl Block {
    /// Makes a VM of 4 blocks. Only the second one is present.
    fn new() -> Self {
        let hypervisor: Metal = make(METAL_RAM, METAL_RESERVED, (0, 1)).unwrap();
        let call = |call| u32::try_from(hypervisor.host_call(&call).unwrap()[0]).unwrap();
        let vm = VmHandle(call(HostCall::VmCreate { protected: true, first: Pfn(POOL.0), pages: POOL.1 }));
        let object = ObjectHandle(call(HostCall::ObjectCreate { vm, pages: 2048 }));
        call(HostCall::ObjectBind { object, offset: 0, gfn: Gfn(GUEST), pages: 2048 });
        call(HostCall::VcpuCreate { vm, index: VcpuIndex(0) });
        call(HostCall::VmStart { vm, entry: Gfn(GUEST).base(), argument: 0 });
        let block = Self { hypervisor, vm, object };
        assert_eq!(block.populate(512, FRAMES + 512, 512), 512);
        block.events();
        block
    }

    fn populate(&self, offset: u64, first: u64, pages: u64) -> u64 {
        self.call(HostCall::ObjectPopulate {
            object: self.object,
            offset,
            first: Pfn(first),
            pages,
            content: InitialContent::Zero,
        })
    }

    fn reclaim(&self, offset: u64, pages: u64) -> u64 {
        self.call(HostCall::ObjectReclaim { object: self.object, offset, pages })
    }

    fn call(&self, call: HostCall) -> u64 {
        self.hypervisor.host_call(&call).unwrap()[0]
    }

    fn load(&self) -> LoadedVcpu<'_, 'static, Fake<Granule4K>> {
        self.hypervisor.vcpu_load(CpuIndex(0), self.vm, VcpuIndex(0)).unwrap()
    }

    /// Returns the number of written entries and of invalidations by IPA since the last call. Asserts that no
    /// invalidation was of a whole VMID.
    fn events(&self) -> (usize, usize) {
        let events = self.hypervisor.machine().take_events();
        let count = |wanted: fn(&Event) -> bool| events.iter().filter(|event| wanted(event)).count();
        (
            count(|event| matches!(event, Event::Write { .. })),
            count(|event| matches!(event, Event::Tlbi { scope: Scope::Ipa(_) | Scope::All, .. })),
        )
    }

    fn host_level(&self, page: u64) -> Option<u32> {
        let found = self.hypervisor.machine().walk(self.hypervisor.host_stage2_id(), page);
        found.map(|found| found.level)
    }
}

#[test]
fn a_block_is_donated_shared_and_taken_at_the_price_of_one_entry() {
    let block = Block::new();
    // The host loses an entry, the guest gains one, and the object's word changes.
    assert_eq!(block.populate(1024, FRAMES + 1024, 512), 512);
    assert_eq!(block.events(), (3, 1));
    let guest = block.load();
    let pages = guest_pages(GUEST + 1024, 512);
    for _ in 0..2 {
        assert_eq!(guest.share(pages), Ok(512));
        assert_eq!(block.events(), (1, 0));
        assert_eq!(block.host_level(FRAMES + 1024), Some(2));
        assert_eq!(guest.unshare(pages), Ok(512));
        assert_eq!(block.events(), (1, 1));
        assert_eq!(block.host_level(FRAMES + 1024), None);
    }
    assert_eq!(block.reclaim(1024, 512), 512);
    assert_eq!(block.events(), (3, 1));
    assert_eq!(block.host_level(FRAMES + 1024), Some(2));
}

#[test]
fn a_block_that_was_shared_in_parts_is_one_entry_again() {
    let block = Block::new();
    let guest = block.load();
    for first in (0..512).step_by(64) {
        let part = guest_pages(GUEST + 512 + first, 64);
        assert_eq!(guest.share(part), Ok(64));
    }
    assert_eq!(block.host_level(FRAMES + 512), Some(2));
    block.events();
    // The guest unshares one page: the entry splits. It merges when the page is shared again.
    assert_eq!(guest.unshare(guest_pages(GUEST + 512 + 3, 1)), Ok(1));
    assert_eq!(block.host_level(FRAMES + 512 + 3), None);
    assert_eq!(block.host_level(FRAMES + 512 + 4), Some(3));
    assert_eq!(guest.share(guest_pages(GUEST + 512 + 3, 1)), Ok(1));
    assert_eq!(block.host_level(FRAMES + 512 + 3), Some(2));
}

#[test]
fn one_call_does_as_many_pages_as_a_block_has() {
    let block = Block::new();
    assert_eq!(block.populate(1024, FRAMES + 1024, 512), 512);
    let guest = block.load();
    // From the middle of a block, one call completes the rest of it and as much of the next block.
    assert_eq!(guest.share(guest_pages(GUEST + 700, 800)), Ok(512));
    assert_eq!(guest.share(guest_pages(GUEST + 1212, 288)), Ok(288));
    assert_eq!(guest.unshare(guest_pages(GUEST + 700, 800)), Ok(512));
    assert_eq!(guest.unshare(guest_pages(GUEST + 1212, 288)), Ok(288));
}

#[test]
fn pages_that_come_one_by_one_end_as_a_block() {
    let block = Block::new();
    for page in 0..512 {
        assert_eq!(block.populate(page, FRAMES + page, 1), 1);
    }
    let guest = block.load();
    let stage2_id = guest.stage2_id();
    let level = |page| {
        let found = block.hypervisor.machine().walk(stage2_id, GUEST + page);
        found.unwrap().level
    };
    assert_eq!((level(0), level(511)), (2, 2));
    drop(guest);
    assert_eq!(block.reclaim(7, 1), 1);
    assert_eq!(level(8), 3);
    // The host gets the block back page by page. The last page merges it.
    for page in (0..512).filter(|page| *page != 7) {
        assert_eq!(block.reclaim(page, 1), 1);
    }
    assert_eq!(block.host_level(FRAMES), Some(2));
}
