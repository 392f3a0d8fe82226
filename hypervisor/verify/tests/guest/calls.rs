//! Hypercalls: every function, and every refusal.

use hyp_core::vcpu::loaded::GuestPage;
use shared_abi::host_call::ObjectPageState;
use shared_abi::kvm::function::*;

use super::*;

const NOT_SUPPORTED: [u64; 4] = [u64::MAX, 0, 0, 0];
const INVALID: [u64; 4] = [u64::MAX - 2, 0, 0, 0];
/// Success, with one page done.
const ONE: [u64; 4] = [0, 1, 0, 0];

fn ipa(offset: u64) -> u64 {
    (GUEST_FIRST + offset) << 12
}

#[test]
fn constants_by_both_conduits() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    let table: [([u64; 2], [u64; 4]); 24] = [
        // Linux makes these calls at boot, in this order.
        ([0x8400_0000, 0], [0x1_0001, 0, 0, 0]),
        ([0x8400_0006, 0], [2, 0, 0, 0]),
        ([0x8400_000a, 0x8000_0000], [0; 4]),
        ([0x8000_0000, 0], [0x1_0001, 0, 0, 0]),
        ([0x8400_0050, 0], [0x1_0000, 0, 0, 0]),
        ([0x8400_000a, 0xc400_0001], [0; 4]),
        ([0x8400_000a, 0xc400_000e], NOT_SUPPORTED),
        ([0x8400_000a, 0xc400_0012], NOT_SUPPORTED),
        ([0x8400_000a, 0x8400_0050], NOT_SUPPORTED),
        ([UID as u64, 0], [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d]),
        ([FEATURES as u64, 0], [0x3fd, 0, 0, 0]),
        ([MEMINFO as u64, 0], [4096, 1, 0, 0]),
        ([MMIO_GUARD_INFO as u64, 0], [4096, 0, 0, 0]),
        ([MEMINFO as u64, 1], INVALID),
        ([MMIO_GUARD_INFO as u64, 1], INVALID),
        ([MMIO_GUARD_ENROLL as u64, 1], INVALID),
        ([0x8000_0001, 0x8000_0001], [0; 4]),
        ([0x8000_0001, 0x8000_0000], [0; 4]),
        ([0x8000_0001, 0xc500_0020], NOT_SUPPORTED),
        ([0x8000_0001, 0x8000_8000], NOT_SUPPORTED),
        // Not implemented: PTP, an MMIO guard for ranges, RSI_VERSION, stolen time.
        ([0x8600_0001, 0], NOT_SUPPORTED),
        ([0xc600_000a, ipa(0)], NOT_SUPPORTED),
        ([0xc400_0190, 0x1_0000], NOT_SUPPORTED),
        ([0xc500_0020, 0], NOT_SUPPORTED),
    ];
    for ([function, argument], expected) in table {
        for (high, esr) in [(0, HVC), (1 << 16, HVC), (0xdead << 32, HVC), (0, SMC)] {
            let pc = snapshot(&mut vcpu).registers.pc;
            let call = [function | high, argument, 0, 0];
            let action = guest.call_raw(&mut vcpu, esr, call);
            assert_eq!(action, GuestAction::Resume);
            assert_eq!(result(&mut vcpu), expected, "{call:#x?}");
            // A trapped SMC leaves the PC at the instruction, so EL2 must skip it.
            let step = if esr == SMC { 4 } else { 0 };
            assert_eq!(snapshot(&mut vcpu).registers.pc, pc + step);
        }
        for esr in [HVC | 1, SMC | 0xffff] {
            guest.call_raw(&mut vcpu, esr, [function, argument, 0, 0]);
            assert_eq!(result(&mut vcpu), NOT_SUPPORTED, "immediate");
        }
    }
}

#[test]
fn an_unknown_function_is_not_supported() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    for function in [0, 0xffff_ffff, 0x8600_0002, 0xc600_0000, 0xc600_ff01, 0xc600_8000, 0x8400_001f] {
        let call = [function, 1, 2, 3];
        assert_eq!(guest.call(&mut vcpu, call), NOT_SUPPORTED, "{function:#x}");
    }
}

#[test]
fn an_ordinary_vm_is_offered_no_protection() {
    let guest = Guest::new(false);
    let mut vcpu = guest.load(0);
    assert_eq!(guest.call(&mut vcpu, [UID.into(), 0, 0, 0])[0], 0xb66f_b428);
    assert_eq!(guest.call(&mut vcpu, [FEATURES.into(), 0, 0, 0]), [1, 0, 0, 0]);
    for function in MEMINFO..=MEM_RELINQUISH {
        assert_eq!(guest.call(&mut vcpu, [function.into(), 0, 0, 0]), NOT_SUPPORTED);
    }
}

#[test]
fn a_page_is_shared_and_taken_back() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    let share = [MEM_SHARE.into(), ipa(1), 0, 0];
    let unshare = [MEM_UNSHARE.into(), ipa(1), 0, 0];
    let state = |vcpu: &Vcpu<'_>| vcpu.classify(Gfn(GUEST_FIRST + 1));
    assert_eq!(guest.call(&mut vcpu, unshare), INVALID, "not shared");
    assert_eq!(guest.call(&mut vcpu, share), ONE);
    assert_eq!(state(&vcpu), GuestPage::Bound(ObjectPageState::Shared));
    assert_eq!(guest.call(&mut vcpu, share), INVALID, "shared already");
    assert_eq!(guest.call(&mut vcpu, unshare), ONE);
    assert_eq!(state(&vcpu), GuestPage::Bound(ObjectPageState::Private));
    assert_eq!(guest.call(&mut vcpu, unshare), INVALID);
}

#[test]
fn what_cannot_be_shared() {
    let guest = Guest::new(true);
    guest.vm.reclaim(&guest.hypervisor, 2, 1).unwrap();
    let mut vcpu = guest.load(0);
    for function in [MEM_SHARE, MEM_UNSHARE] {
        for (x1, x2, x3) in [
            (ipa(0) + 8, 0, 0),
            (ipa(0), 0, 1),
            (ipa(0), 1 << 28, 0), // beyond the guest's space
            (ipa(0), u64::MAX, 0),
            (ipa(2), 0, 0), // poison
            (DEVICE << 12, 0, 0),
            (1 << 40, 0, 0),
            (u64::MAX << 12, 0, 0),
            (u64::MAX, 0, 0),
        ] {
            let call = [function.into(), x1, x2, x3];
            assert_eq!(guest.call(&mut vcpu, call), INVALID, "{call:#x?}");
        }
    }
    assert!(!vcpu.is_stopped(), "a share of poison is an error, no touch");
}

#[test]
fn a_share_of_an_absent_page_waits_for_it() {
    let guest = Guest::new(true);
    for (esr, step) in [(HVC, 0), (SMC, 4)] {
        let offset = if esr == HVC { 8 } else { 9 };
        let gfn = Gfn(GUEST_FIRST + offset);
        let call = [MEM_SHARE.into(), ipa(offset), 0, 0];
        let mut vcpu = guest.load(0);
        // An HVC leaves the PC after the instruction, an SMC at it.
        let instruction = 0x1000;
        vcpu.with_context(|context| context.registers.pc = instruction + 4 - step);
        let action = guest.call_raw(&mut vcpu, esr, call);
        assert_eq!(action, GuestAction::Exit(Exit::MemoryFault { gfn }));
        assert_eq!(result(&mut vcpu), call, "the call is as it was");
        assert_eq!(snapshot(&mut vcpu).registers.pc, instruction);
        drop(vcpu);
        guest.vm.populate(&guest.hypervisor, offset, 80 + offset, 1).unwrap();
        let mut vcpu = guest.load(0);
        vcpu.with_context(|context| context.registers.pc = instruction + 4 - step);
        assert_eq!(guest.call_raw(&mut vcpu, esr, call), GuestAction::Resume);
        assert_eq!(result(&mut vcpu), ONE);
        assert_eq!(snapshot(&mut vcpu).registers.pc, instruction + 4);
    }
    let mut vcpu = guest.load(0);
    let unshare = [MEM_UNSHARE.into(), ipa(10), 0, 0];
    assert_eq!(guest.call(&mut vcpu, unshare), INVALID, "absent");
}

#[test]
fn entropy() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    let first = guest.call(&mut vcpu, [0xc400_0053, 192, 0, 0]);
    let second = guest.call(&mut vcpu, [0xc400_0053, 192, 0, 0]);
    assert_eq!((first[0], second[0]), (0, 0));
    assert_ne!(first, second);
    assert_eq!(guest.call(&mut vcpu, [0xc400_0053, 193, 0, 0])[0], u64::MAX - 1);
    let mut without = Guest::new(true);
    without.trng = Trng::new(&[]);
    let mut vcpu = without.load(0);
    for function in [0x8400_0050, 0xc400_0053] {
        assert_eq!(without.call(&mut vcpu, [function, 64, 0, 0]), NOT_SUPPORTED);
    }
}

#[test]
fn a_vcpu_is_started_once() {
    const CPU_ON: u64 = 0xc400_0003;
    const AFFINITY_INFO: u64 = 0xc400_0004;
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    for target in [2, 0x100, 1 << 32, 1 << 31, u64::MAX] {
        let call = [CPU_ON, target, ipa(0), 7];
        assert_eq!(guest.call(&mut vcpu, call)[0], u64::MAX - 1, "{target:#x}");
    }
    let itself = [CPU_ON, 0, ipa(0), 7];
    assert_eq!(guest.call(&mut vcpu, itself)[0], u64::MAX - 3, "already on");
    assert_eq!(guest.call(&mut vcpu, [AFFINITY_INFO, 0, 0, 0])[0], 0);
    assert_eq!(guest.call(&mut vcpu, [AFFINITY_INFO, 1, 0, 0])[0], 1);
    assert_eq!(guest.call(&mut vcpu, [AFFINITY_INFO, 1, 1, 0])[0], 0);
    assert_eq!(guest.call(&mut vcpu, [AFFINITY_INFO, 2, 0, 0])[0], u64::MAX - 1);
    assert_eq!(guest.call(&mut vcpu, [AFFINITY_INFO, 0x100, 1, 0])[0], u64::MAX - 1);
    assert_eq!(guest.call(&mut vcpu, [AFFINITY_INFO, 0, 4, 0])[0], u64::MAX - 1);

    let on = [CPU_ON, 1, ipa(1), 7];
    let action = guest.call_raw(&mut vcpu, HVC, on);
    assert_eq!(action, GuestAction::Exit(Exit::CpuOn { vcpu: VcpuIndex(1) }));
    assert_eq!(result(&mut vcpu), [0; 4]);
    assert_eq!(guest.call(&mut vcpu, on)[0], u64::MAX - 3);
    assert_eq!(guest.call(&mut vcpu, [AFFINITY_INFO, 1, 0, 0])[0], 0);
    drop(vcpu);

    let mut second = guest.load(1);
    let context = snapshot(&mut second);
    assert_eq!(context.registers.pc, ipa(1));
    assert_eq!((context.registers.x[0], context.vmpidr), (7, 0x8000_0001));
    let off = guest.call_raw(&mut second, HVC, [0x8400_0002, 0, 0, 0]);
    assert_eq!(off, GuestAction::Exit(Exit::CpuOff));
    drop(second);
    let again = guest.hypervisor.vcpu_load(CpuIndex(0), guest.vm.vm, VcpuIndex(1));
    assert!(again.is_err());
}

#[test]
fn suspend_waits_and_returns() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    vcpu.with_context(|context| {
        context.registers.system.cntv_ctl_el0 = 1;
        context.registers.system.cntv_cval_el0 = 99;
    });
    let action = guest.call_raw(&mut vcpu, HVC, [0xc400_0001, 0, 0x1234, 5]);
    let wfi = Exit::Wfi { deadline: Some(99) };
    assert_eq!(action, GuestAction::Exit(wfi));
    assert_eq!(result(&mut vcpu), [0; 4]);
}

#[test]
fn off_and_reset_end_the_vm() {
    for (function, exit) in [(0x8400_0008, Exit::SystemOff), (0x8400_0009, Exit::SystemReset)] {
        let guest = Guest::new(true);
        let mut vcpu = guest.load(0);
        let action = guest.call_raw(&mut vcpu, HVC, [function, 0, 0, 0]);
        assert_eq!(action, GuestAction::Exit(exit));
        assert!(vcpu.is_stopped());
        assert_eq!(result(&mut vcpu)[0], u64::MAX - 5, "INTERNAL_FAILURE");
    }
}
