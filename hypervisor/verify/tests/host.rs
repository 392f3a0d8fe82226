//! The host's calls and traps by registers, as the vectors bring them: each trap ends in one of the actions that the
//! binary knows, and none is fatal.

use hyp_core::call::host::{HostAction, host_call, vcpu_ran};
use hyp_core::call::psci::host::PowerRequest;
use hyp_core::cpu::registers::Registers;
use hyp_core::cpu::syndrome::SyndromeRegisters;
use hyp_core::trap::host::host_trap;
use shared_abi::addr::Gfn;
use shared_abi::error::CallError;
use shared_abi::host_call::{HostCall, VERSION, VcpuIndex, VmHandle};
use shared_abi::vcpu::{Entry, Exit, ExitRecord, ListRegister, Resume};

use super::bench_machine::*;

/// ESR_EL2 of a 32-bit instruction of class `class` (DDI0487, D19.2.42).
const fn esr(class: u64, iss: u64) -> u64 {
    class << 26 | 1 << 25 | iss
}

const WFX: u64 = 0x01;
const FP: u64 = 0x07;
const HVC: u64 = 0x16;
const SMC: u64 = 0x17;
const SYSREG: u64 = 0x18;
const SVE: u64 = 0x19;
const INSTRUCTION_ABORT: u64 = 0x20;
const DATA_ABORT: u64 = 0x24;

/// A translation fault at level 3; a synchronous external abort.
const TRANSLATION: u64 = 0b00_0111;
const EXTERNAL: u64 = 0b01_0000;
/// ISS bits of a data abort: WnR, CM, FnV.
const WRITE: u64 = 1 << 6;
const CACHE_MAINTENANCE: u64 = 1 << 8;
const FAR_NOT_VALID: u64 = 1 << 10;

/// PC, vector base and the offset of the vector that EL1h takes (DDI0487, table D1-6).
const PC: u64 = 0x8_0000;
const VBAR: u64 = 0x10_0000;
const SYNCHRONOUS: u64 = 0x200;
/// ESR_EL1 of an undefined instruction, and of an external abort on a load: classes 0 and 0x25.
const UNDEFINED: u64 = 1 << 25;
const ABORT_ON_LOAD: u64 = 0x25 << 26 | 1 << 25 | 0x10;
const ABORT_ON_FETCH: u64 = 0x21 << 26 | 1 << 25 | 0x10;

/// The host at EL1h, before a trap. Each general register has its own value.
fn host() -> Registers {
    let mut registers = Registers { pc: PC, pstate: 0x3c5, ..Registers::default() };
    for (value, register) in (0x100..).zip(&mut registers.x) {
        *register = value;
    }
    registers.system.vbar_el1 = VBAR;
    registers.system.sctlr_el1 = 1 << 23; // SPAN: PAN stays
    registers
}

/// An ID register with all fields present.
fn id_register(_: hyp_core::cpu::syndrome::SysRegId) -> u64 {
    0x1111_1111_1111_1111
}

/// Brings a trap with this ESR and a fault at `page`. Returns the action and the registers after it.
fn trap(hypervisor: &TinyHypervisor, esr: u64, page: u64) -> (HostAction, Registers) {
    let mut registers = host();
    let syndrome = SyndromeRegisters { esr, far: 0xdead_b000, hpfar: page << 4 };
    let action = host_trap(hypervisor, &mut registers, syndrome, id_register);
    (action, registers)
}

/// The trap ends in an exception at EL1 with this ESR_EL1, and nothing else changes.
fn assert_exception(hypervisor: &TinyHypervisor, esr: u64, page: u64, esr_el1: u64, far_el1: u64) {
    let (action, after) = trap(hypervisor, esr, page);
    let mut expected = host();
    expected.system.elr_el1 = PC;
    expected.system.spsr_el1 = expected.pstate;
    expected.system.esr_el1 = esr_el1;
    expected.system.far_el1 = far_el1;
    expected.pc = VBAR + SYNCHRONOUS;
    assert_eq!(action, HostAction::Resume, "{esr:#x}");
    assert_eq!(after.system, expected.system, "{esr:#x}");
    assert!(after == expected, "{esr:#x}");
}

#[test]
fn an_access_to_a_page_that_is_not_the_hosts_becomes_an_external_abort() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    vm.populate(&hypervisor, 0, 80, 1).unwrap();
    let far = 0xdead_b000;
    for (aborts, page) in (0..).zip([80, 55, 12, DENIED.0]) {
        assert_eq!(hypervisor.host_aborts(), 5 * aborts);
        assert_exception(&hypervisor, esr(DATA_ABORT, TRANSLATION), page, ABORT_ON_LOAD, far);
        assert_exception(&hypervisor, esr(DATA_ABORT, TRANSLATION | WRITE), page, ABORT_ON_LOAD | WRITE, far);
        let maintenance = TRANSLATION | WRITE | CACHE_MAINTENANCE;
        assert_exception(&hypervisor, esr(DATA_ABORT, maintenance), page, ABORT_ON_LOAD, far);
        assert_exception(&hypervisor, esr(INSTRUCTION_ABORT, TRANSLATION), page, ABORT_ON_FETCH, far);
        let unknown = TRANSLATION | FAR_NOT_VALID;
        assert_exception(&hypervisor, esr(DATA_ABORT, unknown), page, ABORT_ON_LOAD | FAR_NOT_VALID, 0);
    }
}

#[test]
fn an_access_that_the_host_may_make_is_retried() {
    let hypervisor = tiny();
    let before = host();
    for (class, page) in [(DATA_ABORT, 80), (INSTRUCTION_ABORT, 80), (DATA_ABORT, 1)] {
        let (action, after) = trap(&hypervisor, esr(class, TRANSLATION), page);
        assert_eq!(action, HostAction::Resume);
        assert!(after == before, "class {class:#x}, page {page}");
    }
    assert_eq!(hypervisor.host_aborts(), 0);
    // A device is never executable.
    assert_exception(&hypervisor, esr(INSTRUCTION_ABORT, TRANSLATION), 1, ABORT_ON_FETCH, 0xdead_b000);
}

#[test]
fn memory_that_fails_is_no_translation_to_retry() {
    let hypervisor = tiny();
    // HPFAR_EL2 is not valid: page 80, which it happens to name, is the host's.
    assert_exception(&hypervisor, esr(DATA_ABORT, EXTERNAL), 80, ABORT_ON_LOAD, 0xdead_b000);
    assert_eq!(hypervisor.host_aborts(), 1);
}

#[test]
fn an_instruction_that_the_host_does_not_have_is_undefined() {
    let hypervisor = tiny();
    for class in [WFX, HVC, SVE, 0x3f] {
        assert_exception(&hypervisor, esr(class, 0), 80, UNDEFINED, 0);
    }
    // MSR of ICC_SGI1R_EL1 (S3_0_C12_C11_5), and of SCTLR_EL2 (S3_4_C1_C0_0), from x3.
    for register in [3 << 20 | 5 << 17 | 12 << 10 | 11 << 1, 3 << 20 | 4 << 14 | 1 << 10] {
        assert_exception(&hypervisor, esr(SYSREG, register | 3 << 5), 80, UNDEFINED, 0);
    }
}

#[test]
fn an_id_register_shows_what_is_on_the_list() {
    let hypervisor = tiny();
    // MRS of ID_AA64PFR1_EL1 (S3_0_C0_C4_1) to x3: BT and SSBS, each up to a value; all else is hidden.
    let read = 3 << 20 | 1 << 17 | 4 << 1 | 3 << 5 | 1;
    let (action, after) = trap(&hypervisor, esr(SYSREG, read), 80);
    let mut expected = host();
    expected.x[3] = 0x11;
    expected.pc = PC + 4;
    assert_eq!(action, HostAction::Resume);
    assert!(after == expected, "x3 = {:#x}", after.x[3]);
}

#[test]
fn fp_is_given_back_at_the_first_use() {
    let (action, after) = trap(&tiny(), esr(FP, 0), 80);
    assert_eq!(action, HostAction::EnableFp);
    assert!(after == host());
}

#[test]
fn an_smc_is_the_same_call_and_is_skipped() {
    let hypervisor = tiny();
    let (version, _) = HostCall::Version.emit();
    for (imm, results) in [(0, [0, VERSION]), (1, [CallError::NotSupported.code(), 0])] {
        let mut registers = host();
        registers.x[0] = version.into();
        let syndrome = SyndromeRegisters { esr: esr(SMC, imm), far: 0, hpfar: 0 };
        let action = host_trap(&hypervisor, &mut registers, syndrome, id_register);
        assert_eq!((action, registers.pc), (HostAction::Resume, PC + 4));
        assert_eq!(registers.x[..2], results, "immediate {imm}");
        assert_eq!(registers.x[6..], host().x[6..]);
    }
}

#[test]
fn a_run_and_a_power_call_are_the_binarys_to_carry_out() {
    let hypervisor = tiny();
    let call = |x: [u64; 18]| {
        let mut registers = host();
        registers.x[..18].copy_from_slice(&x);
        let before = registers.x;
        (host_call(&hypervisor, &mut registers, 0), registers.x, before)
    };
    let (vm, vcpu) = (VmHandle(0x101), VcpuIndex(2));
    let entry = Entry { resume: Resume::MmioRead(7), list_registers: [ListRegister(0); 4] };
    let (function, arguments) = HostCall::VcpuRun { vm, vcpu, entry }.emit();
    let mut x = [0; 18];
    x[0] = function.into();
    x[1..].copy_from_slice(&arguments);
    let (action, after, before) = call(x);
    assert_eq!((action, after), (HostAction::RunVcpu { vm, vcpu, entry }, before));
    x[3] = 4; // no such action on resume
    let (action, after, _) = call(x);
    assert_eq!((action, after[0]), (HostAction::Resume, CallError::InvalidParameter.code()));

    x = [0; 18];
    x[0] = 0x8400_0002; // CPU_OFF
    assert_eq!(call(x).0, HostAction::Power(PowerRequest::CpuOff));
    x[0] = 0x8400_0000; // PSCI_VERSION
    let (action, after, before) = call(x);
    assert_eq!((action, after[0]), (HostAction::Resume, 0x1_0001));
    assert_eq!(after[1..], before[1..]);
}

#[test]
fn a_run_returns_its_exit_in_x1_to_x9_and_nothing_else() {
    let hypervisor = tiny();
    let exit = Exit::MemoryFault { gfn: Gfn(5) };
    let list_registers = [1, 2, 3, 4].map(ListRegister);
    let mut registers = host();
    vcpu_ran(&hypervisor, &mut registers, Ok(ExitRecord { exit, list_registers, timer_fired: true }));
    assert_eq!(registers.x[..10], [0, 4, 5, 0, 0, 1, 2, 3, 4, 1]);
    assert_eq!(registers.x[10..], host().x[10..]);

    let mut registers = host();
    vcpu_ran(&hypervisor, &mut registers, Err(CallError::Busy));
    assert_eq!(registers.x[..2], [CallError::Busy.code(), 0]);
    assert_eq!(registers.x[2..], host().x[2..]);
}
