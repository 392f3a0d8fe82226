//! Accesses to IPAs without memory: the MMIO guard decides.

use hyp_core::vm::mmio_guard::{GuardFull, MAX_RUNS, MmioGuard};
use shared_abi::addr::Ipa;
use shared_abi::error::CallError;
use shared_abi::kvm::function;
use shared_abi::vcpu::AccessSize;

use super::*;

/// `ldrb w3, [..]`, and `str w3, [..]` in the constant after it: translation faults with a valid syndrome.
const LOAD_BYTE: u64 = 0x9303_0007;
const STORE_WORD: u64 = 0x9383_0047;
/// `ldp`: a fault without a valid syndrome.
const LOAD_PAIR: u64 = 0x9200_0007;
const FETCH: u64 = 0x8200_0007;

/// Returns true if the guest has just taken an external abort.
fn aborted(vcpu: &mut Vcpu<'_>) -> bool {
    let context = snapshot(vcpu);
    context.registers.system.esr_el1 & 0x3f == 0x10
        && context.registers.pc == context.registers.system.vbar_el1 + 0x200
}

fn read(ipa: u64) -> GuestAction {
    GuestAction::Exit(Exit::MmioRead { ipa: Ipa(ipa), size: AccessSize::Byte })
}

#[test]
fn a_read_is_finished_by_the_host() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    let pc = snapshot(&mut vcpu).registers.pc;
    assert_eq!(guest.abort(&mut vcpu, LOAD_BYTE, 0x5018), read(0x5018));
    assert_eq!(guest_entry(&mut vcpu, Resume::MmioRead(0xabcd)), Ok(()));
    let after = snapshot(&mut vcpu);
    assert_eq!((after.registers.x[3], after.registers.pc), (0xcd, pc + 4));
}

#[test]
fn a_pending_access_outlives_the_load() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    assert_eq!(guest.abort(&mut vcpu, LOAD_BYTE, 0x5018), read(0x5018));
    drop(vcpu);
    let mut vcpu = guest.load(0);
    assert_eq!(guest_entry(&mut vcpu, Resume::MmioWritten), Err(CallError::InvalidParameter));
    assert_eq!(guest_entry(&mut vcpu, Resume::MmioRead(7)), Ok(()));
    assert_eq!(snapshot(&mut vcpu).registers.x[3], 7);
}

#[test]
fn a_write_shows_its_value_and_nothing_more() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    vcpu.with_context(|context| context.registers.x[3] = 0x1122_3344_5566_7788);
    assert_eq!(
        guest.abort(&mut vcpu, STORE_WORD, 0x5000),
        GuestAction::Exit(Exit::MmioWrite { ipa: Ipa(0x5000), size: AccessSize::Word, value: 0x5566_7788 })
    );
    assert_eq!(guest_entry(&mut vcpu, Resume::Abort), Ok(()));
    assert!(aborted(&mut vcpu));
    assert_eq!(snapshot(&mut vcpu).registers.system.far_el1, 0x5000);
}

#[test]
fn what_cannot_be_emulated_is_an_abort_in_the_guest() {
    let guest = Guest::new(true);
    for (esr, ipa) in [
        (LOAD_PAIR, 0x5000),
        (STORE_WORD, 0x5ffd), // reaches into the next page
        (FETCH, 0x5000),
        (0x9200_0087, 0x5000), // a stage-1 walk
        (0x9200_01c7, 0x5000), // that of a cache maintenance instruction
        (0x9303_000f, 0x5000), // permission
        (0x9303_0000, 0x5000), // address size
        (0x9303_0010, 0x5000), // external
    ] {
        let mut vcpu = guest.load(0);
        assert_eq!(guest.abort(&mut vcpu, esr, ipa), GuestAction::Resume);
        assert!(aborted(&mut vcpu), "ESR {esr:#x}");
        let pending = guest_entry(&mut vcpu, Resume::MmioRead(0));
        assert_eq!(pending, Err(CallError::InvalidParameter));
    }
    // A device page has no cache line, so the core skips the cache maintenance instruction.
    let mut vcpu = guest.load(0);
    let pc = snapshot(&mut vcpu).registers.pc;
    assert_eq!(guest.abort(&mut vcpu, 0x9200_0147, 0x5000), GuestAction::Resume);
    assert_eq!(snapshot(&mut vcpu).registers.pc, pc + 4);
}

#[test]
fn an_access_may_end_with_its_page() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    assert_eq!(guest.abort(&mut vcpu, LOAD_BYTE, 0x5fff), read(0x5fff));
}

#[test]
fn an_abort_has_the_address_if_there_is_one() {
    const FAR_NOT_VALID: u64 = 1 << 10;
    let guest = Guest::new(true);
    for esr in [FETCH, LOAD_PAIR] {
        let mut vcpu = guest.load(0);
        let system = |vcpu: &mut Vcpu<'_>| {
            let system = snapshot(vcpu).registers.system;
            (system.far_el1, system.esr_el1 & FAR_NOT_VALID)
        };
        vcpu.with_context(|context| context.registers.system.far_el1 = 0x77);
        guest.abort(&mut vcpu, esr, 0x5008);
        assert_eq!(system(&mut vcpu), (0x5008, 0), "{esr:#x}");
        vcpu.with_context(|context| context.registers.system.far_el1 = 0x77);
        guest.abort(&mut vcpu, esr | FAR_NOT_VALID, 0x5008);
        assert_eq!(system(&mut vcpu), (0x77, FAR_NOT_VALID), "{esr:#x}");
    }
}

#[test]
fn once_enrolled_only_guarded_pages_are_devices() {
    for enrol_first in [true, false] {
        let guest = Guest::new(true);
        let mut vcpu = guest.load(0);
        assert_eq!(guest.abort(&mut vcpu, LOAD_BYTE, 0x6000), read(0x6000));
        guest_entry(&mut vcpu, Resume::Continue).unwrap();
        if enrol_first {
            let enrol = [function::MMIO_GUARD_ENROLL.into(), 0, 0, 0];
            assert_eq!(guest.call(&mut vcpu, enrol), [0; 4]);
            guest.abort(&mut vcpu, LOAD_BYTE, 0x5000);
            assert!(aborted(&mut vcpu));
        }
        let map = [function::MMIO_GUARD_MAP.into(), 0x5000, 0, 0];
        assert_eq!(guest.call(&mut vcpu, map), [0; 4]);
        assert_eq!(guest.call(&mut vcpu, map), [0; 4], "again is fine");
        assert_eq!(guest.abort(&mut vcpu, LOAD_BYTE, 0x5000), read(0x5000));
        guest_entry(&mut vcpu, Resume::Continue).unwrap();
        assert_eq!(guest.abort(&mut vcpu, LOAD_BYTE, 0x6000), GuestAction::Resume);
        assert!(aborted(&mut vcpu));
        let unmap = [function::MMIO_GUARD_UNMAP.into(), 0x5000, 0, 0];
        assert_eq!(guest.call(&mut vcpu, unmap), [0; 4]);
        assert_eq!(guest.abort(&mut vcpu, LOAD_BYTE, 0x5000), GuestAction::Resume);
    }
}

#[test]
fn a_page_whose_name_another_vcpu_took_back_is_no_device_any_more() {
    let guest = Guest::new(true);
    let mut first = guest.load(0);
    first.power_on(VcpuIndex(1), Ipa(0), 0).unwrap();
    let mut second = guest.load(1);
    let call = |vcpu: &mut Vcpu<'_>, id: u32| {
        assert_eq!(guest.call(vcpu, [id.into(), 0x5000, 0, 0]), [0; 4]);
    };
    call(&mut first, function::MMIO_GUARD_MAP);
    for _ in 0..2 {
        assert_eq!(guest.abort(&mut first, LOAD_BYTE, 0x5000), read(0x5000));
        guest_entry(&mut first, Resume::Continue).unwrap();
    }
    call(&mut second, function::MMIO_GUARD_UNMAP);
    assert_eq!(guest.abort(&mut first, LOAD_BYTE, 0x5000), GuestAction::Resume);
    assert!(aborted(&mut first));
    call(&mut second, function::MMIO_GUARD_MAP);
    assert_eq!(guest.abort(&mut first, LOAD_BYTE, 0x5000), read(0x5000));
}

#[test]
fn memory_is_no_device_whatever_the_guard_says() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    for offset in [0, 7] {
        let ipa = (GUEST_FIRST + offset) << 12;
        let map = [function::MMIO_GUARD_MAP.into(), ipa, 0, 0];
        assert_eq!(guest.call(&mut vcpu, map)[0], -3_i64 as u64);
    }
    for ipa in [0x5008, u64::MAX] {
        let map = [function::MMIO_GUARD_MAP.into(), ipa, 0, 0];
        assert_eq!(guest.call(&mut vcpu, map)[0], -3_i64 as u64);
    }
}

#[test]
fn the_next_vm_in_the_same_place_has_a_guard_of_its_own() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    let map = [function::MMIO_GUARD_MAP.into(), 0x5000, 0, 0];
    assert_eq!(guest.call(&mut vcpu, map), [0; 4]);
    drop(vcpu);
    guest.vm.destroy(&guest.hypervisor).unwrap();
    let next = TestVm::new(&guest.hypervisor, true, 54, 12);
    assert_eq!(next.vm.0 & 0xff, guest.vm.vm.0 & 0xff, "the same place");
    next.start(&guest.hypervisor);
    let mut vcpu = next.load(&guest.hypervisor).unwrap();
    assert_eq!(guest.abort(&mut vcpu, LOAD_BYTE, 0x6000), read(0x6000));
}

#[test]
fn an_ordinary_vm_has_no_guard() {
    let guest = Guest::new(false);
    let mut vcpu = guest.load(0);
    for function in [function::MMIO_GUARD_ENROLL, function::MMIO_GUARD_MAP] {
        let call = [function.into(), 0x5000, 0, 0];
        assert_eq!(guest.call(&mut vcpu, call), [u64::MAX, 0, 0, 0]);
    }
    assert_eq!(guest.abort(&mut vcpu, LOAD_BYTE, 0x6000), read(0x6000));
}

#[test]
fn a_full_guard_takes_what_touches_a_run_of_it() {
    let mut guard = MmioGuard::default();
    let last = 4 * MAX_RUNS as u64;
    for page in (4..=last).step_by(4) {
        assert_eq!(guard.map(Gfn(page)), Ok(()));
    }
    for page in [1, 2, last + 2, last + 3] {
        assert_eq!(guard.map(Gfn(page)), Err(GuardFull), "{page}");
    }
    assert_eq!((guard.map(Gfn(3)), guard.map(Gfn(last + 1))), (Ok(()), Ok(())));
}
