//! A guest's calls to the hypervisor: SMCCC 1.1 fast calls by `hvc #0` or `smc #0`, parsed from and emitted to
//! registers.
//!
//! x0 holds the function ID, x1 to x3 the arguments. The hypervisor writes x0 to x3 and preserves all other
//! registers. The interface is public: SMCCC (DEN0028), PSCI (DEN0022), the Arm TRNG (DEN0098), and the vendor
//! services of KVM and pKVM ([`crate::kvm`]).

use crate::addr::{Gfn, Ipa, PageRange};
use crate::error::CallError;
use crate::kvm::{feature, function, trng};

/// x0 to x3 of a guest's call.
pub type GuestRegisters = [u64; 4];

/// SMCCC_VERSION (DEN0028, section 7.2).
pub const SMCCC_VERSION: u32 = 0x8000_0000;
/// SMCCC_ARCH_FEATURES (DEN0028, section 7.3).
pub const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;

/// The first and the last function ID of PSCI, without [`SMC64`] (DEN0022, section 5.1).
const PSCI_FIRST: u32 = 0x8400_0000;
const PSCI_LAST: u32 = 0x8400_001f;
/// Function ID bit 30: the call takes 64-bit arguments (DEN0028, section 2.5).
const SMC64: u32 = 1 << 30;
/// Function ID bit 16: the caller has no live SVE state (DEN0028, section 2.5). It is a hint and not part of the
/// function number.
pub const NO_SVE_HINT: u32 = 1 << 16;

/// A guest's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestCall {
    /// x0 = the SMCCC version.
    SmcccVersion,
    /// x0 = 0 if the hypervisor implements this function.
    SmcccArchFeatures {
        /// The function ID.
        function: u32,
    },
    /// A PSCI call: the function ID without the SVE hint, and x1 to x3.
    Psci(GuestRegisters),
    /// A call of the Arm TRNG service.
    Trng {
        /// The function ID.
        function: u32,
        /// x1.
        argument: u64,
    },
    /// x0 to x3 = [`crate::kvm::UID`].
    Uid,
    /// x0 = the bitmap of offered functions ([`crate::kvm::feature`]).
    Features,
    /// x0 = the granule of sharing in bytes, x1 = [`crate::kvm::MEMINFO_RANGES`].
    MemInfo,
    /// Shares private pages with the host in place. x1 = the number of pages done.
    MemShare {
        /// The pages.
        pages: PageRange<Gfn>,
    },
    /// Makes shared pages private again. x1 = the number of pages done.
    MemUnshare {
        /// The pages.
        pages: PageRange<Gfn>,
    },
    /// Gives a private page back to the host, wiped.
    MemRelinquish {
        /// The page.
        gfn: Gfn,
    },
    /// x0 = the granule of the MMIO guard in bytes.
    MmioGuardInfo,
    /// Enrols in the MMIO guard: from now on, only guarded pages are MMIO.
    MmioGuardEnroll,
    /// Declares a page as MMIO.
    MmioGuardMap {
        /// The page.
        gfn: Gfn,
    },
    /// Undoes the declaration of a page as MMIO.
    MmioGuardUnmap {
        /// The page.
        gfn: Gfn,
    },
}

impl GuestCall {
    /// Parses a call from x0 to x3. `offered` is the bitmap that [`Self::Features`] returns. If it lacks a function's
    /// bit, the function does not exist for this guest.
    ///
    /// # Errors
    ///
    /// [`CallError::NotSupported`] for an unknown function, [`CallError::InvalidParameter`] for an argument that is
    /// invalid for its type.
    #[inline(always)] // null_hypercall: parsing and serving are one match
    pub fn parse(offered: u32, x: &GuestRegisters) -> Result<Self, CallError> {
        let [_, x1, x2, x3] = *x;
        let offers = |feature: u32| offered & feature != 0;
        match function_id(x) {
            function::FEATURES => Ok(Self::Features),
            function::MEM_SHARE if offers(feature::MEM_SHARE) => {
                Ok(Self::MemShare { pages: range(x1, x2, x3)? })
            }
            function::MEM_UNSHARE if offers(feature::MEM_UNSHARE) => {
                Ok(Self::MemUnshare { pages: range(x1, x2, x3)? })
            }
            function::MEM_RELINQUISH if offers(feature::MEM_RELINQUISH) => {
                zero(x2 | x3)?;
                Ok(Self::MemRelinquish { gfn: page(x1)? })
            }
            function::MEMINFO if offers(feature::MEMINFO) => zero(x1 | x2 | x3).map(|()| Self::MemInfo),
            function::MMIO_GUARD_INFO if offers(feature::MMIO_GUARD_INFO) => {
                zero(x1 | x2 | x3).map(|()| Self::MmioGuardInfo)
            }
            function::MMIO_GUARD_ENROLL if offers(feature::MMIO_GUARD_ENROLL) => {
                zero(x1 | x2 | x3).map(|()| Self::MmioGuardEnroll)
            }
            // Older guests pass memory attributes in x2, so x2 is ignored.
            function::MMIO_GUARD_MAP if offers(feature::MMIO_GUARD_MAP) => {
                Ok(Self::MmioGuardMap { gfn: page(x1)? })
            }
            function::MMIO_GUARD_UNMAP if offers(feature::MMIO_GUARD_UNMAP) => {
                Ok(Self::MmioGuardUnmap { gfn: page(x1)? })
            }
            function::UID => Ok(Self::Uid),
            SMCCC_VERSION => Ok(Self::SmcccVersion),
            SMCCC_ARCH_FEATURES => Ok(Self::SmcccArchFeatures { function: low_word(x1) }),
            id @ (trng::VERSION | trng::FEATURES | trng::GET_UUID | trng::RND32 | trng::RND64) => {
                Ok(Self::Trng { function: id, argument: x1 })
            }
            id if (PSCI_FIRST..=PSCI_LAST).contains(&(id & !SMC64)) => {
                Ok(Self::Psci([id.into(), x1, x2, x3]))
            }
            _ => Err(CallError::NotSupported),
        }
    }

    /// Encodes the call in x0 to x3.
    #[must_use]
    pub fn emit(&self) -> GuestRegisters {
        // One page is 0 pages: a hypervisor without ranges refuses any other number.
        let range = |function: u32, pages: PageRange<Gfn>| {
            let number = if pages.len() == 1 { 0 } else { pages.len() };
            [function.into(), pages.first().base().0, number, 0]
        };
        let page = |function: u32, gfn: Gfn| [function.into(), gfn.base().0, 0, 0];
        let plain = |function: u32| [function.into(), 0, 0, 0];
        match *self {
            Self::SmcccVersion => plain(SMCCC_VERSION),
            Self::SmcccArchFeatures { function } => [SMCCC_ARCH_FEATURES.into(), function.into(), 0, 0],
            Self::Psci(registers) => registers,
            Self::Trng { function, argument } => [function.into(), argument, 0, 0],
            Self::Uid => plain(function::UID),
            Self::Features => plain(function::FEATURES),
            Self::MemInfo => plain(function::MEMINFO),
            Self::MemShare { pages } => range(function::MEM_SHARE, pages),
            Self::MemUnshare { pages } => range(function::MEM_UNSHARE, pages),
            Self::MemRelinquish { gfn } => page(function::MEM_RELINQUISH, gfn),
            Self::MmioGuardInfo => plain(function::MMIO_GUARD_INFO),
            Self::MmioGuardEnroll => plain(function::MMIO_GUARD_ENROLL),
            Self::MmioGuardMap { gfn } => page(function::MMIO_GUARD_MAP, gfn),
            Self::MmioGuardUnmap { gfn } => page(function::MMIO_GUARD_UNMAP, gfn),
        }
    }
}

/// Returns the function ID in x0. The upper half of x0 is ignored (DEN0028, section 2.5).
const fn function_id(x: &GuestRegisters) -> u32 {
    let [x0, ..] = *x;
    low_word(x0) & !NO_SVE_HINT
}

/// Returns the lower half of a register.
const fn low_word(register: u64) -> u32 {
    (register & 0xffff_ffff) as u32
}

/// Returns the page that starts at `ipa`.
fn page(ipa: u64) -> Result<Gfn, CallError> {
    Ipa(ipa).aligned_page().ok_or(CallError::InvalidParameter)
}

/// Returns the range of `granules` pages from `ipa` on. A guest that does not use ranges passes 0 for one page. `x3`
/// must be 0.
fn range(ipa: u64, granules: u64, x3: u64) -> Result<PageRange<Gfn>, CallError> {
    zero(x3)?;
    PageRange::<Gfn>::new(page(ipa)?, granules.max(1)).ok_or(CallError::InvalidParameter)
}

/// Checks arguments that must be 0. The caller combines them with OR.
const fn zero(arguments: u64) -> Result<(), CallError> {
    if arguments == 0 { Ok(()) } else { Err(CallError::InvalidParameter) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(first: u64, pages: u64) -> PageRange<Gfn> {
        PageRange::<Gfn>::new(Gfn(first), pages).unwrap()
    }

    #[test]
    fn every_call_round_trips() {
        for call in [
            GuestCall::SmcccVersion,
            GuestCall::SmcccArchFeatures { function: 0x8000_8000 },
            GuestCall::Psci([0xc400_0003, 1, 2, 3]),
            GuestCall::Trng { function: trng::RND64, argument: 128 },
            GuestCall::Uid,
            GuestCall::Features,
            GuestCall::MemInfo,
            GuestCall::MemShare { pages: pages(7, 1) },
            GuestCall::MemUnshare { pages: pages(7, 512) },
            GuestCall::MemRelinquish { gfn: Gfn(7) },
            GuestCall::MmioGuardInfo,
            GuestCall::MmioGuardEnroll,
            GuestCall::MmioGuardMap { gfn: Gfn(7) },
            GuestCall::MmioGuardUnmap { gfn: Gfn(7) },
        ] {
            let x = call.emit();
            assert_eq!(GuestCall::parse(u32::MAX, &x), Ok(call));
            let hinted = [x[0] | 0xffff_ffff_0001_0000, x[1], x[2], x[3]];
            assert_eq!(
                GuestCall::parse(u32::MAX, &hinted),
                Ok(call),
                "the hint and the upper half are ignored"
            );
        }
    }

    #[test]
    fn a_function_that_is_not_offered_does_not_exist() {
        for number in 2..=9_u32 {
            let x = [u64::from(0xc600_0000 + number), 1, 1, 1];
            assert_eq!(GuestCall::parse(!(1 << number), &x), Err(CallError::NotSupported), "{number}");
        }
        for function in [0xc600_000a, 0xc600_0001, 0x8600_0002, 0x8400_0020, 0x8400_0054, 0] {
            assert_eq!(GuestCall::parse(u32::MAX, &[function, 0, 0, 0]), Err(CallError::NotSupported));
        }
    }

    #[test]
    fn an_argument_that_is_no_value_of_its_type_is_refused() {
        let share = u64::from(function::MEM_SHARE);
        assert_eq!(
            GuestCall::parse(u32::MAX, &[share, 0x7000, 0, 0]),
            Ok(GuestCall::MemShare { pages: pages(7, 1) })
        );
        for (function, x) in [
            (function::MEM_SHARE, [0x7001, 1, 0]),
            (function::MEM_SHARE, [0x7000, 1, 1]),
            (function::MEM_SHARE, [0x7000, u64::MAX, 0]),
            (function::MEM_UNSHARE, [0x7800, 1, 0]),
            (function::MEM_UNSHARE, [0x7000, 1, 1]),
            (function::MEM_UNSHARE, [0x7000, 1 << 60, 0]),
            (function::MEM_RELINQUISH, [0x7001, 0, 0]),
            (function::MEM_RELINQUISH, [0x7000, 1, 0]),
            (function::MEM_RELINQUISH, [0x7000, 0, 1]),
            (function::MEMINFO, [1, 0, 0]),
            (function::MEMINFO, [0, 1, 0]),
            (function::MEMINFO, [0, 0, 1]),
            (function::MMIO_GUARD_INFO, [1, 0, 0]),
            (function::MMIO_GUARD_ENROLL, [0, 0, 1]),
            (function::MMIO_GUARD_MAP, [0x7001, 0, 0]),
            (function::MMIO_GUARD_UNMAP, [0x7001, 0, 0]),
        ] {
            let [x1, x2, x3] = x;
            let parsed = GuestCall::parse(u32::MAX, &[function.into(), x1, x2, x3]);
            assert_eq!(parsed, Err(CallError::InvalidParameter), "{function:#x} {x:x?}");
        }
    }
}
