//! Runs the host: its loop, its calls and traps, and the execution of the core's decisions on this CPU.

use hyp_core::call::host::{HostAction, host_call, vcpu_ran};
use hyp_core::cpu::syndrome;
use hyp_core::trap::host::host_trap;
use shared_abi::record::Record;

use super::{guest, host_psci};
use crate::arch::{self, controls};
use crate::cpu::switch::{self, AfterHypercall, Vector};
use crate::cpu::{Cpu, el1_registers, select};
use crate::machine::console;
use crate::machine::el2::El2;

/// Runs the host on this CPU. Never returns.
pub(crate) fn run(cpu: &mut Cpu) -> ! {
    // SAFETY: `Cpu::new` made `cpu` for this CPU, and the host runs next.
    unsafe { select::select_host(&cpu.controls, cpu.fp.traps()) };
    console::record(&Record::HostCpu {
        cpu: cpu.index.0 as u64,
        stage2: controls::stage2_is_on(arch::read!("hcr_el2")),
    });
    El2.note_entry();
    loop {
        // SAFETY: `cpu` is borrowed mutably, so only `enter` and `hypercall`, which takes a `Cpu`, use `cpu.host`
        // until `enter` returns. Its PSTATE is one that the host had at EL1 or EL0, or that of a started CPU or an
        // injected exception. The CPU holds the host's system registers: `guest::run` and `synchronous` load them
        // again.
        let vector = unsafe { switch::enter(&raw mut cpu.host, (&raw mut *cpu).cast(), hypercall) };
        if vector == Vector::Synchronous {
            synchronous(cpu);
        }
        // HCR_EL2 routes the host's interrupts to EL1. If one still came to EL2, it stays pending, and the host takes
        // it.
        El2.note_entry();
    }
}

/// Handles an HVC that the host executes in AArch64 state.
///
/// # Safety
///
/// `cpu` points to the [`Cpu`] of this CPU, and no other code uses it until this returns.
unsafe extern "C" fn hypercall(cpu: *mut ()) -> AfterHypercall {
    // SAFETY: `run` passes its own `Cpu` to `enter`, and does not use it before `enter` returns.
    let cpu = unsafe { &mut *cpu.cast::<Cpu>() };
    #[cfg(feature = "oracle")]
    let _looks = crate::oracle::host_exception(&cpu.host, arch::read!("esr_el2"));
    let action = host_call(cpu.hypervisor, &mut cpu.host, syndrome::immediate(arch::read!("esr_el2")));
    act(cpu, action);
    El2.note_entry();
    AfterHypercall::Resume
}

/// Handles any other synchronous exception of the host.
fn synchronous(cpu: &mut Cpu) {
    // The core injects exceptions into stored registers, so they are stored first.
    el1_registers::save_system(&mut cpu.host.system);
    let syndrome = el1_registers::syndrome();
    #[cfg(feature = "oracle")]
    let _looks = crate::oracle::host_exception(&cpu.host, syndrome.esr);
    let action = host_trap(cpu.hypervisor, &mut cpu.host, syndrome, cpu.services.id_register);
    // SAFETY: `cpu.host.system` is the host's: it was stored above, and an injected exception may have changed it.
    // The host's stage 2 is selected, and the host runs next.
    unsafe { el1_registers::load_system(&cpu.host.system) };
    act(cpu, action);
}

/// Executes the core's decision.
fn act(cpu: &mut Cpu, action: HostAction) {
    match action {
        HostAction::Resume => {}
        HostAction::EnableFp => cpu.fp.give_to_host(),
        HostAction::RunVcpu { vm, vcpu, entry } => {
            let result = guest::run(cpu, vm, vcpu, &entry);
            vcpu_ran(cpu.hypervisor, &mut cpu.host, result);
        }
        HostAction::Power(request) => cpu.host.x[0] = host_psci::serve(cpu, request),
    }
}
