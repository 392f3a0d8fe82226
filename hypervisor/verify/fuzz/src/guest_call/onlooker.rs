//! The registers that a guest's step may change.

use hyp_core::cpu::mmio::PendingAccess;
use hyp_core::cpu::registers::{SystemRegisters, pstate};
use hyp_core::vcpu::GuestAction;

use super::{EC_HVC, EC_SMC, Vcpu};

/// A guest's registers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Registers {
    pub(super) x: [u64; 31],
    pub(super) pc: u64,
    pub(super) pstate: u64,
    pub(super) system: SystemRegisters,
    pending: PendingAccess,
}

impl Registers {
    pub(super) fn of(vcpu: &mut Vcpu<'_, '_>) -> Self {
        vcpu.with_context(|context| Self {
            x: context.registers.x,
            pc: context.registers.pc,
            pstate: context.registers.pstate,
            system: context.registers.system,
            pending: context.pending,
        })
    }
}

/// Checks that a hypercall changes x0 to x3 only.
pub(super) fn check_hypercall(before: &Registers, after: &Registers, class: u64, action: GuestAction) {
    if before.pstate & pstate::AARCH32 != 0 {
        return; // the VM was stopped
    }
    assert_eq!(before.x[4..], after.x[4..], "x4 and up are preserved");
    assert_eq!(before.system, after.system);
    assert_eq!(before.pstate, after.pstate);
    let past = match class {
        EC_HVC => before.pc,
        _ => before.pc.wrapping_add(4),
    };
    let again = past.wrapping_sub(4);
    let runs_again = after.pc == again && matches!(action, GuestAction::Exit(_));
    assert!(after.pc == past || runs_again);
    if runs_again {
        assert_eq!(before.x, after.x, "a call that runs again keeps its arguments");
    }
}

/// Checks a trap that the core handled: it emulated the instruction, injected an exception, or retries.
pub(super) fn check_resumed(before: &Registers, after: &Registers, class: u64) {
    if class == EC_HVC || class == EC_SMC {
        return;
    }
    let done = after.pc == before.pc.wrapping_add(4);
    let again = after == before;
    if !done && !again {
        check_injected(before, after);
        return;
    }
    let changed = before.x.iter().zip(&after.x).filter(|(old, new)| old != new);
    assert!(changed.count() <= 1, "one register at most");
    assert_eq!(before.system, after.system);
}

/// Checks an exception that was injected into EL1 (Arm ARM DDI0487, D1.3).
pub(super) fn check_injected(before: &Registers, after: &Registers) {
    let offset = after.pc.wrapping_sub(before.system.vbar_el1);
    assert!(offset < 0x800 && offset.is_multiple_of(0x200), "vector {offset:#x}");
    assert_eq!(after.pstate & (pstate::MODE_MASK | pstate::AARCH32), pstate::EL1H);
    assert_eq!(after.pstate & pstate::DAIF, pstate::DAIF);
    assert_eq!(after.system.elr_el1, before.pc);
    assert_eq!(after.system.spsr_el1, before.pstate);
    assert_eq!(after.x, before.x);
}
