//! Running a vCPU: from the host's `VcpuRun` to the exit that the host is told of.

use hyp_core::exit::{GuestAction, Services, Trap, guest_entry, guest_exit};
use hyp_core::hypervisor::Hypervisor;
use hyp_core::loaded::Loaded;
use hyp_core::syndrome::{Syndrome, SysRegId};
use shared_abi::error::CallError;
use shared_abi::host_call::{VcpuIndex, VmHandle};
use shared_abi::vcpu::{Entry, Exit, ExitRecord};

use crate::cpu::Cpu;
use crate::el2::El2;
use crate::switch::{self, Vector};
use crate::{arch, boot, gic, state};

/// Enters a vCPU on this CPU until it exits.
///
/// # Errors
///
/// Why it was not entered.
pub(crate) fn run(
    hypervisor: &Hypervisor<'static, El2>,
    cpu: &mut Cpu,
    vm: VmHandle,
    vcpu: VcpuIndex,
    entry: &Entry,
) -> Result<ExitRecord, CallError> {
    gic::check(&entry.list_registers)?;
    let mut loaded = hypervisor.vcpu_load(cpu.index, vm, vcpu)?;
    guest_entry(&mut loaded, entry.resume)?;

    state::save_system(&mut cpu.host_system);
    let space = loaded.space();
    loaded.with_context(|context| {
        // SAFETY: this CPU has claimed the vCPU, and these are its registers and its VM's stage 2.
        unsafe {
            state::load_system(&context.system);
            gic::load(&context.gic, &entry.list_registers);
            state::select_guest(space, context.vmpidr);
        }
    });
    let services = Services {
        trng: boot::trng(),
        id_register,
    };
    let mut exit = until_exit(cpu, &mut loaded, &services);
    let record = loaded.with_context(|context| {
        state::save_system(&mut context.system);
        Cpu::take_fp_from_guest(context);
        if let Exit::Wfi { deadline } = &mut exit {
            *deadline = context.timer_deadline();
        }
        ExitRecord {
            exit,
            list_registers: gic::save(&mut context.gic),
            timer_fired: context.timer_fired(arch::read!("cntvct_el0")),
        }
    });
    // SAFETY: the host's own, which runs next.
    unsafe {
        state::load_system(&cpu.host_system);
        state::select_host(hypervisor.host_space(), cpu.traps_host_fp());
    }
    Ok(record)
}

/// Enters the loaded vCPU again and again, as long as the hypervisor answers it alone.
fn until_exit(
    cpu: &mut Cpu,
    loaded: &mut Loaded<'_, 'static, El2>,
    services: &Services<'_>,
) -> Exit {
    loop {
        let vector = loaded.with_context(|context| {
            // SAFETY: a context starts with the registers (asserted in switch.rs), this CPU has
            // claimed it, and `run` has loaded the system registers. Only `VcpuContext::new`, the
            // guest itself and injected exceptions set PSTATE, to EL1 or EL0.
            unsafe { switch::enter((&raw mut *context).cast()) }
        });
        let trap = match vector {
            Vector::Synchronous => Trap::Synchronous {
                esr: arch::read!("esr_el2"),
                far: arch::read!("far_el2"),
                hpfar: arch::read!("hpfar_el2"),
            },
            Vector::Interrupt => Trap::Interrupt,
            Vector::SError => Trap::SystemError,
        };
        // Hypercalls need none of the system registers; whatever else may make the guest take an
        // exception works on stored ones.
        let stored = !is_hypercall(trap);
        if stored {
            loaded.with_context(|context| state::save_system(&mut context.system));
        }
        match guest_exit(loaded, services, trap) {
            GuestAction::Exit(exit) => return exit,
            GuestAction::EnableFp => {
                loaded.with_context(|context| cpu.give_fp_to_guest(context));
            }
            GuestAction::Resume if stored => loaded.with_context(|context| {
                // SAFETY: the vCPU's own, as stored above and perhaps changed by an exception.
                unsafe { state::load_system(&context.system) }
            }),
            GuestAction::Resume => {}
        }
    }
}

fn is_hypercall(trap: Trap) -> bool {
    matches!(trap, Trap::Synchronous { esr, .. } if Syndrome::hvc_immediate(esr).is_some())
}

/// Reads an ID register of this CPU: op0 = 3, op1 = 0, CRn = 0, CRm = 1 to 7.
fn id_register(register: SysRegId) -> u64 {
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
