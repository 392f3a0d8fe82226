//! Running a vCPU: from the host's `VcpuRun` to the exit that the host is told of.

use hyp_core::exit::{GuestAction, Services, Trap, guest_entry, guest_exit, guest_hypercall};
use hyp_core::loaded::Loaded;
use hyp_core::syndrome::{self, SysRegId};
use shared_abi::error::CallError;
use shared_abi::host_call::{VcpuIndex, VmHandle};
use shared_abi::vcpu::{Entry, Exit, ExitRecord};

use crate::cpu::Cpu;
use crate::el2::El2;
use crate::switch::{self, Then, Vector};
use crate::{arch, boot, gic, state, trace};

/// A vCPU that runs, as its hypercalls see it.
struct Running {
    loaded: Loaded<'static, 'static, El2>,
    services: Services<'static>,
    /// What a hypercall came to that is not just answered.
    action: GuestAction,
}

/// Enters a vCPU on this CPU until it exits.
///
/// # Errors
///
/// Why it was not entered.
pub(crate) fn run(
    cpu: &mut Cpu,
    vm: VmHandle,
    vcpu: VcpuIndex,
    entry: &Entry,
) -> Result<ExitRecord, CallError> {
    #[cfg(feature = "oracle")]
    let _looks = crate::oracle::after(crate::oracle::Calls::NONE);
    let used = gic::used(&entry.list_registers)?;
    let mut loaded = cpu.hypervisor.vcpu_load(cpu.index, vm, vcpu)?;
    guest_entry(&mut loaded, entry.resume)?;

    state::save_system(&mut cpu.host_system);
    let space = loaded.space();
    loaded.with_context(|context| {
        // SAFETY: this CPU has claimed the vCPU, and these are its registers and its VM's stage 2.
        unsafe {
            state::load_system(&context.system);
            gic::load(&context.gic, &entry.list_registers, used);
            state::select_guest(space, context.vmpidr);
        }
    });
    let mut running = Running {
        loaded,
        services: Services {
            trng: boot::trng(),
            id_register,
        },
        action: GuestAction::Resume,
    };
    let mut exit = until_exit(cpu, &mut running);
    let record = running.loaded.with_context(|context| {
        Cpu::take_fp_from_guest(context);
        if let Exit::Wfi { deadline } = &mut exit {
            *deadline = context.timer_deadline();
        }
        ExitRecord {
            exit,
            list_registers: gic::save(&mut context.gic, used),
            timer_fired: context.timer_fired(arch::read!("cntvct_el0")),
        }
    });
    // SAFETY: the host's own, which runs next.
    unsafe {
        state::load_system(&cpu.host_system);
        state::select_host(cpu.hypervisor.host_space(), cpu.traps_host_fp());
    }
    Ok(record)
}

/// Enters the loaded vCPU again and again, as long as the hypervisor answers it alone. When this
/// returns, its system registers are stored.
fn until_exit(cpu: &mut Cpu, running: &mut Running) -> Exit {
    loop {
        trace::enter();
        let registers = running
            .loaded
            .with_context(|context| (&raw mut *context).cast());
        // SAFETY: a context starts with the registers (asserted in switch.rs), this CPU has claimed it,
        // and `run` has loaded the system registers. Only `VcpuContext::new`, the guest itself and
        // injected exceptions set PSTATE, to EL1 or EL0. `hypercall` takes a `Running`.
        let vector = unsafe { switch::enter(registers, (&raw mut *running).cast(), hypercall) };
        let Running {
            loaded, services, ..
        } = running;
        // Whatever may make the guest take an exception works on stored registers.
        loaded.with_context(|context| state::save_system(&mut context.system));
        #[cfg(feature = "oracle")]
        let _looks = crate::oracle::after(crate::oracle::Calls::GUEST);
        let action = match vector {
            Vector::Hypercall => running.action,
            Vector::Synchronous => {
                let trap = Trap::Synchronous {
                    esr: arch::read!("esr_el2"),
                    far: arch::read!("far_el2"),
                    hpfar: arch::read!("hpfar_el2"),
                };
                guest_exit(loaded, services, trap)
            }
            Vector::Interrupt => guest_exit(loaded, services, Trap::Interrupt),
            Vector::SError => guest_exit(loaded, services, Trap::SystemError),
        };
        match action {
            GuestAction::Exit(exit) => return exit,
            GuestAction::EnableFp => {
                loaded.with_context(|context| cpu.give_fp_to_guest(context));
            }
            GuestAction::Resume => loaded.with_context(|context| {
                // SAFETY: the vCPU's own, as stored above and perhaps changed by an exception.
                unsafe { state::load_system(&context.system) }
            }),
        }
    }
}

/// Answers a hypercall while the guest's registers are still in the CPU, all but x0 to x18 and x30.
///
/// # Safety
///
/// `running` points to the [`Running`] of the vCPU that made the call, which nobody else uses.
unsafe extern "C" fn hypercall(running: *mut ()) -> Then {
    // SAFETY: the caller's promise: `until_exit` has lent it to `enter`.
    let running = unsafe { &mut *running.cast::<Running>() };
    #[cfg(feature = "oracle")]
    let _looks = crate::oracle::after(crate::oracle::Calls::GUEST);
    let imm = syndrome::immediate(arch::read!("esr_el2"));
    match guest_hypercall(&mut running.loaded, &running.services, imm) {
        GuestAction::Resume => {
            trace::enter();
            Then::Resume
        }
        action => {
            running.action = action;
            Then::Return
        }
    }
}

/// Reads an ID register of this CPU: op0 = 3, op1 = 0, CRn = 0, CRm = 1 to 7.
pub(crate) fn id_register(register: SysRegId) -> u64 {
    macro_rules! by_encoding {
        ($crm:expr, $op2:expr; $($m:literal)*) => {
            match ($crm, $op2) {
                $(
                    ($m, 0) => arch::read!(concat!("s3_0_c0_c", $m, "_0")),
                    ($m, 1) => arch::read!(concat!("s3_0_c0_c", $m, "_1")),
                    ($m, 2) => arch::read!(concat!("s3_0_c0_c", $m, "_2")),
                    ($m, 3) => arch::read!(concat!("s3_0_c0_c", $m, "_3")),
                    ($m, 4) => arch::read!(concat!("s3_0_c0_c", $m, "_4")),
                    ($m, 5) => arch::read!(concat!("s3_0_c0_c", $m, "_5")),
                    ($m, 6) => arch::read!(concat!("s3_0_c0_c", $m, "_6")),
                    ($m, 7) => arch::read!(concat!("s3_0_c0_c", $m, "_7")),
                )*
                _ => 0,
            }
        };
    }
    let (_, _, _, crm, op2) = register.fields();
    by_encoding!(crm, op2; 1 2 3 4 5 6 7)
}
