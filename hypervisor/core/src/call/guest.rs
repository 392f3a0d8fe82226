//! The dispatcher of a guest's hypercalls (SMCCC 1.1). The hypervisor serves all of them; none is forwarded
//! to the host.
//!
//! The interface is that of KVM and pKVM (docs/abi.md). HVC and SMC are equivalent; the immediate must be 0.
//! A completed call has written x0 to x3 and preserved all other registers.

use shared_abi::addr::{Gfn, PAGE_SIZE, PageRange};
use shared_abi::error::CallError;
use shared_abi::guest_call::{GuestCall, GuestRegisters, SMCCC_ARCH_FEATURES, SMCCC_VERSION};
use shared_abi::kvm;
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

/// The hypervisor's services for guests, besides memory and time.
#[derive(Clone, Copy, Debug)]
pub struct Services<'a> {
    /// The entropy source.
    pub trng: &'a Trng,
    /// Reads an ID register of this CPU, in the ID space op0 = 3, op1 = 0, CRn = 0, CRm = 1 to 7.
    pub id_register: fn(SysRegId) -> u64,
}

/// SUCCESS (DEN0028, section 7.1).
const SUCCESS: u64 = 0;

/// SMCCC 1.1: calls preserve x4 and up, and return no result in them.
const SMCCC_1_1: u64 = 0x1_0001;

/// Handles a hypercall. The PC is past the instruction.
///
/// The caller has saved at least x0 to x18, the PC and PSTATE of the guest in its context.
pub fn guest_call<M: Machine>(
    vcpu: &mut LoadedVcpu<'_, '_, M>,
    services: &Services<'_>,
    imm: u16,
) -> GuestAction {
    vcpu.ownership.count_hypercall();
    let x = vcpu.with_context(|context| context.registers.x0_to_x3());
    let call = match imm {
        0 => GuestCall::parse(vcpu.features(), &x),
        _ => Err(CallError::NotSupported),
    };
    match call {
        Ok(GuestCall::Features) => complete(vcpu, [vcpu.features().into(), 0, 0, 0]),
        Ok(GuestCall::MemShare { pages }) => convert(vcpu, pages, Sharing::Share),
        Ok(GuestCall::MemUnshare { pages }) => convert(vcpu, pages, Sharing::Unshare),
        Ok(call) => serve(vcpu, services, call),
        Err(error) => refuse(vcpu, error),
    }
}

/// Handles the infrequent calls.
#[inline(never)] // null_hypercall: the common path saves no registers for it
fn serve<M: Machine>(
    vcpu: &mut LoadedVcpu<'_, '_, M>,
    services: &Services<'_>,
    call: GuestCall,
) -> GuestAction {
    match call {
        GuestCall::Uid => complete(vcpu, kvm::UID.map(u64::from)),
        GuestCall::MemInfo => complete(vcpu, [PAGE_SIZE, kvm::MEMINFO_RANGES, 0, 0]),
        GuestCall::Trng { function, argument } => complete(vcpu, services.trng.call(function, argument)),
        GuestCall::Psci(x) => {
            let (x0, exit) = psci::guest(vcpu, &x);
            let action = complete(vcpu, [x0, 0, 0, 0]);
            exit.map_or(action, |exit| vcpu.exit(exit))
        }
        GuestCall::MemRelinquish { gfn } => relinquish(vcpu, gfn),
        GuestCall::MmioGuardMap { gfn } => guard_map(vcpu, gfn),
        GuestCall::MmioGuardUnmap { gfn } => match vcpu.with_guard(|guard| guard.unmap(gfn)) {
            Ok(()) => complete(vcpu, [SUCCESS, 0, 0, 0]),
            Err(_) => refuse(vcpu, CallError::InvalidParameter),
        },
        GuestCall::MmioGuardEnroll => {
            vcpu.with_guard(|guard| guard.enroll());
            complete(vcpu, [SUCCESS, 0, 0, 0])
        }
        GuestCall::MmioGuardInfo => complete(vcpu, [PAGE_SIZE, 0, 0, 0]),
        GuestCall::SmcccVersion => complete(vcpu, [SMCCC_1_1, 0, 0, 0]),
        GuestCall::SmcccArchFeatures { function: SMCCC_VERSION | SMCCC_ARCH_FEATURES } => {
            complete(vcpu, [SUCCESS, 0, 0, 0])
        }
        GuestCall::SmcccArchFeatures { .. }
        | GuestCall::Features
        | GuestCall::MemShare { .. }
        | GuestCall::MemUnshare { .. } => refuse(vcpu, CallError::NotSupported),
    }
}

/// Completes a call: writes x0 to x3.
fn complete<M: Machine>(vcpu: &mut LoadedVcpu<'_, '_, M>, reply: GuestRegisters) -> GuestAction {
    vcpu.with_context(|context| context.registers.set_x0_to_x3(reply));
    GuestAction::Resume
}

/// Completes a call with an error.
fn refuse<M: Machine>(vcpu: &mut LoadedVcpu<'_, '_, M>, error: CallError) -> GuestAction {
    complete(vcpu, [error.code(), 0, 0, 0])
}

/// Exits to the host, and makes the call run again at the next entry.
fn replay<M: Machine>(vcpu: &mut LoadedVcpu<'_, '_, M>, exit: Exit) -> GuestAction {
    vcpu.with_context(|context| context.registers.rewind_instruction());
    vcpu.exit(exit)
}

/// MEM_SHARE and MEM_UNSHARE. If the first page of a share is absent, the call does not fail: the host
/// populates the page, and the call runs again.
fn convert<M: Machine>(
    vcpu: &mut LoadedVcpu<'_, '_, M>,
    pages: PageRange<Gfn>,
    sharing: Sharing,
) -> GuestAction {
    if pages.end().0 > M::Geometry::IPA_PAGES {
        return refuse(vcpu, CallError::InvalidParameter);
    }
    match vcpu.convert(pages, sharing) {
        Ok(done) => complete(vcpu, [SUCCESS, done, 0, 0]),
        Err(ShareError::Absent) => replay(vcpu, Exit::MemoryFault { gfn: pages.first() }),
        Err(ShareError::Denied) => refuse(vcpu, CallError::InvalidParameter),
    }
}

/// MEM_RELINQUISH. If a page was present, the exit tells the host that it may use the page again.
fn relinquish<M: Machine>(vcpu: &mut LoadedVcpu<'_, '_, M>, gfn: Gfn) -> GuestAction {
    match vcpu.relinquish(gfn) {
        Ok(false) => complete(vcpu, [SUCCESS, 0, 0, 0]),
        Ok(true) => {
            complete(vcpu, [SUCCESS, 0, 0, 0]);
            vcpu.exit(Exit::Relinquished { gfn })
        }
        Err(failure) if failure.error == CallError::NoMemory => {
            replay(vcpu, Exit::NeedPages { pages: failure.value })
        }
        Err(_) => refuse(vcpu, CallError::InvalidParameter),
    }
}

/// MMIO_GUARD_MAP: a page with a binding is refused, because it is memory.
fn guard_map<M: Machine>(vcpu: &mut LoadedVcpu<'_, '_, M>, gfn: Gfn) -> GuestAction {
    let (page, _) = vcpu.classify_and_ask(gfn);
    let bound = seeded!(page != GuestPage::Unbound, GuardOverMemory => false);
    if bound || vcpu.with_guard(|guard| guard.map(gfn)).is_err() {
        return refuse(vcpu, CallError::InvalidParameter);
    }
    complete(vcpu, [SUCCESS, 0, 0, 0])
}
