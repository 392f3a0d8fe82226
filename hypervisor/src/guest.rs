//! Running a vCPU: from the host's `VcpuRun` to the exit that the host is told of.

use hyp_core::call::guest::{Services, guest_call};
use hyp_core::cpu::registers::Registers;
use hyp_core::cpu::syndrome::{self, SysRegId};
use hyp_core::trap::guest::{Trap, guest_entry, guest_exit};
use hyp_core::vcpu::GuestAction;
use hyp_core::vcpu::loaded::LoadedVcpu;
use shared_abi::error::CallError;
use shared_abi::host_call::{VcpuIndex, VmHandle};
use shared_abi::vcpu::{Entry, Exit, ExitRecord};

use crate::cpu::{Cpu, HostFp};
use crate::el2::El2;
use crate::state::OwnTraps;
use crate::switch::{self, AfterHypercall, Vector};
use crate::{arch, gic, state};

/// A vCPU that runs, as its hypercalls see it.
struct Running<'a> {
    loaded: &'a mut LoadedVcpu<'static, 'static, El2>,
    services: &'a Services<'static>,
    /// What a hypercall came to that is not just answered.
    action: GuestAction,
}

/// Enters a vCPU on this CPU until it exits.
///
/// # Errors
///
/// Why it was not entered.
#[inline(always)]
pub(crate) fn run(
    cpu: &mut Cpu,
    vm: VmHandle,
    vcpu: VcpuIndex,
    entry: &Entry,
) -> Result<ExitRecord, CallError> {
    let Cpu { services, vcpu_cache, traps, host, fp, .. } = cpu;
    let mut run = |loaded: &mut _| {
        guest_entry(loaded, entry.resume).map(|()| run_loaded(loaded, services, entry, traps, host, fp))
    };
    vcpu_cache.run(vm, vcpu, &mut run)?
}

/// [`run`], of a vCPU that this CPU has taken; the host's is what is loaded before and after it.
#[inline(always)]
fn run_loaded(
    loaded: &mut LoadedVcpu<'static, 'static, El2>,
    services: &Services<'static>,
    entry: &Entry,
    traps: &OwnTraps,
    host: &mut Registers,
    fp: &mut HostFp,
) -> ExitRecord {
    state::save_system(&mut host.system);
    let stage2_id = loaded.stage2_id();
    loaded.with_context(|context| {
        // SAFETY: `VcpuCache::run` has taken the vCPU for this CPU, `context` and `stage2_id` are that vCPU's and its
        // VM's, and `traps` is this CPU's; EL1 runs next as that vCPU, in `until_exit`.
        unsafe {
            state::load_system(&context.registers.system);
            gic::load(&context.gic, entry.list_registers);
            state::select_guest(traps, stage2_id, context.vmpidr);
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
    // SAFETY: `host` is what was stored of this CPU's host above, `traps` is this CPU's, and the host runs
    // next.
    unsafe {
        state::load_system(&host.system);
        state::select_host(traps, fp.traps());
    }
    record
}

/// Enters the loaded vCPU again and again, as long as the hypervisor answers it alone. When this
/// returns, its system registers are stored.
#[inline(always)]
fn until_exit(fp: &mut HostFp, running: &mut Running<'_>) -> Exit {
    loop {
        El2.note_entry();
        let registers = running.loaded.with_context(|context| &raw mut context.registers);
        // SAFETY: they are the registers of a vCPU that this CPU has taken,
        // and `run_loaded` has loaded the system registers. Only `VcpuContext::new`, the guest itself and
        // injected exceptions set PSTATE, to EL1 or EL0. `hypercall` takes a `Running`.
        let vector = unsafe { switch::enter(registers, (&raw mut *running).cast(), hypercall) };
        let Running { loaded, services, action } = &mut *running;
        // Whatever may make the guest take an exception works on stored registers.
        loaded.with_context(|context| state::save_system(&mut context.registers.system));
        #[cfg(feature = "oracle")]
        let _looks = crate::oracle::after(crate::oracle::Calls::GUEST);
        let action = match vector {
            Vector::Hypercall => *action,
            Vector::Synchronous => guest_exit(loaded, services, Trap::Synchronous(state::syndrome())),
            Vector::Interrupt => guest_exit(loaded, services, Trap::Interrupt),
            Vector::SError => guest_exit(loaded, services, Trap::SystemError),
        };
        match action {
            GuestAction::Exit(exit) => return exit,
            GuestAction::EnableFp => {
                loaded.with_context(|context| fp.give_to_guest(context));
            }
            GuestAction::Resume => loaded.with_context(|context| {
                // SAFETY: `context` is the taken vCPU's, stored above and perhaps changed by an exception that it
                // takes; its stage 2 is still selected, and it runs next.
                unsafe { state::load_system(&context.registers.system) }
            }),
        }
    }
}

/// Answers a hypercall while the guest's registers are still in the CPU, all but x0 to x18 and x30.
///
/// # Safety
///
/// `running` points to the [`Running`] of the vCPU that made the call, which nobody else uses.
unsafe extern "C" fn hypercall(running: *mut ()) -> AfterHypercall {
    // SAFETY: the caller gives the pointer that `until_exit` made of its `Running`, which it does not use while
    // `enter` has it.
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

/// Reads an ID register of this CPU, of those of which EL1 is to see anything.
pub(crate) fn id_register(register: SysRegId) -> u64 {
    let (.., crm, op2) = register.fields();
    match (crm, op2) {
        (4, 0) => arch::read!("id_aa64pfr0_el1"),
        (4, 1) => arch::read!("id_aa64pfr1_el1"),
        (5, 0) => arch::read!("id_aa64dfr0_el1"),
        (6, 0) => arch::read!("id_aa64isar0_el1"),
        (6, 1) => arch::read!("id_aa64isar1_el1"),
        (6, 2) => arch::read!("s3_0_c0_c6_2"), // ID_AA64ISAR2_EL1
        (7, 0) => arch::read!("id_aa64mmfr0_el1"),
        (7, 1) => arch::read!("id_aa64mmfr1_el1"),
        (7, 2) => arch::read!("id_aa64mmfr2_el1"),
        _ => 0,
    }
}
