//! Traps other than hypercalls and device accesses.

use hyp_core::cpu::syndrome::SyndromeRegisters;
use shared_abi::error::CallError;
use shared_abi::host_call::{HostCall, ObjectPageState};
use shared_abi::vcpu::StopReason;

use super::*;

#[test]
fn interrupts_are_the_hosts() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    let before = snapshot(&mut vcpu);
    let action = guest_exit(&mut vcpu, &guest.services(), Trap::Interrupt);
    assert_eq!(action, GuestAction::Exit(Exit::Interrupted));
    assert!(snapshot(&mut vcpu) == before);
}

#[test]
fn a_guest_that_waits_gives_its_deadline() {
    const WFI: u64 = 0x07e0_0000;
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    for (ctl, deadline) in [(0, None), (1, Some(500)), (3, None)] {
        let pc = vcpu.with_context(|context| {
            context.registers.system.cntv_ctl_el0 = ctl;
            context.registers.system.cntv_cval_el0 = 500;
            context.registers.pc
        });
        let action = guest.trap(&mut vcpu, WFI);
        assert_eq!(action, GuestAction::Exit(Exit::Wfi { deadline }));
        assert_eq!(snapshot(&mut vcpu).registers.pc, pc + 4);
    }
    let pc = snapshot(&mut vcpu).registers.pc;
    let wfe = guest.trap(&mut vcpu, WFI | 1);
    assert_eq!(wfe, GuestAction::Exit(Exit::Interrupted));
    assert_eq!(snapshot(&mut vcpu).registers.pc, pc + 4);
}

#[test]
fn absent_memory_is_asked_for_by_its_page_alone() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    let before = snapshot(&mut vcpu);
    let gfn = Gfn(GUEST_FIRST + 7);
    // The host gets the same exit for a byte store, a load without syndrome, a stage-1 walk and a fetch.
    for esr in [0x9300_0047, 0x9200_0007, 0x9200_0087, 0x8200_0007] {
        let action = guest.abort(&mut vcpu, esr, gfn.base().0 + 0x123);
        assert_eq!(action, GuestAction::Exit(Exit::MemoryFault { gfn }));
        assert!(snapshot(&mut vcpu) == before, "the instruction runs again");
        assert_eq!(
            guest_entry(&mut vcpu, Resume::MmioRead(1)),
            Err(CallError::InvalidParameter),
            "nothing is pending"
        );
    }
}

#[test]
fn memory_that_came_meanwhile_is_a_retry() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    let action = guest.abort(&mut vcpu, 0x9300_0047, GUEST_FIRST << 12);
    assert_eq!(action, GuestAction::Resume);
}

#[test]
fn poison_stops_the_vm() {
    let guest = Guest::new(true);
    guest.vm.reclaim(&guest.hypervisor, 2, 1).unwrap();
    assert_eq!(guest.vm.query(&guest.hypervisor, 2), (ObjectPageState::Poisoned, 1));
    let mut vcpu = guest.load(0);
    let gfn = Gfn(GUEST_FIRST + 2);
    let action = guest.abort(&mut vcpu, 0x9200_0007, gfn.base().0);
    assert_eq!(action, GuestAction::Exit(Exit::Stopped(StopReason::Poisoned(gfn))));
    assert!(vcpu.is_stopped());
    drop(vcpu);
    let again = guest.hypervisor.vcpu_load(CpuIndex(0), guest.vm.vm, VcpuIndex(0));
    assert_eq!(again.err(), Some(CallError::Denied));
}

#[test]
fn aarch32_and_serror_stop_the_vm() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    vcpu.with_context(|context| context.registers.pstate = 0x10);
    let action = guest.abort(&mut vcpu, 0x9300_0047, DEVICE << 12);
    assert_eq!(action, GuestAction::Exit(Exit::Stopped(StopReason::Exception(0x0e))));
    drop(vcpu);
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    let action = guest_exit(&mut vcpu, &guest.services(), Trap::SystemError);
    assert_eq!(action, GuestAction::Exit(Exit::Stopped(StopReason::Exception(0x2f))));
    assert!(vcpu.is_stopped());
}

#[test]
fn system_registers_are_read_hidden_or_undefined() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    vcpu.with_context(|context| {
        context.registers.system.vbar_el1 = 0x2_0000;
        context.registers.x[2] = 0x1_0001;
    });
    let pc = snapshot(&mut vcpu).registers.pc;
    // mrs x5, id_aa64pfr0_el1
    assert_eq!(guest.trap(&mut vcpu, 0x6230_00a9), GuestAction::Resume);
    let after = snapshot(&mut vcpu);
    assert_eq!((after.registers.x[5], after.registers.pc), (0x1100_0000_1111_0011, pc + 4));
    // msr icc_sgi1r_el1, x2
    assert_eq!(guest.trap(&mut vcpu, 0x623a_3056), GuestAction::Exit(Exit::Sgi { sgi1r: 0x1_0001 }));
    assert_eq!(snapshot(&mut vcpu).registers.pc, pc + 8);
    // mrs x5, pmcr_el0: S3_3_C9_C12_0
    let pmcr = (0x18 << 26) | (1 << 25) | (3 << 20) | (3 << 14) | (9 << 10) | (5 << 5) | (12 << 1) | 1;
    assert_eq!(guest.trap(&mut vcpu, pmcr), GuestAction::Resume);
    let after = snapshot(&mut vcpu);
    assert_eq!((after.registers.pc, after.registers.system.elr_el1), (0x2_0200, pc + 8));
    assert_eq!(after.registers.system.esr_el1, 0x0200_0000);
}

#[test]
fn fp_is_enabled_and_the_unknown_is_undefined() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    let before = snapshot(&mut vcpu);
    assert_eq!(guest.trap(&mut vcpu, 0x1fe0_0000), GuestAction::EnableFp);
    assert!(snapshot(&mut vcpu) == before, "the instruction runs again");
    // SVE, an undefined instruction, a trapped ERET, pointer authentication, and an unallocated class.
    for class in [0x19_u64, 0x00, 0x1a, 0x09, 0x3f] {
        assert_eq!(guest.trap(&mut vcpu, class << 26 | 1 << 25), GuestAction::Resume);
        let after = snapshot(&mut vcpu);
        assert_eq!(after.registers.system.esr_el1, 0x0200_0000, "class {class:#x}");
    }
}

#[test]
fn whatever_the_syndrome_the_hypervisor_goes_on() {
    let guest = Guest::new(true);
    for class in 0..64_u64 {
        for iss in [0, 0x47, 0x87, 0x1ff_ffff, 0x155_5555, 0x0aa_aaaa, 0x100_0007] {
            for ipa in [0, DEVICE << 12, (GUEST_FIRST << 12) + 0xfff, u64::MAX >> 8, u64::MAX] {
                let mut vcpu = guest.load(0);
                let _ = guest.abort(&mut vcpu, class << 26 | iss, ipa);
                assert!(!vcpu.is_stopped());
            }
        }
    }
}

#[test]
fn exits_and_calls_are_counted() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    guest.call(&mut vcpu, [0x8600_0000, 0, 0, 0]);
    guest.call(&mut vcpu, [0xc600_0002, 0, 0, 0]);
    guest_exit(&mut vcpu, &guest.services(), Trap::Interrupt);
    drop(vcpu);
    let counters = HostCall::VmCounters { vm: guest.vm.vm };
    let x = guest.hypervisor.host_call(&counters).unwrap();
    assert_eq!(x[..3], [2, 1, 0]);
}

#[test]
fn what_the_host_is_told_does_not_depend_on_a_secret() {
    let esrs = [
        0x07e0_0000, // wfi
        0x9303_0007, // ldrb from a device
        0x9200_0007, // ldp
        0x8200_0007, // fetch
        0x1fe0_0000, // FP
        0x6230_00a9, // mrs
        0x0200_0000, // undefined
    ];
    for esr in esrs {
        for ipa in [DEVICE << 12, (GUEST_FIRST + 7) << 12] {
            let [one, other] = [0, u64::MAX].map(|secret| {
                let guest = Guest::new(true);
                let mut vcpu = guest.load(0);
                vcpu.with_context(|context| {
                    context.registers.x = [secret; 31];
                    context.fp.q = [secret.into(); 32];
                    context.registers.system.ttbr0_el1 = secret;
                    context.registers.system.tpidr_el1 = secret;
                    context.registers.system.elr_el1 = secret;
                });
                // The virtual address is the guest's secret too: only its page offset may show.
                let trap = Trap::Synchronous(SyndromeRegisters {
                    esr,
                    far: secret & !0xfff,
                    hpfar: (ipa >> 12) << 4,
                });
                guest_exit(&mut vcpu, &guest.services(), trap)
            });
            assert_eq!(one, other, "ESR {esr:#x}, IPA {ipa:#x}");
        }
    }
}
