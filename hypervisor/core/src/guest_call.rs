//! A guest's hypercalls: SMCCC 1.1, all answered here and none by the host.
//!
//! The interface is KVM's and pKVM's (docs/abi.md). HVC and SMC are answered alike; the immediate must
//! be 0. A call that is answered writes x0 to x3 and leaves all other registers alone.

use shared_abi::addr::{Gfn, Ipa, PAGE_SIZE, PageRange};
use shared_abi::error::CallError;
use shared_abi::kvm::{self, feature, function};
use shared_abi::vcpu::Exit;

use crate::exit::{GuestAction, Services};
use crate::geometry::Geometry;
use crate::loaded::{GuestPage, Loaded, ShareError};
use crate::machine::Machine;
use crate::psci;
use crate::psci::host::NO_SVE_HINT;
use crate::transition::share::Sharing;

/// SMCCC return codes (DEN0028, section 7.1).
const SUCCESS: u64 = 0;
const NOT_SUPPORTED: u64 = (-1_i64).cast_unsigned();
const INVALID_PARAMETER: u64 = (-3_i64).cast_unsigned();

/// SMCCC_VERSION.
const SMCCC_VERSION: u32 = 0x8000_0000;
/// SMCCC_ARCH_FEATURES.
const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
/// SMCCC 1.1: x4 and up are preserved, none is a result.
const SMCCC_1_1: u64 = 0x1_0001;

/// PSCI's functions, 32 and 64 bits: owner 4, numbers 0 to 0x1f.
const PSCI_FIRST: u32 = 0x8400_0000;
const PSCI_LAST: u32 = 0x8400_001f;
/// Function ID bit 30: SMC64.
const SMC64: u32 = 1 << 30;

/// What a protected VM is offered.
const PROTECTED_FEATURES: u64 = (feature::FEATURES
    | feature::MEMINFO
    | feature::MEM_SHARE
    | feature::MEM_UNSHARE
    | feature::MMIO_GUARD_INFO
    | feature::MMIO_GUARD_ENROLL
    | feature::MMIO_GUARD_MAP
    | feature::MMIO_GUARD_UNMAP
    | feature::MEM_RELINQUISH) as u64;

/// What an ordinary VM is offered.
const ORDINARY_FEATURES: u64 = feature::FEATURES as u64;

/// Handles a hypercall. The PC is past the instruction.
///
/// What is to be quick is here, on the shortest way back to the guest; all else is out of line, and looks
/// at its arguments there.
#[inline(always)]
pub(crate) fn guest_call<M: Machine>(
    vcpu: &mut Loaded<'_, '_, M>,
    services: &Services<'_>,
    imm: u16,
) -> GuestAction {
    let [x0, ..] = arguments(vcpu);
    vcpu.count_hypercall();
    // The upper half of x0 is to be ignored (DEN0028, section 2.5).
    #[expect(clippy::cast_possible_truncation, reason = "the function ID is the lower half")]
    let id = x0 as u32 & !NO_SVE_HINT;
    let reply = match id {
        _ if imm != 0 && !seeded!(ImmediateIgnored) => [NOT_SUPPORTED, 0, 0, 0],
        function::FEATURES if vcpu.is_protected() || seeded!(OrdinaryOffered) => {
            [PROTECTED_FEATURES, 0, 0, 0]
        }
        function::FEATURES => [ORDINARY_FEATURES, 0, 0, 0],
        function::MEM_SHARE | function::MEM_UNSHARE if vcpu.is_protected() => {
            let share = id == function::MEM_SHARE;
            match convert(vcpu, if share { Sharing::Share } else { Sharing::Unshare }) {
                Ok(done) => [SUCCESS, done, 0, 0],
                Err(ShareError::Absent) => return bring(vcpu),
                Err(ShareError::Denied) => [INVALID_PARAMETER, 0, 0, 0],
            }
        }
        _ => return dispatch(vcpu, services, id),
    };
    answer(vcpu, reply)
}

/// x0 to x3.
#[inline]
fn arguments<M: Machine>(vcpu: &mut Loaded<'_, '_, M>) -> [u64; 4] {
    vcpu.with_context(|context| {
        let [x0, x1, x2, x3, ..] = context.x;
        [x0, x1, x2, x3]
    })
}

/// All other calls.
#[inline(never)]
fn dispatch<M: Machine>(vcpu: &mut Loaded<'_, '_, M>, services: &Services<'_>, id: u32) -> GuestAction {
    let [_, x1, x2, x3] = arguments(vcpu);
    let reply = match id {
        function::UID => kvm::UID.map(u64::from),
        SMCCC_VERSION => [SMCCC_1_1, 0, 0, 0],
        function::MEMINFO..=function::MEM_RELINQUISH if vcpu.is_protected() => {
            match protected(vcpu, id, [x1, x2, x3]) {
                Ok(reply) => reply,
                Err(action) => return action,
            }
        }
        SMCCC_ARCH_FEATURES => [arch_features(x1), 0, 0, 0],
        _ if (PSCI_FIRST..=PSCI_LAST).contains(&(id & !SMC64)) => {
            let psci::Reply { x0, exit } = psci::guest(vcpu, &[id.into(), x1, x2, x3]);
            let action = answer(vcpu, [x0, 0, 0, 0]);
            return exit.map_or(action, GuestAction::Exit);
        }
        _ => services.trng.call(id, x1).unwrap_or([NOT_SUPPORTED, 0, 0, 0]),
    };
    answer(vcpu, reply)
}

/// Writes x0 to x3.
#[inline(always)]
fn answer<M: Machine>(vcpu: &mut Loaded<'_, '_, M>, reply: [u64; 4]) -> GuestAction {
    vcpu.with_context(|context| {
        let [x0, x1, x2, x3, ..] = &mut context.x;
        [*x0, *x1, *x2, *x3] = reply;
    });
    GuestAction::Resume
}

/// Of the architecture's functions there are these two.
const fn arch_features(function: u64) -> u64 {
    const VERSION: u64 = SMCCC_VERSION as u64;
    const FEATURES: u64 = SMCCC_ARCH_FEATURES as u64;
    match function & 0xffff_ffff {
        VERSION | FEATURES => SUCCESS,
        _ => NOT_SUPPORTED,
    }
}

/// pKVM's calls. `Err` is a call that is not answered yet, and runs again, or one whose answer the host
/// is to know of first.
fn protected<M: Machine>(
    vcpu: &mut Loaded<'_, '_, M>,
    id: u32,
    arguments: [u64; 3],
) -> Result<[u64; 4], GuestAction> {
    let status = match (id, arguments) {
        (function::MEM_RELINQUISH, [ipa, 0, 0]) => match page(ipa) {
            Some(gfn) => return relinquish(vcpu, gfn),
            None => INVALID_PARAMETER,
        },
        (function::MEMINFO, [0, 0, 0]) => return Ok([PAGE_SIZE, kvm::MEMINFO_RANGES, 0, 0]),
        (function::MMIO_GUARD_INFO, [0, 0, 0]) => PAGE_SIZE,
        (function::MMIO_GUARD_ENROLL, [0, 0, 0]) => {
            vcpu.with_guard(|guard| guard.enroll());
            SUCCESS
        }
        // Older guests pass memory attributes in x2.
        (function::MMIO_GUARD_MAP, [ipa, ..]) => guard_map(vcpu, ipa),
        (function::MMIO_GUARD_UNMAP, [ipa, ..]) => {
            match page(ipa).map(|gfn| vcpu.with_guard(|guard| guard.unmap(gfn))) {
                Some(Ok(())) => SUCCESS,
                Some(Err(_)) | None => INVALID_PARAMETER,
            }
        }
        _ => INVALID_PARAMETER,
    };
    Ok([status, 0, 0, 0])
}

/// The page that starts at `ipa`.
const fn page(ipa: u64) -> Option<Gfn> {
    Ipa(ipa).aligned_page()
}

/// `granules` pages from `ipa` on, all in the IPA space. Guests that know of one page only say 0.
fn range<M: Machine>(ipa: u64, granules: u64) -> Option<PageRange<Gfn>> {
    let first = page(seeded!(ipa, UnalignedShare => ipa & !0xfff))?;
    let pages = seeded!(granules, TruncatedCount => granules & 0xffff_ffff).max(1);
    let range = PageRange::<Gfn>::new(first, pages)?;
    (range.end().0 <= M::Geometry::IPA_PAGES).then_some(range)
}

/// MEM_SHARE and MEM_UNSHARE: answers how many pages.
#[inline(never)]
fn convert<M: Machine>(vcpu: &mut Loaded<'_, '_, M>, sharing: Sharing) -> Result<u64, ShareError> {
    let [_, ipa, granules, x3] = arguments(vcpu);
    match range::<M>(ipa, granules) {
        Some(pages) if x3 == 0 => vcpu.convert(pages, sharing),
        _ => Err(ShareError::Denied),
    }
}

/// A share that begins at a page which is not there yet does not fail: the host brings it, the call runs
/// again.
#[cold]
#[inline(never)]
fn bring<M: Machine>(vcpu: &mut Loaded<'_, '_, M>) -> GuestAction {
    let [_, ipa, ..] = arguments(vcpu);
    replay(vcpu, Exit::MemoryFault { gfn: Ipa(ipa).page() })
}

/// MEM_RELINQUISH. The host is told of the page, which it may use for something else.
fn relinquish<M: Machine>(vcpu: &mut Loaded<'_, '_, M>, gfn: Gfn) -> Result<[u64; 4], GuestAction> {
    match vcpu.relinquish(gfn) {
        Ok(false) => Ok([SUCCESS, 0, 0, 0]),
        Ok(true) => {
            answer(vcpu, [SUCCESS, 0, 0, 0]);
            Err(GuestAction::Exit(Exit::Relinquished { gfn }))
        }
        Err(failure) if failure.error == CallError::NoMemory => {
            let pages = failure.value;
            Err(replay(vcpu, Exit::NeedPages { pages }))
        }
        Err(_) => Ok([INVALID_PARAMETER, 0, 0, 0]),
    }
}

/// Has the host do something about it first; then the call runs again.
fn replay<M: Machine>(vcpu: &mut Loaded<'_, '_, M>, exit: Exit) -> GuestAction {
    vcpu.with_context(|context| context.rewind_instruction());
    GuestAction::Exit(exit)
}

/// MMIO_GUARD_MAP: of a page that no memory is bound to.
fn guard_map<M: Machine>(vcpu: &Loaded<'_, '_, M>, ipa: u64) -> u64 {
    let Some(gfn) = page(ipa) else {
        return INVALID_PARAMETER;
    };
    if vcpu.classify(gfn) != GuestPage::Unbound && !seeded!(GuardOverMemory) {
        return INVALID_PARAMETER;
    }
    match vcpu.with_guard(|guard| guard.map(gfn)) {
        Ok(()) => SUCCESS,
        Err(_) => INVALID_PARAMETER,
    }
}
