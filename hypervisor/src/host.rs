//! The host as EL2 sees it: entered, and answered when it comes back. Nothing that it does is fatal.

use core::sync::atomic::{AtomicU64, Ordering};

use hyp_core::event::Event;
use hyp_core::hypervisor::{CallFailure, HostAbort, HostAccess};
use hyp_core::inject::{Abort, Exception};
use hyp_core::machine::Machine as _;
use hyp_core::syndrome::{self, Fault, Syndrome, SysRegAccess};
use hyp_core::sysreg::{self, Outcome};
use hyp_core::vcpu::pstate;
use shared_abi::error::CallError;
use shared_abi::host_call::{Arguments, HostCall};
use shared_abi::record::Record;

use crate::cpu::Cpu;
use crate::el2::El2;
use crate::switch::{self, Registers, Then, Vector};
use crate::{arch, console, controls, guest, relay, state};

/// Faults injected into the host since it started.
static FAULTS: AtomicU64 = AtomicU64::new(0);

/// The length of every A64 instruction.
const INSTRUCTION_BYTES: u64 = 4;

/// How often the host was refused an access.
pub(crate) fn faults() -> u64 {
    FAULTS.load(Ordering::Relaxed)
}

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
        // it is what the host had at EL1 or EL0, or that of a started CPU or an injected exception. The host's
        // system registers are in the CPU: `guest::run` and `inject` put them back.
        let vector = unsafe { switch::enter(&raw mut cpu.host, (&raw mut *cpu).cast(), hypercall) };
        match vector {
            Vector::Synchronous => synchronous(cpu),
            _ => El2.note_entry(),
        }
        // The host takes its interrupts itself; one that got here anyway is still pending there.
    }
}

/// Answers an HVC of the host's, or an SMC, in the same way.
///
/// # Safety
///
/// `cpu` points to this CPU's [`Cpu`], which nobody else uses.
unsafe extern "C" fn hypercall(cpu: *mut ()) -> Then {
    // SAFETY: the caller gives the pointer that `run` made of its `Cpu`, which it does not use while `enter` has it,
    // or `synchronous` of the one that it borrows.
    let cpu = unsafe { &mut *cpu.cast::<Cpu>() };
    let function = cpu.host.x[0];
    match u32::try_from(function) {
        Ok(function) if syndrome::immediate(arch::read!("esr_el2")) == 0 => match function {
            HostCall::VCPU_RUN => run_vcpu(cpu),
            HostCall::OBJECT_POPULATE => {
                El2.event(|| Event::CallBegin(function));
                populate(cpu)
            }
            _ if relay::is_psci(function) => relay::call(cpu),
            _ => {
                El2.event(|| Event::CallBegin(function));
                ownership_call(cpu, function)
            }
        },
        _ => refuse(cpu),
    }
}

/// The host goes on.
#[inline(always)]
pub(crate) fn resume() -> Then {
    El2.note_entry();
    Then::Resume
}

fn synchronous(cpu: &mut Cpu) {
    match Syndrome::decode(arch::read!("esr_el2")) {
        Syndrome::Smc { .. } => {
            skip(cpu);
            // SAFETY: `cpu` is borrowed mutably, so that nobody else uses it. (ESR_EL2 has the immediate of an SMC
            // where it has that of an HVC.)
            unsafe { hypercall((&raw mut *cpu).cast()) };
            // That has told the trace that EL1 runs.
            return;
        }
        Syndrome::DataAbort(abort) => {
            let access =
                if abort.write && !abort.cache_maintenance { HostAccess::Write } else { HostAccess::Read };
            fault(cpu, &abort.fault, access);
        }
        Syndrome::InstructionAbort(abort) => fault(cpu, &abort, HostAccess::Execute),
        Syndrome::FpTrap => cpu.fp.give_to_host(),
        Syndrome::SysReg(access) => system_register(cpu, access),
        Syndrome::Hvc { .. } | Syndrome::Wfx { .. } | Syndrome::Unknown(_) => {
            inject(cpu, Exception::Undefined);
        }
    }
    El2.note_entry();
}

/// A trapped instruction is over: unlike HVC it left the PC at itself (Arm ARM DDI0487, D1.3.5). The host
/// chooses where the instruction is: at the top of the address space the PC wraps.
fn skip(cpu: &mut Cpu) {
    cpu.host.pc = cpu.host.pc.wrapping_add(INSTRUCTION_BYTES);
    cpu.host.pstate &= !(pstate::SS | pstate::BTYPE);
}

/// The host sees the same CPU as its guests: what the hypervisor does not switch is not there.
fn system_register(cpu: &mut Cpu, access: SysRegAccess) {
    let register = usize::from(access.rt);
    let value = cpu.host.x.get(register).copied().unwrap_or(0);
    match sysreg::access(access, value, guest::id_register) {
        Outcome::Read(value) => {
            if let Some(register) = cpu.host.x.get_mut(register) {
                *register = value;
            }
        }
        Outcome::Ignored => {}
        Outcome::Undefined | Outcome::Sgi(_) => return inject(cpu, Exception::Undefined),
    }
    skip(cpu);
}

/// `VcpuRun`. It is apart so that the other calls save no registers for it.
#[inline(never)]
fn run_vcpu(cpu: &mut Cpu) -> Then {
    El2.event(|| Event::CallBegin(HostCall::VCPU_RUN));
    let ran =
        HostCall::parse_run(arguments(cpu)).and_then(|(vm, vcpu, entry)| guest::run(cpu, vm, vcpu, &entry));
    match ran {
        Ok(record) => {
            let [reason, a, b, c, lr0, lr1, lr2, lr3, timer, ..] = record.emit();
            answer(cpu, 0, [reason, a, b, c, lr0, lr1, lr2, lr3, timer]);
        }
        Err(error) => answer(cpu, error.code(), [0]),
    }
    resume()
}

/// x1 to x17.
fn arguments(cpu: &Cpu) -> &Arguments {
    let [_, arguments @ .., _, _, _, _, _, _, _, _, _, _, _, _, _] = &cpu.host.x;
    arguments
}

/// The end of a call: x0, and from x1 on what it results in; all other registers are as they were. It is inlined
/// so that results go straight to their places.
#[inline(always)]
fn answer<const N: usize>(cpu: &mut Cpu, status: u64, results: [u64; N]) {
    El2.event(|| Event::CallEnd(status));
    cpu.host.x[0] = status;
    cpu.host.x[1..=N].copy_from_slice(&results);
}

fn refuse(cpu: &mut Cpu) -> Then {
    cpu.host.x[0] = CallError::NotSupported.code();
    resume()
}

/// `ObjectPopulate`, the short way if it can be.
#[inline(never)]
fn populate(cpu: &mut Cpu) -> Then {
    if let Ok(call) = HostCall::parse_ownership(HostCall::OBJECT_POPULATE, arguments(cpu)) {
        #[cfg(feature = "oracle")]
        let _looks = crate::oracle::after(crate::oracle::Calls::of(&call));
        if cpu.hypervisor.quick_host_call(&call) {
            // What a call has no result for is 0: apart from x1, as a constant would be copied from memory.
            cpu.host.x[2..6].fill(0);
            answer(cpu, 0, [1]);
            return resume();
        }
    }
    ownership_call(cpu, HostCall::OBJECT_POPULATE)
}

/// Answers every call but `VcpuRun`: one function, so that what is decoded is not put together first.
#[inline(never)]
fn ownership_call(cpu: &mut Cpu, function: u32) -> Then {
    let called =
        HostCall::parse_ownership(function, arguments(cpu)).map_err(CallFailure::from).and_then(|call| {
            #[cfg(feature = "oracle")]
            let _looks = crate::oracle::after(crate::oracle::Calls::of(&call));
            cpu.hypervisor.full_host_call(&call)
        });
    let (status, values) = match called {
        Ok(values) => (0, values),
        Err(CallFailure { error, value }) => (error.code(), [value, 0, 0, 0, 0]),
    };
    answer(cpu, status, values);
    resume()
}

/// Decides about a stage-2 fault of the host's.
fn fault(cpu: &mut Cpu, fault: &Fault, access: HostAccess) {
    #[cfg(feature = "oracle")]
    let _looks = crate::oracle::after(crate::oracle::Calls::NONE);
    let far = arch::read!("far_el2");
    let refused = match fault.ipa(arch::read!("hpfar_el2"), far) {
        Some(ipa) => cpu.hypervisor.host_abort(ipa, access) == HostAbort::Inject,
        // No translation of ours was at fault, so there is nothing to retry with.
        None => true,
    };
    if refused {
        FAULTS.fetch_add(1, Ordering::Relaxed);
        inject(
            cpu,
            Exception::ExternalAbort(Abort {
                fetch: access == HostAccess::Execute,
                write: access == HostAccess::Write,
                far: (!fault.far_not_valid).then_some(far),
            }),
        );
    }
}

/// Makes the host take an exception at EL1.
fn inject(cpu: &mut Cpu, exception: Exception) {
    state::save_system(&mut cpu.host_system);
    let Registers { pc, pstate, .. } = &mut cpu.host;
    exception.take(pc, pstate, &mut cpu.host_system);
    // SAFETY: `host_system` was stored two lines above, of this CPU's host, and has what its exception changes;
    // the host's stage 2 is selected, and the host runs next.
    unsafe { state::load_system(&cpu.host_system) };
}
