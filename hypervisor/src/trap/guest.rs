//! Runs a vCPU: from the host's call `VcpuRun` to the exit record that the host gets.

use hyp_core::call::guest::{Services, guest_call};
use hyp_core::cpu::registers::Registers;
use hyp_core::cpu::syndrome;
use hyp_core::trap::guest::{Trap, guest_entry, guest_exit};
use hyp_core::vcpu::GuestAction;
use hyp_core::vcpu::loaded::LoadedVcpu;
use shared_abi::error::CallError;
use shared_abi::host_call::{VcpuIndex, VmHandle};
use shared_abi::vcpu::{Entry, Exit, ExitRecord};

use crate::arch;
use crate::cpu::fp::HostFp;
use crate::cpu::select::{self, HostControls};
use crate::cpu::switch::{self, AfterHypercall, Vector};
use crate::cpu::{Cpu, el1_registers, gic};
use crate::machine::el2::{CoreMachine, El2};

/// The running vCPU, for [`hypercall`].
struct Running<'a> {
    loaded: &'a mut LoadedVcpu<'static, 'static, CoreMachine>,
    services: &'a Services<'static>,
    /// The action after a hypercall, if it is not to resume the guest.
    action: GuestAction,
}

/// Enters a vCPU on this CPU and runs it until an exit.
///
/// # Errors
///
/// The reason to refuse the entry.
pub(crate) fn run(
    cpu: &mut Cpu,
    vm: VmHandle,
    vcpu: VcpuIndex,
    entry: &Entry,
) -> Result<ExitRecord, CallError> {
    let Cpu { services, vcpu_cache, controls, host, fp, .. } = cpu;
    let mut run = |loaded: &mut _| {
        guest_entry(loaded, entry.resume).map(|()| run_loaded(loaded, services, entry, controls, host, fp))
    };
    vcpu_cache.run(vm, vcpu, &mut run)
}

/// Runs a vCPU that this CPU owns, until an exit. The CPU holds the host's system registers before and after it.
fn run_loaded(
    loaded: &mut LoadedVcpu<'static, 'static, CoreMachine>,
    services: &Services<'static>,
    entry: &Entry,
    controls: &HostControls,
    host: &mut Registers,
    fp: &mut HostFp,
) -> ExitRecord {
    el1_registers::save_system(&mut host.system);
    let stage2_id = loaded.stage2_id();
    loaded.with_context(|context| {
        // SAFETY: `VcpuCache::run` has made this CPU the owner of the vCPU. `context` is that vCPU's, `stage2_id` is
        // its VM's, and `controls` is this CPU's. `until_exit` enters that vCPU next.
        unsafe {
            el1_registers::load_system(&context.registers.system);
            gic::load(&context.gic, entry.list_registers);
            select::select_guest(controls, stage2_id, context.vmpidr);
        }
    });
    let mut running = Running { loaded, services, action: GuestAction::Resume };
    let mut exit = until_exit(fp, &mut running);
    let record = running.loaded.with_context(|context| {
        HostFp::take_from_guest(context);
        if let Exit::Wfi { deadline } = &mut exit {
            *deadline = context.timer_deadline();
        }
        ExitRecord {
            exit,
            list_registers: gic::save(&mut context.gic),
            timer_fired: context.timer_fired(arch::read!("cntvct_el0")),
        }
    });
    // SAFETY: `save_system` stored the host's system registers in `host` above, `controls` is this CPU's, and the
    // host runs next.
    unsafe {
        el1_registers::load_system(&host.system);
        select::select_host(controls, fp.traps());
    }
    record
}

/// Enters the loaded vCPU until an exit needs the host. Its system registers are stored when this returns.
fn until_exit(fp: &mut HostFp, running: &mut Running<'_>) -> Exit {
    loop {
        El2.note_entry();
        let registers = running.loaded.with_context(|context| &raw mut context.registers);
        // SAFETY: this CPU owns the vCPU, so only `enter` and `hypercall`, which takes a `Running`, use its registers
        // until `enter` returns. `run_loaded` has loaded its system registers. Its PSTATE is one of EL1 or EL0: only
        // `VcpuContext::new`, the guest itself and injected exceptions set it.
        let vector = unsafe { switch::enter(registers, (&raw mut *running).cast(), hypercall) };
        let Running { loaded, services, action } = &mut *running;
        // The core injects exceptions into stored registers, so they are stored first.
        loaded.with_context(|context| el1_registers::save_system(&mut context.registers.system));
        #[cfg(feature = "oracle")]
        let _looks = crate::oracle::after(crate::oracle::Calls::GUEST);
        let action = match vector {
            Vector::Hypercall => *action,
            Vector::Synchronous => guest_exit(loaded, services, Trap::Synchronous(el1_registers::syndrome())),
            Vector::Interrupt => guest_exit(loaded, services, Trap::Interrupt),
            Vector::SError => guest_exit(loaded, services, Trap::SystemError),
        };
        match action {
            GuestAction::Exit(exit) => return exit,
            GuestAction::EnableFp => {
                loaded.with_context(|context| fp.give_to_guest(context));
            }
            GuestAction::Resume => loaded.with_context(|context| {
                // SAFETY: `context` is this vCPU's: it was stored above, and an injected exception may have changed
                // it. Its stage 2 is still selected, and it runs next.
                unsafe { el1_registers::load_system(&context.registers.system) }
            }),
        }
    }
}

/// Handles a hypercall of the guest. Only x0 to x18, x30, PC and PSTATE of its registers are stored.
///
/// # Safety
///
/// `running` points to the [`Running`] of the vCPU that made the call, and no other code uses it until this returns.
unsafe extern "C" fn hypercall(running: *mut ()) -> AfterHypercall {
    // SAFETY: `until_exit` passes its own `Running` to `enter`, and does not use it before `enter` returns.
    let running = unsafe { &mut *running.cast::<Running<'_>>() };
    #[cfg(feature = "oracle")]
    let _looks = crate::oracle::after(crate::oracle::Calls::GUEST);
    let imm = syndrome::immediate(arch::read!("esr_el2"));
    match guest_call(running.loaded, running.services, imm) {
        GuestAction::Resume => {
            El2.note_entry();
            AfterHypercall::Resume
        }
        action => {
            running.action = action;
            AfterHypercall::Return
        }
    }
}
