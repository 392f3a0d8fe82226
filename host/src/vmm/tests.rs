//! Exits in, policy out, on the fake machine.

use shared_abi::addr::{Gfn, Ipa, PAGE_SIZE};
use shared_abi::error::CallError;
use shared_abi::vcpu::{AccessSize, LIST_REGISTERS, ListRegister};

use super::*;
use crate::memory::HostMemory;
use crate::testing::{Fake, FakeMachine, PAGES, Printed, RamDisk};
use crate::vm::tests::CONFIG;

const CPU0: VcpuIndex = VcpuIndex(0);
const CPU1: VcpuIndex = VcpuIndex(1);
/// The block device: the second slot.
const BLOCK: u64 = 0xa00_1000;

struct Guest {
    vmm: Vmm<Fake>,
    machine: FakeMachine,
    printed: Printed,
}

fn guest(attack: bool) -> Guest {
    let machine = FakeMachine::new();
    let printed = Printed::default();
    let layout = GuestLayout::new(&CONFIG).unwrap();
    let config = VmmConfig {
        layout: &layout,
        protected: true,
        attack,
        disk: Some(RamDisk::new(64)),
        console: printed.clone(),
    };
    let (vmm, _) = Vmm::new(machine.resources(), config).unwrap();
    Guest { vmm, machine, printed }
}

impl Guest {
    fn exit(&mut self, vcpu: VcpuIndex, exit: Exit) -> ExitOutcome {
        self.vmm.entry(vcpu);
        self.vmm.handle(
            vcpu,
            Ok(ExitRecord {
                exit,
                list_registers: [ListRegister::EMPTY; LIST_REGISTERS],
                timer_fired: false,
            }),
        )
    }

    /// What to do with a vCPU before any deadline.
    fn next(&mut self, vcpu: VcpuIndex) -> Next {
        self.vmm.poll(vcpu, || 0)
    }

    fn store(&mut self, ipa: u64, value: u64) -> ExitOutcome {
        let outcome = self.exit(CPU0, Exit::MmioWrite { ipa: Ipa(ipa), size: AccessSize::Word, value });
        assert_eq!(self.vmm.vcpus[0].resume, Resume::MmioWritten);
        outcome
    }

    fn load(&mut self, ipa: u64) -> Resume {
        let read = Exit::MmioRead { ipa: Ipa(ipa), size: AccessSize::Word };
        self.exit(CPU0, read);
        self.vmm.entry(CPU0).0.resume
    }

    /// The guest touches a page and shares it.
    fn shared_page(&mut self, gfn: Gfn) {
        self.exit(CPU0, Exit::MemoryFault { gfn });
        self.machine.share(self.vmm.vm.pages().lookup(gfn).unwrap());
    }

    fn put(&self, ipa: u64, bytes: &[u8]) {
        let pfn = self.vmm.vm.pages().lookup(Ipa(ipa).page()).unwrap();
        let pa = shared_abi::addr::Pa(pfn.base().0 + Ipa(ipa).page_offset());
        self.machine.write(pa, bytes).unwrap();
    }

    /// Sets the block device's queue up in the page at `page` and enables its interrupt.
    fn start_disk(&mut self, page: u64) {
        self.store(0x800_0000, 2);
        self.store(0x800_0104, 0xffff_ffff);
        self.store(0x800_0c0c, 0xaaaa_aaaa);
        for (offset, value) in [
            (0x70, 0),
            (0x70, 3),
            (0x24, 1),
            (0x20, 3),
            (0x70, 0xb),
            (0x38, 8),
            (0x80, page),
            (0x90, page + 0x400),
            (0xa0, page + 0x800),
            (0x44, 1),
            (0x70, 0xf),
        ] {
            self.store(BLOCK + offset, value);
        }
        assert_eq!(self.load(BLOCK + 0x70), Resume::MmioRead(0xf));
    }

    /// Puts a read of sector 0 into the queue.
    fn request(&mut self, page: u64, data: u64) {
        for (index, (at, bytes, flags)) in
            [(page + 0xc00, 16_u32, 1_u16), (data, 512, 3), (page + 0xd00, 1, 2)].into_iter().enumerate()
        {
            let mut descriptor = at.to_le_bytes().to_vec();
            descriptor.extend(bytes.to_le_bytes());
            descriptor.extend(flags.to_le_bytes());
            descriptor.extend((index as u16 + 1).to_le_bytes());
            self.put(page + 16 * index as u64, &descriptor);
        }
        self.put(page + 0x402, &[1, 0, 0, 0]);
    }
}

#[test]
fn a_disk_request_ends_in_an_interrupt() {
    let mut guest = guest(false);
    let page = 0x4010_0000;
    guest.shared_page(Gfn(page >> 12));
    guest.machine.share(guest.vmm.vm.pages().lookup(Gfn((page >> 12) + 1)).unwrap());
    guest.start_disk(page);
    guest.request(page, page + PAGE_SIZE);
    let outcome = guest.store(BLOCK + 0x50, 0);
    assert_eq!((guest.next(CPU0), outcome.notice), (Next::Enter, None));
    assert_eq!(guest.vmm.entry(CPU0).0.list_registers[0].intid(), 49);
    let cost = guest.vmm.cost();
    assert_eq!((cost.requests, cost.copied_bytes), (1, 512));
}

#[test]
fn the_attack_comes_with_the_first_request_and_changes_nothing_for_the_guest() {
    let mut guest = guest(true);
    let page = 0x4010_0000;
    guest.shared_page(Gfn(page >> 12));
    guest.start_disk(page);
    guest.request(page, page + 0xe00);
    let outcome = guest.store(BLOCK + 0x50, 0);
    let attack = private_page::AttackOutcome { read_faulted: true, write_faulted: true };
    assert_eq!(outcome.notice, Some(Notice::Attack(attack)));
    assert_eq!(guest.vmm.cost().requests, 1);
    assert_eq!(guest.store(BLOCK + 0x50, 0).notice, None);
}

#[test]
fn a_broken_queue_is_told_and_nothing_else_breaks() {
    let mut guest = guest(false);
    let page = 0x4010_0000;
    guest.shared_page(Gfn(page >> 12));
    guest.start_disk(page);
    guest.put(page + 0x402, &[0xff, 0xff]);
    let outcome = guest.store(BLOCK + 0x50, 0);
    assert_eq!(guest.next(CPU0), Next::Enter);
    assert!(matches!(outcome.notice, Some(Notice::BrokenQueue(QueueError::IndexJump(_)))));
    assert_eq!(guest.load(BLOCK + 0x70), Resume::MmioRead(0x4f));
}

#[test]
fn the_uart_prints() {
    let mut guest = guest(false);
    for byte in b"hi" {
        let write = Exit::MmioWrite { ipa: Ipa(0x900_0000), size: AccessSize::Byte, value: (*byte).into() };
        guest.exit(CPU0, write);
    }
    assert_eq!(*guest.printed.0.borrow(), b"hi");
}

#[test]
fn where_nothing_is_the_guest_takes_an_abort() {
    let mut guest = guest(false);
    for ipa in [0, 0x801_0000, 0x80e_0000, 0x900_1000, 0xa00_2000, u64::MAX] {
        assert_eq!(guest.load(ipa), Resume::Abort, "{ipa:#x}");
    }
    assert_eq!(guest.load(0x80c_0008), Resume::MmioRead(1 << 8 | 1 << 4));
}

#[test]
fn a_vcpu_that_waits_wakes_by_interrupt_or_deadline() {
    let mut guest = guest(false);
    let wfi = Exit::Wfi { deadline: Some(100) };
    let wait = Next::Wait { deadline: Some(100) };
    guest.exit(CPU0, wfi);
    assert_eq!(guest.next(CPU0), wait);
    assert_eq!(guest.vmm.poll(CPU0, || 99), wait);
    assert_eq!(guest.vmm.poll(CPU0, || 100), Next::Enter);
    assert!(guest.vmm.entry(CPU0).1);

    guest.exit(CPU0, Exit::CpuOn { vcpu: CPU1 });
    guest.store(0x800_0000, 2);
    guest.store(0x80d_0100, 0xffff_ffff);
    assert_eq!(guest.vmm.poll(CPU1, || 0), Next::Enter);
    guest.exit(CPU1, Exit::Wfi { deadline: None });
    assert_eq!(guest.vmm.poll(CPU1, || u64::MAX), Next::Wait { deadline: None });
    let outcome = guest.exit(CPU0, Exit::Sgi { sgi1r: 2 });
    assert_eq!(outcome.kick.iter().collect::<Vec<_>>(), [CPU1]);
    assert_eq!(guest.vmm.poll(CPU1, || 0), Next::Enter);
}

#[test]
fn vcpus_start_and_stop() {
    let mut guest = guest(false);
    assert_eq!(guest.vmm.poll(CPU1, || 0), Next::Off);
    let outcome = guest.exit(CPU0, Exit::CpuOn { vcpu: CPU1 });
    assert!(outcome.kick.contains(CPU1));
    assert_eq!(guest.vmm.poll(CPU1, || 0), Next::Enter);
    assert!(guest.exit(CPU0, Exit::CpuOn { vcpu: VcpuIndex(77) }).kick.is_empty());
    guest.exit(CPU0, Exit::CpuOff);
    assert_eq!(guest.next(CPU0), Next::Off);
    guest.exit(CPU1, Exit::CpuOff);
    assert_eq!(guest.next(CPU1), Next::End(End::AllCpusOff));
}

#[test]
fn an_end_is_everybodys() {
    for (exit, end) in [
        (Exit::SystemOff, End::Off),
        (Exit::SystemReset, End::Reset),
        (Exit::Stopped(StopReason::Exception(0x20)), End::Stopped(StopReason::Exception(0x20))),
        (Exit::MemoryFault { gfn: Gfn(1) }, End::Failed(VmError::NoMemoryThere(Gfn(1)))),
    ] {
        let mut guest = guest(false);
        let outcome = guest.exit(CPU0, exit);
        assert_eq!(guest.next(CPU0), Next::End(end));
        assert!(outcome.kick.contains(CPU1));
        assert_eq!(guest.vmm.poll(CPU1, || 0), Next::End(end));
        guest.exit(CPU1, Exit::Interrupted);
        assert_eq!(guest.next(CPU1), Next::End(end));
        assert_eq!(guest.vmm.destroy().unwrap().pages_nonzero, 0);
        assert_eq!(guest.machine.free_pages(), PAGES);
    }
    let mut guest = guest(false);
    let refusal = Refusal { error: CallError::Busy, detail: 0 };
    guest.vmm.handle(CPU0, Err(refusal));
    assert_eq!(guest.next(CPU0), Next::End(End::Failed(refusal.into())));
}

#[test]
fn the_pool_is_topped_up_on_demand() {
    let mut guest = guest(false);
    let before = guest.vmm.vm().pages_donated();
    guest.exit(CPU0, Exit::NeedPages { pages: 40 });
    assert_eq!(guest.next(CPU0), Next::Enter);
    assert_eq!(guest.vmm.vm().pages_donated(), before + 40);
}
