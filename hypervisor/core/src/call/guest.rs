//! The dispatcher of a guest's hypercalls: SMCCC 1.1, all handled here and none by the host.
//!
//! The interface is KVM's and pKVM's (docs/abi.md). HVC and SMC are handled alike; the immediate must be 0. A call
//! that is complete has written x0 to x3 and preserved all other registers.

use shared_abi::addr::{Gfn, PAGE_SIZE, PageRange};
use shared_abi::error::CallError;
use shared_abi::guest_call::{GuestCall, GuestRegisters, SMCCC_ARCH_FEATURES, SMCCC_VERSION};
use shared_abi::kvm::{self, feature};
use shared_abi::vcpu::Exit;

use crate::call::psci;
use crate::call::trng::Trng;
use crate::cpu::syndrome::SysRegId;
use crate::machine::Machine;
use crate::machine::geometry::Geometry;
use crate::transition::ShareError;
use crate::transition::share::Sharing;
use crate::vcpu::GuestAction;
use crate::vcpu::loaded::{GuestPage, LoadedVcpu};

/// What guests get from the machine beside memory and time.
#[derive(Clone, Copy, Debug)]
pub struct Services<'a> {
    /// Entropy.
    pub trng: &'a Trng,
    /// Reads an ID register of this CPU: one of the ID space, op0 = 3, op1 = 0, CRn = 0, CRm = 1 to 7.
    pub id_register: fn(SysRegId) -> u64,
}

/// SUCCESS (DEN0028, section 7.1).
const SUCCESS: u64 = 0;

/// SMCCC 1.1: x4 and up are preserved, none is a result.
const SMCCC_1_1: u64 = 0x1_0001;

/// What FEATURES returns to a protected VM.
const PROTECTED_FEATURES: u32 = feature::FEATURES
    | feature::MEMINFO
    | feature::MEM_SHARE
    | feature::MEM_UNSHARE
    | feature::MMIO_GUARD_INFO
    | feature::MMIO_GUARD_ENROLL
    | feature::MMIO_GUARD_MAP
    | feature::MMIO_GUARD_UNMAP
    | feature::MEM_RELINQUISH;

/// What FEATURES returns to an ordinary VM.
const ORDINARY_FEATURES: u32 = feature::FEATURES;

/// Handles a hypercall. The PC is past the instruction.
///
/// Of the guest's registers only x0 to x18, the PC and PSTATE have to be in its context by now.
pub fn guest_call<M: Machine>(
    vcpu: &mut LoadedVcpu<'_, '_, M>,
    services: &Services<'_>,
    imm: u16,
) -> GuestAction {
    vcpu.ownership.count_hypercall();
    let x = vcpu.with_context(|context| context.registers.x0_to_x3());
    let call = match imm {
        0 => GuestCall::parse(offered(vcpu), &x),
        _ => Err(CallError::NotSupported),
    };
    let result = match call {
        Ok(GuestCall::Features) => Ok([offered(vcpu).into(), 0, 0, 0]),
        Ok(GuestCall::MemShare { pages }) => convert(vcpu, pages, Sharing::Share),
        Ok(GuestCall::MemUnshare { pages }) => convert(vcpu, pages, Sharing::Unshare),
        Ok(call) => serve(vcpu, services, call),
        Err(error) => Ok(status(error)),
    };
    match result {
        Ok(reply) => {
            complete(vcpu, reply);
            GuestAction::Resume
        }
        Err(action) => action,
    }
}

/// Handles the calls that guests seldom make. The error is what to do about a call that is not complete, or
/// that the host has to know of.
#[inline(never)]
fn serve<M: Machine>(
    vcpu: &mut LoadedVcpu<'_, '_, M>,
    services: &Services<'_>,
    call: GuestCall,
) -> Result<GuestRegisters, GuestAction> {
    let x0 = match call {
        GuestCall::Uid => return Ok(kvm::UID.map(u64::from)),
        GuestCall::MemInfo => return Ok([PAGE_SIZE, kvm::MEMINFO_RANGES, 0, 0]),
        GuestCall::Trng { function, argument } => return Ok(services.trng.call(function, argument)),
        GuestCall::Psci(x) => {
            let (x0, exit) = psci::guest(vcpu, &x);
            if let Some(exit) = exit {
                complete(vcpu, [x0, 0, 0, 0]);
                return Err(vcpu.exit(exit));
            }
            x0
        }
        GuestCall::MemRelinquish { gfn } => return relinquish(vcpu, gfn),
        GuestCall::MmioGuardMap { gfn } => return Ok(guard_map(vcpu, gfn).map_or_else(status, |()| [0; 4])),
        GuestCall::MmioGuardUnmap { gfn } => match vcpu.with_guard(|guard| guard.unmap(gfn)) {
            Ok(()) => SUCCESS,
            Err(_) => CallError::InvalidParameter.code(),
        },
        GuestCall::MmioGuardEnroll => {
            vcpu.with_guard(|guard| guard.enroll());
            SUCCESS
        }
        GuestCall::MmioGuardInfo => PAGE_SIZE,
        GuestCall::SmcccVersion => SMCCC_1_1,
        GuestCall::SmcccArchFeatures { function: SMCCC_VERSION | SMCCC_ARCH_FEATURES } => SUCCESS,
        GuestCall::SmcccArchFeatures { .. }
        | GuestCall::Features
        | GuestCall::MemShare { .. }
        | GuestCall::MemUnshare { .. } => CallError::NotSupported.code(),
    };
    Ok([x0, 0, 0, 0])
}

/// The functions that the vCPU's VM is offered.
fn offered<M: Machine>(vcpu: &LoadedVcpu<'_, '_, M>) -> u32 {
    if vcpu.is_protected() { PROTECTED_FEATURES } else { ORDINARY_FEATURES }
}

/// A refusal in x0 to x3.
const fn status(error: CallError) -> GuestRegisters {
    [error.code(), 0, 0, 0]
}

/// Writes x0 to x3 of a call that is complete.
fn complete<M: Machine>(vcpu: &mut LoadedVcpu<'_, '_, M>, reply: GuestRegisters) {
    vcpu.with_context(|context| context.registers.set_x0_to_x3(reply));
}

/// Has the host do something first; then the call runs again.
fn replay<M: Machine>(vcpu: &mut LoadedVcpu<'_, '_, M>, exit: Exit) -> GuestAction {
    vcpu.with_context(|context| context.registers.rewind_instruction());
    vcpu.exit(exit)
}

/// MEM_SHARE and MEM_UNSHARE. A share whose first page is absent does not fail: the host populates the page, and
/// the call runs again.
fn convert<M: Machine>(
    vcpu: &mut LoadedVcpu<'_, '_, M>,
    pages: PageRange<Gfn>,
    sharing: Sharing,
) -> Result<GuestRegisters, GuestAction> {
    if pages.end().0 > M::Geometry::IPA_PAGES {
        return Ok(status(CallError::InvalidParameter));
    }
    match vcpu.convert(pages, sharing) {
        Ok(done) => Ok([SUCCESS, done, 0, 0]),
        Err(ShareError::Absent) => Err(replay(vcpu, Exit::MemoryFault { gfn: pages.first() })),
        Err(ShareError::Denied) => Ok(status(CallError::InvalidParameter)),
    }
}

/// MEM_RELINQUISH. The exit tells the host which page it may use for something else.
fn relinquish<M: Machine>(vcpu: &mut LoadedVcpu<'_, '_, M>, gfn: Gfn) -> Result<GuestRegisters, GuestAction> {
    match vcpu.relinquish(gfn) {
        Ok(false) => Ok([SUCCESS, 0, 0, 0]),
        Ok(true) => {
            complete(vcpu, [SUCCESS, 0, 0, 0]);
            Err(vcpu.exit(Exit::Relinquished { gfn }))
        }
        Err(failure) if failure.error == CallError::NoMemory => {
            Err(replay(vcpu, Exit::NeedPages { pages: failure.value }))
        }
        Err(_) => Ok(status(CallError::InvalidParameter)),
    }
}

/// MMIO_GUARD_MAP: only a page without a binding may be MMIO.
fn guard_map<M: Machine>(vcpu: &LoadedVcpu<'_, '_, M>, gfn: Gfn) -> Result<(), CallError> {
    let (page, _) = vcpu.classify_and_ask(gfn);
    let bound = page != GuestPage::Unbound;
    if bound && !seeded!(GuardOverMemory) {
        return Err(CallError::InvalidParameter);
    }
    vcpu.with_guard(|guard| guard.map(gfn)).map_err(|_| CallError::InvalidParameter)
}
