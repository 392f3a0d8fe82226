//! The handler of a guest's traps. Afterwards the guest resumes, or the host gets an [`Exit`] and sees
//! nothing else of the guest.

use shared_abi::addr::PAGE_SIZE;
use shared_abi::error::CallError;
use shared_abi::host_call::ObjectPageState;
use shared_abi::vcpu::{Exit, Resume, StopReason};

use crate::call::guest::{Services, guest_call};
use crate::cpu::exception::{Abort, Exception};
use crate::cpu::mmio;
use crate::cpu::registers::{VcpuContext, pstate};
use crate::cpu::syndrome::{DataAbort, Fault, Syndrome, SyndromeRegisters, SysRegAccess, class};
use crate::cpu::sysreg;
use crate::machine::Machine;
use crate::vcpu::loaded::{GuestPage, LoadedVcpu};
use crate::vcpu::{GuestAction, wait_for_interrupt};

/// The reason why the CPU left the guest for EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// A physical interrupt, which the host takes.
    Interrupt,
    /// A synchronous exception.
    Synchronous(SyndromeRegisters),
    /// An SError interrupt.
    SystemError,
}

/// Applies the host's request at entry to the pending MMIO access.
///
/// # Errors
///
/// [`CallError::InvalidParameter`] if no access is pending that `resume` fits. Nothing has changed then, and
/// the caller must not enter the vCPU.
pub fn guest_entry<M: Machine>(vcpu: &mut LoadedVcpu<'_, '_, M>, resume: Resume) -> Result<(), CallError> {
    vcpu.with_context(|context| mmio::resume(context, resume))
}

/// Handles a guest trap. The caller has saved all guest registers in the context.
#[inline(always)] // mmio_exit: the exit is not copied
pub fn guest_exit<M: Machine>(
    vcpu: &mut LoadedVcpu<'_, '_, M>,
    services: &Services<'_>,
    trap: Trap,
) -> GuestAction {
    match trap {
        Trap::Interrupt => vcpu.exit(Exit::Interrupted),
        Trap::Synchronous(syndrome) => synchronous(vcpu, services, syndrome),
        Trap::SystemError => stop(vcpu, StopReason::Exception(class::SERROR)),
    }
}

fn synchronous<M: Machine>(
    vcpu: &mut LoadedVcpu<'_, '_, M>,
    services: &Services<'_>,
    syndrome: SyndromeRegisters,
) -> GuestAction {
    // AArch32 is hidden from guests, but EL2 cannot trap its use at EL0.
    if vcpu.with_context(|context| context.registers.pstate & pstate::AARCH32 != 0) {
        return stop(vcpu, StopReason::Exception(class::ILLEGAL_STATE));
    }
    seeded!(TrapIsFatal => if let Syndrome::Unknown(class) = Syndrome::decode(syndrome.esr) {
        return stop(vcpu, StopReason::Exception(class));
    });
    match Syndrome::decode(syndrome.esr) {
        Syndrome::Hvc { imm } => guest_call(vcpu, services, imm),
        Syndrome::Smc { imm } => {
            // Unlike HVC, a trapped SMC leaves the PC at the instruction itself.
            skip(vcpu);
            guest_call(vcpu, services, imm)
        }
        Syndrome::SysReg(access) => system_register(vcpu, services, access),
        Syndrome::DataAbort(data) => abort(vcpu, data.fault, Some(data), syndrome),
        Syndrome::InstructionAbort(fault) => abort(vcpu, fault, None, syndrome),
        Syndrome::Wfx { event: true } => {
            skip(vcpu);
            vcpu.exit(Exit::Interrupted)
        }
        Syndrome::Wfx { event: false } => {
            skip(vcpu);
            let exit = wait_for_interrupt(vcpu);
            vcpu.exit(exit)
        }
        Syndrome::FpTrap => GuestAction::EnableFp,
        Syndrome::Unknown(_) => inject(vcpu, Exception::Undefined),
    }
}

/// Stops the VM for good.
fn stop<M: Machine>(vcpu: &LoadedVcpu<'_, '_, M>, reason: StopReason) -> GuestAction {
    vcpu.stop();
    vcpu.exit(Exit::Stopped(reason))
}

fn skip<M: Machine>(vcpu: &mut LoadedVcpu<'_, '_, M>) {
    vcpu.with_context(|context| context.registers.skip_instruction());
}

fn inject<M: Machine>(vcpu: &mut LoadedVcpu<'_, '_, M>, exception: Exception) -> GuestAction {
    vcpu.with_context(|context| exception.inject(&mut context.registers));
    GuestAction::Resume
}

fn system_register<M: Machine>(
    vcpu: &mut LoadedVcpu<'_, '_, M>,
    services: &Services<'_>,
    access: SysRegAccess,
) -> GuestAction {
    let emulate =
        |context: &mut VcpuContext| sysreg::emulate(access, &mut context.registers, services.id_register);
    match vcpu.with_context(emulate) {
        None => GuestAction::Resume,
        Some(sgi1r) => {
            skip(vcpu);
            vcpu.exit(Exit::Sgi { sgi1r })
        }
    }
}

/// Handles an abort. `data` is the syndrome of a data abort, `None` for an instruction fetch.
///
/// The state of the guest page decides: if it is mapped by now, the guest retries; if it is absent, the host
/// populates it; if it is poisoned, the VM stops. At a page without memory where a device may be, an access
/// that fits in the page becomes MMIO. Any other abort becomes an external abort in the guest.
#[inline(always)] // mmio_exit: the syndrome stays in registers
fn abort<M: Machine>(
    vcpu: &mut LoadedVcpu<'_, '_, M>,
    fault: Fault,
    data: Option<DataAbort>,
    syndrome: SyndromeRegisters,
) -> GuestAction {
    let SyndromeRegisters { esr, far, hpfar } = syndrome;
    if let Some(ipa) = fault.translation_ipa(hpfar, far) {
        let gfn = ipa.page();
        let data = match vcpu.classify_or_device(gfn) {
            (GuestPage::Bound(ObjectPageState::Private | ObjectPageState::Shared), _) => {
                return GuestAction::Resume;
            }
            (GuestPage::Bound(ObjectPageState::Absent), _) => {
                return vcpu.exit(Exit::MemoryFault { gfn });
            }
            (GuestPage::Bound(ObjectPageState::Poisoned), _) => return stop(vcpu, StopReason::Poisoned(gfn)),
            (GuestPage::Unbound, true) if !fault.stage1_walk => data,
            (GuestPage::Unbound, _) => None,
        };
        let offset = seeded!(ipa.page_offset(), AcrossPages => 0);
        match data {
            // A device has no cache line to maintain, so cache maintenance has no effect.
            Some(DataAbort { cache_maintenance: true, .. }) => {
                skip(vcpu);
                return GuestAction::Resume;
            }
            // MMIO needs a syndrome that describes the access, and an access within one page.
            Some(DataAbort { access: Some(access), .. })
                if offset.wrapping_add(access.size.bytes()) <= PAGE_SIZE =>
            {
                let exit = vcpu.with_context(|context| mmio::begin(context, esr, access, ipa, far));
                return vcpu.exit(exit);
            }
            Some(_) | None => {}
        }
    }
    let write = data.is_some_and(|abort| abort.write);
    let far = (!fault.far_not_valid).then_some(far);
    inject(vcpu, Exception::ExternalAbort(Abort { fetch: data.is_none(), write, far }))
}
