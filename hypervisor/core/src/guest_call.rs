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

/// Answers what guests call most, on the shortest way: FEATURES, and MEM_SHARE and MEM_UNSHARE of one page that is
/// as it has to be. Answers whether it did; if not, nothing was done, and
/// [`guest_hypercall`](crate::exit::guest_hypercall) is next. Of the guest's registers only x0 to x18, the PC and
/// PSTATE have to be in its context by now.
#[inline(always)]
pub fn quick_hypercall<M: Machine>(vcpu: &mut Loaded<'_, '_, M>, imm: u16) -> bool {
    let [x0, ..] = arguments(vcpu);
    let reply = match function_id(x0) {
        _ if imm != 0 => return false,
        function::FEATURES => features(vcpu),
        function::MEM_SHARE if convert_page::<M, true>(vcpu) => [SUCCESS, 1, 0, 0],
        function::MEM_UNSHARE if convert_page::<M, false>(vcpu) => [SUCCESS, 1, 0, 0],
        _ => return false,
    };
    vcpu.claim.count_hypercall();
    answer(vcpu, reply);
    true
}

/// Handles a hypercall. The PC is past the instruction.
pub(crate) fn guest_call<M: Machine>(
    vcpu: &mut Loaded<'_, '_, M>,
    services: &Services<'_>,
    imm: u16,
) -> GuestAction {
    let [x0, x1, x2, x3] = arguments(vcpu);
    vcpu.claim.count_hypercall();
    let id = function_id(x0);
    let reply = match id {
        _ if imm != 0 && !seeded!(ImmediateIgnored) => [NOT_SUPPORTED, 0, 0, 0],
        function::UID => kvm::UID.map(u64::from),
        function::FEATURES => features(vcpu),
        SMCCC_VERSION => [SMCCC_1_1, 0, 0, 0],
        function::MEMINFO..=function::MEM_RELINQUISH if vcpu.is_protected() => {
            match protected(vcpu, id, [x1, x2, x3]) {
                Ok(reply) => reply,
                Err(action) => return action,
            }
        }
        SMCCC_ARCH_FEATURES => [arch_features(x1), 0, 0, 0],
        _ if (PSCI_FIRST..=PSCI_LAST).contains(&(id & !SMC64)) => {
            let (x0, exit) = psci::guest(vcpu, &[id.into(), x1, x2, x3]);
            let action = answer(vcpu, [x0, 0, 0, 0]);
            return exit.map_or(action, GuestAction::Exit);
        }
        _ => services.trng.call(id, x1).unwrap_or([NOT_SUPPORTED, 0, 0, 0]),
    };
    answer(vcpu, reply)
}

/// The upper half of x0 is to be ignored (DEN0028, section 2.5).
#[expect(clippy::cast_possible_truncation, reason = "the function ID is the lower half")]
const fn function_id(x0: u64) -> u32 {
    x0 as u32 & !NO_SVE_HINT
}

/// What FEATURES answers.
fn features<M: Machine>(vcpu: &Loaded<'_, '_, M>) -> [u64; 4] {
    let protected = vcpu.is_protected() || seeded!(OrdinaryOffered);
    [if protected { PROTECTED_FEATURES } else { ORDINARY_FEATURES }, 0, 0, 0]
}

/// x0 to x3.
fn arguments<M: Machine>(vcpu: &mut Loaded<'_, '_, M>) -> [u64; 4] {
    vcpu.with_context(|context| {
        let [x0, x1, x2, x3, ..] = context.x;
        [x0, x1, x2, x3]
    })
}

/// Writes x0 to x3.
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
        (function::MEM_SHARE, arguments) => return convert(vcpu, arguments, Sharing::Share),
        (function::MEM_UNSHARE, arguments) => return convert(vcpu, arguments, Sharing::Unshare),
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

/// MEM_SHARE (`SHARE`) or MEM_UNSHARE of one page; answers whether it was done.
fn convert_page<M: Machine, const SHARE: bool>(vcpu: &mut Loaded<'_, '_, M>) -> bool {
    match arguments(vcpu) {
        [_, ipa, 0 | 1, 0] => page(ipa).is_some_and(|gfn| vcpu.convert_page::<SHARE>(gfn)),
        _ => false,
    }
}

/// MEM_SHARE and MEM_UNSHARE: answers how many pages. A share that begins at a page which is not there yet
/// does not fail: the host brings it, the call runs again.
fn convert<M: Machine>(
    vcpu: &mut Loaded<'_, '_, M>,
    [ipa, granules, x3]: [u64; 3],
    sharing: Sharing,
) -> Result<[u64; 4], GuestAction> {
    let converted = match range::<M>(ipa, granules) {
        Some(pages) if x3 == 0 => vcpu.convert(pages, sharing),
        _ => Err(ShareError::Denied),
    };
    match converted {
        Ok(done) => Ok([SUCCESS, done, 0, 0]),
        Err(ShareError::Absent) => Err(replay(vcpu, Exit::MemoryFault { gfn: Ipa(ipa).page() })),
        Err(ShareError::Denied) => Ok([INVALID_PARAMETER, 0, 0, 0]),
    }
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
    if vcpu.classify_and_ask(gfn).0 != GuestPage::Unbound && !seeded!(GuardOverMemory) {
        return INVALID_PARAMETER;
    }
    match vcpu.with_guard(|guard| guard.map(gfn)) {
        Ok(()) => SUCCESS,
        Err(_) => INVALID_PARAMETER,
    }
}
