//! Running the host: from an entry to the next. The core decides about its calls and traps.

use hyp_core::call::host::{HostAction, host_call, vcpu_ran};
use hyp_core::cpu::syndrome;
use hyp_core::trap::host::host_trap;
use shared_abi::record::Record;

use crate::cpu::Cpu;
use crate::el2::El2;
use crate::switch::{self, AfterHypercall, Vector};
use crate::{arch, console, controls, guest, relay, state};

/// Runs the host on this CPU, for ever.
pub(crate) fn run(cpu: &mut Cpu) -> ! {
    // SAFETY: `cpu` is made for this CPU by `Cpu::new`, and the host runs next.
    unsafe { state::select_host(&cpu.traps, cpu.fp.traps()) };
    console::record(&Record::HostCpu {
        cpu: cpu.index.0 as u64,
        stage2: controls::stage2_is_on(arch::read!("hcr_el2")),
    });
    El2.note_entry();
    loop {
        // SAFETY: `cpu.host` is this CPU's, lent with `cpu` to `enter` and `hypercall`, which takes a `Cpu`. PSTATE in
        // it is the one that the host had at EL1 or EL0, or that of a started CPU or an injected exception. The
        // host's system registers are in the CPU: `guest::run` and `synchronous` put them back.
        let vector = unsafe { switch::enter(&raw mut cpu.host, (&raw mut *cpu).cast(), hypercall) };
        if vector == Vector::Synchronous {
            synchronous(cpu);
        }
        // The host takes its interrupts itself; one that came to EL2 anyway is still pending there.
        El2.note_entry();
    }
}

/// Handles an HVC of the host's from AArch64.
///
/// # Safety
///
/// `cpu` points to the [`Cpu`] of this CPU, which nobody else uses.
unsafe extern "C" fn hypercall(cpu: *mut ()) -> AfterHypercall {
    // SAFETY: `run` passes its own `Cpu` to `enter`, and does not use it before that returns.
    let cpu = unsafe { &mut *cpu.cast::<Cpu>() };
    #[cfg(feature = "oracle")]
    let _looks = crate::oracle::host_call(&cpu.host);
    let action = host_call(cpu.hypervisor, &mut cpu.host, syndrome::immediate(arch::read!("esr_el2")));
    act(cpu, action);
    El2.note_entry();
    AfterHypercall::Resume
}

/// Handles any other synchronous exception of the host's.
fn synchronous(cpu: &mut Cpu) {
    // An exception that is injected works on stored registers.
    state::save_system(&mut cpu.host.system);
    // An SMC is a call as well.
    #[cfg(feature = "oracle")]
    let _looks = crate::oracle::host_call(&cpu.host);
    let action = host_trap(cpu.hypervisor, &mut cpu.host, state::syndrome(), cpu.services.id_register);
    // SAFETY: `cpu.host` is this CPU's host, stored above and perhaps changed by an exception; the host's stage 2 is
    // selected, and the host runs next.
    unsafe { state::load_system(&cpu.host.system) };
    act(cpu, action);
}

/// Does what the core decided.
fn act(cpu: &mut Cpu, action: HostAction) {
    match action {
        HostAction::Resume => {}
        HostAction::EnableFp => cpu.fp.give_to_host(),
        HostAction::RunVcpu { vm, vcpu, entry } => {
            let result = guest::run(cpu, vm, vcpu, &entry);
            vcpu_ran(cpu.hypervisor, &mut cpu.host, result);
        }
        HostAction::Power(request) => cpu.host.x[0] = relay::serve(cpu, request),
    }
}
