//! What becomes of a trap of the guest's: it goes on, or the host is told, and then told only what the
//! [`Exit`] says.

use shared_abi::addr::{Ipa, PAGE_SIZE};
use shared_abi::error::CallError;
use shared_abi::host_call::PageState;
use shared_abi::vcpu::{Exit, Resume, StopReason};

use crate::guest_call::guest_call;
use crate::inject::{Abort, Exception};
use crate::loaded::{GuestPage, Loaded};
use crate::machine::Machine;
use crate::mmio;
use crate::syndrome::{DataAbort, Fault, Syndrome, SysRegAccess, SysRegId, class};
use crate::sysreg::{self, Outcome};
use crate::trng::Trng;
use crate::vcpu::pstate;

/// Why the CPU came from the guest to EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// A physical interrupt, which is the host's to take.
    Interrupt,
    /// A synchronous exception.
    Synchronous {
        /// ESR_EL2.
        esr: u64,
        /// FAR_EL2.
        far: u64,
        /// HPFAR_EL2.
        hpfar: u64,
    },
    /// An SError interrupt.
    SystemError,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestAction {
    /// Enter the guest again.
    Resume,
    /// Load the guest's FP/SIMD registers, stop trapping their use, and enter the guest again.
    EnableFp,
    /// Go to the host.
    Exit(Exit),
}

/// What guests get from the machine beside memory and time.
#[derive(Clone, Copy, Debug)]
pub struct Services<'a> {
    /// Entropy.
    pub trng: &'a Trng,
    /// Reads an ID register of this CPU: one of the ID space, op0 = 3, op1 = 0, CRn = 0, CRm = 1 to 7.
    pub id_register: fn(SysRegId) -> u64,
}

/// Does what the host says on entry about the access that the last exit was about.
///
/// # Errors
///
/// [`CallError::InvalidParameter`] for an answer to an access that is not pending; nothing was done,
/// and the vCPU is not to be entered.
pub fn guest_entry<M: Machine>(vcpu: &mut Loaded<'_, '_, M>, resume: Resume) -> Result<(), CallError> {
    vcpu.with_context(|context| mmio::resume(context, resume))
}

/// Answers an HVC of the guest's, as [`guest_exit`] would. Of its registers only x0 to x18, the PC and
/// PSTATE have to be in its context by now.
#[inline(always)]
pub fn guest_hypercall<M: Machine>(
    vcpu: &mut Loaded<'_, '_, M>,
    services: &Services<'_>,
    imm: u16,
) -> GuestAction {
    counted(vcpu, |vcpu| guest_call(vcpu, services, imm))
}

/// Handles a trap of the guest's, whose registers are in its context by now.
pub fn guest_exit<M: Machine>(
    vcpu: &mut Loaded<'_, '_, M>,
    services: &Services<'_>,
    trap: Trap,
) -> GuestAction {
    counted(vcpu, |vcpu| match trap {
        Trap::Interrupt => GuestAction::Exit(Exit::Interrupted),
        Trap::Synchronous { esr, far, hpfar } => {
            synchronous(vcpu, services, Syndrome::decode(esr), far, hpfar)
        }
        Trap::SystemError => stop(vcpu, StopReason::Exception(class::SERROR)),
    })
}

/// Counts exits to the host.
#[inline(always)]
fn counted<'h, 'm, M: Machine>(
    vcpu: &mut Loaded<'h, 'm, M>,
    handle: impl FnOnce(&mut Loaded<'h, 'm, M>) -> GuestAction,
) -> GuestAction {
    let action = handle(vcpu);
    if let GuestAction::Exit(_) = action {
        vcpu.count_exit();
    }
    action
}

/// Everything but hypercalls, which are to be quick.
#[inline(never)]
fn synchronous<M: Machine>(
    vcpu: &mut Loaded<'_, '_, M>,
    services: &Services<'_>,
    syndrome: Syndrome,
    far: u64,
    hpfar: u64,
) -> GuestAction {
    // AArch32 is hidden from guests but can't be trapped at EL0.
    if vcpu.with_context(|context| context.pstate & pstate::AARCH32 != 0) {
        return stop(vcpu, StopReason::Exception(class::ILLEGAL_STATE));
    }
    match syndrome {
        Syndrome::Hvc { imm } => guest_call(vcpu, services, imm),
        Syndrome::Smc { imm } => {
            // Unlike HVC, a trapped SMC leaves the PC at itself.
            skip(vcpu);
            guest_call(vcpu, services, imm)
        }
        Syndrome::SysReg(access) => system_register(vcpu, services, access),
        Syndrome::DataAbort(abort) => data_abort(vcpu, abort, far, hpfar),
        Syndrome::InstructionAbort(fault) => instruction_abort(vcpu, fault, far, hpfar),
        Syndrome::Wfx { event: true } => {
            skip(vcpu);
            GuestAction::Exit(Exit::Interrupted)
        }
        Syndrome::Wfx { event: false } => {
            skip(vcpu);
            GuestAction::Exit(wait_for_interrupt(vcpu))
        }
        Syndrome::FpTrap => GuestAction::EnableFp,
        Syndrome::Unknown(class) if seeded!(TrapIsFatal) => stop(vcpu, StopReason::Exception(class)),
        Syndrome::Unknown(_) => inject(vcpu, Exception::Undefined),
    }
}

/// The exit of a guest that waits.
pub(crate) fn wait_for_interrupt<M: Machine>(vcpu: &mut Loaded<'_, '_, M>) -> Exit {
    Exit::Wfi { deadline: vcpu.with_context(|context| context.timer_deadline()) }
}

/// Ends the VM's run.
fn stop<M: Machine>(vcpu: &Loaded<'_, '_, M>, reason: StopReason) -> GuestAction {
    vcpu.stop();
    GuestAction::Exit(Exit::Stopped(reason))
}

fn skip<M: Machine>(vcpu: &mut Loaded<'_, '_, M>) {
    vcpu.with_context(|context| context.skip_instruction());
}

fn inject<M: Machine>(vcpu: &mut Loaded<'_, '_, M>, exception: Exception) -> GuestAction {
    vcpu.with_context(|context| exception.inject(context));
    GuestAction::Resume
}

fn system_register<M: Machine>(
    vcpu: &mut Loaded<'_, '_, M>,
    services: &Services<'_>,
    access: SysRegAccess,
) -> GuestAction {
    vcpu.with_context(|context| {
        let value = context.register(access.rt);
        match sysreg::access(access, value, services.id_register) {
            Outcome::Read(value) => context.set_register(access.rt, value),
            Outcome::Ignored => {}
            Outcome::Undefined => {
                Exception::Undefined.inject(context);
                return GuestAction::Resume;
            }
            Outcome::Sgi(sgi1r) => {
                context.skip_instruction();
                return GuestAction::Exit(Exit::Sgi { sgi1r });
            }
        }
        context.skip_instruction();
        GuestAction::Resume
    })
}

/// What a guest met where stage 2 has nothing for it.
enum Met {
    /// A page that is there by now, one that the host has to bring, or one that is gone for good.
    Memory(GuestAction),
    /// A page that may be a device's.
    Device(Ipa),
    /// Nothing.
    Nothing,
}

fn meet<M: Machine>(vcpu: &Loaded<'_, '_, M>, fault: Fault, far: u64, hpfar: u64) -> Met {
    let ipa = match fault.ipa(hpfar, far) {
        Some(ipa) if fault.is_translation() => ipa,
        _ => return Met::Nothing,
    };
    let gfn = ipa.page();
    match vcpu.classify_or_device(gfn) {
        (GuestPage::Bound(PageState::Private | PageState::Shared), _) => Met::Memory(GuestAction::Resume),
        (GuestPage::Bound(PageState::Absent), _) => Met::Memory(GuestAction::Exit(Exit::MemoryFault { gfn })),
        (GuestPage::Bound(PageState::Poisoned), _) => Met::Memory(stop(vcpu, StopReason::Poisoned(gfn))),
        (GuestPage::Unbound, true) => Met::Device(ipa),
        (GuestPage::Unbound, false) => Met::Nothing,
    }
}

fn data_abort<M: Machine>(
    vcpu: &mut Loaded<'_, '_, M>,
    abort: DataAbort,
    far: u64,
    hpfar: u64,
) -> GuestAction {
    let refused = Exception::ExternalAbort(Abort {
        fetch: false,
        write: abort.write,
        far: (!abort.fault.far_not_valid).then_some(far),
    });
    let ipa = match meet(vcpu, abort.fault, far, hpfar) {
        Met::Memory(action) => return action,
        Met::Device(ipa) if !abort.fault.stage1_walk => ipa,
        Met::Device(_) | Met::Nothing => return inject(vcpu, refused),
    };
    match abort.access {
        // A device has no cache line to maintain.
        _ if abort.cache_maintenance => {
            skip(vcpu);
            GuestAction::Resume
        }
        Some(access)
            if ipa.page_offset().saturating_add(access.size.bytes()) <= PAGE_SIZE || seeded!(AcrossPages) =>
        {
            let write = abort.write;
            GuestAction::Exit(vcpu.with_context(|context| mmio::begin(context, access, write, ipa, far)))
        }
        // It reaches into the next page, or the syndrome does not describe it.
        _ => inject(vcpu, refused),
    }
}

fn instruction_abort<M: Machine>(
    vcpu: &mut Loaded<'_, '_, M>,
    fault: Fault,
    far: u64,
    hpfar: u64,
) -> GuestAction {
    match meet(vcpu, fault, far, hpfar) {
        Met::Memory(action) => action,
        Met::Device(_) | Met::Nothing => {
            let abort = Abort { fetch: true, write: false, far: (!fault.far_not_valid).then_some(far) };
            inject(vcpu, Exception::ExternalAbort(abort))
        }
    }
}
