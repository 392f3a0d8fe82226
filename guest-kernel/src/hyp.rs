//! The hypervisor as its guest sees it: typed calls over the public KVM/pKVM vendor interface
//! (`Documentation/virt/kvm/arm/{hypercalls,pkvm}.rst` of Linux) and the Arm TRNG (DEN0098).
//!
//! All of it is optional. [`HypervisorServices::probe`] finds out whether the service is there and which
//! functions it offers; a function that is not offered is never called. Under Cloister and Android's
//! pKVM memory sharing and the MMIO guard with enrolment are there; upstream's pKVM has sharing and
//! perhaps the guard without enrolment; under plain KVM and plain QEMU there is nothing to share.

use core::fmt;
use core::marker::PhantomData;

use shared_abi::addr::{Gfn, Ipa, PAGE_SIZE, PageRange};
use shared_abi::guest_call::GuestCall;
use shared_abi::kvm::{self, feature, function, trng};
use smccc::Call;

/// SMCCC version 1.1, the first that lets a guest ask for vendor services.
const SMCCC_1_1: i32 = 0x1_0001;
/// PSCI version 1.0, the first with `PSCI_FEATURES`.
const PSCI_1_0: i32 = 0x1_0000;
/// The largest granule that makes sense here, in bytes; a larger answer is a lie.
const GRANULE_LIMIT: u64 = 64 * 1024;
/// Bits that one `TRNG_RND64` call returns at most (DEN0098, 2.6).
const TRNG_BITS: usize = 192;

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The hypervisor does not offer the function.
    NotOffered,
    /// It answered with this SMCCC error code.
    Refused(i64),
    /// The address is not at the start of a page.
    Unaligned(Ipa),
    /// It returned something that makes no sense.
    Nonsense(u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOffered => f.write_str("the hypervisor does not offer this call"),
            Self::Unaligned(ipa) => write!(f, "{ipa} is not at the start of a page"),
            Self::Refused(code) => write!(f, "the hypervisor refused the call: {code}"),
            Self::Nonsense(value) => write!(f, "the hypervisor answered {value:#x}"),
        }
    }
}

impl core::error::Error for Error {}

/// How memory is shared with the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// The granule, in bytes.
    pub granule: u64,
    /// One call does more than one granule (Android's pKVM and Cloister, not upstream's).
    pub ranges: bool,
}

/// How MMIO is declared to the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmioGuard {
    /// Not at all: every access outside memory is MMIO.
    None,
    /// Page by page, for the hypervisor's information (upstream pKVM: function 7 alone).
    Optional,
    /// Page by page after enrolment; any other access outside memory is a fault (Android's pKVM and
    /// Cloister: functions 5, 6 and 7).
    Enrolled,
}

/// A hypervisor that offers KVM's vendor services, reached through the conduit `C`.
#[derive(Debug)]
pub struct HypervisorServices<C> {
    features: u32,
    conduit: PhantomData<C>,
}

impl<C> Clone for HypervisorServices<C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for HypervisorServices<C> {}

/// Whether SMCCC 1.1 calls can be made at all, asked in the order that Linux asks in.
#[must_use]
pub fn has_smccc_1_1<C: Call>() -> bool {
    let call = |function, argument| {
        let [result, ..] = C::call32(function, [argument, 0, 0, 0, 0, 0, 0]);
        result.cast_signed()
    };
    call(smccc::psci::PSCI_VERSION, 0) >= PSCI_1_0
        && call(smccc::psci::PSCI_FEATURES, smccc::arch::SMCCC_VERSION) >= 0
        && call(smccc::arch::SMCCC_VERSION, 0) >= SMCCC_1_1
}

impl<C: Call> HypervisorServices<C> {
    /// Asks for the vendor service; `None` if it is not there. SMCCC 1.1 must be
    /// ([`has_smccc_1_1`]).
    #[must_use]
    pub fn probe() -> Option<Self> {
        let [a, b, c, d, ..] = C::call32(function::UID, [0; 7]);
        if [a, b, c, d] != kvm::UID {
            return None;
        }
        let [features, ..] = C::call32(function::FEATURES, [0; 7]);
        Some(Self { features, conduit: PhantomData })
    }

    /// Word 0 of FEATURES: one bit for each function that is offered.
    #[must_use]
    pub const fn features(&self) -> u32 {
        self.features
    }

    const fn offers(&self, bits: u32) -> bool {
        self.features & bits == bits
    }

    /// Whether memory is private until it is shared: the three functions of pKVM's sharing.
    #[must_use]
    pub const fn is_protected(&self) -> bool {
        self.offers(feature::MEMINFO | feature::MEM_SHARE | feature::MEM_UNSHARE)
    }

    /// How sharing works here.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub fn sharing(&self) -> Result<Sharing, Error> {
        if !self.is_protected() {
            return Err(Error::NotOffered);
        }
        let [granule, flags] = vendor_call::<C>(&GuestCall::MemInfo)?;
        Ok(Sharing { granule: granule_from(granule)?, ranges: flags & kvm::MEMINFO_RANGES != 0 })
    }

    /// Lets the host reach granules from `ipa` on, with the content that they have: as many of
    /// `granules` as one call does. Answers how many, at least one.
    ///
    /// # Errors
    ///
    /// As [`Error`] says; nothing is shared then.
    pub fn share(&self, sharing: Sharing, ipa: Ipa, granules: u64) -> Result<u64, Error> {
        self.memory_call(sharing, ipa, granules, |pages| GuestCall::MemShare { pages })
    }

    /// Takes granules from `ipa` on back: as many of `granules` as one call does. Answers how many, at
    /// least one. Their content is what the host left in them.
    ///
    /// # Errors
    ///
    /// As [`Error`] says; the host may still reach them then.
    pub fn unshare(&self, sharing: Sharing, ipa: Ipa, granules: u64) -> Result<u64, Error> {
        self.memory_call(sharing, ipa, granules, |pages| GuestCall::MemUnshare { pages })
    }

    fn memory_call(
        &self,
        sharing: Sharing,
        ipa: Ipa,
        granules: u64,
        call: impl FnOnce(PageRange<Gfn>) -> GuestCall,
    ) -> Result<u64, Error> {
        if !self.is_protected() {
            return Err(Error::NotOffered);
        }
        // A hypervisor without ranges takes one granule, and x1 says nothing.
        let wanted = if sharing.ranges { granules } else { 1 };
        let range = PageRange::<Gfn>::new(page(ipa)?, wanted).ok_or(Error::Nonsense(wanted))?;
        let [status, done] = vendor_call::<C>(&call(range))?;
        expect_zero(status)?;
        match done {
            _ if !sharing.ranges => Ok(1),
            0 => Err(Error::Nonsense(0)),
            done if done > wanted => Err(Error::Nonsense(done)),
            done => Ok(done),
        }
    }

    /// Gives the page at `ipa` back to the host, wiped: where the guest touches it again, the host
    /// brings a wiped page.
    ///
    /// # Errors
    ///
    /// As [`Error`] says: the page is shared, for one.
    pub fn relinquish(&self, ipa: Ipa) -> Result<(), Error> {
        if !self.offers(feature::MEM_RELINQUISH) {
            return Err(Error::NotOffered);
        }
        let [status, _] = vendor_call::<C>(&GuestCall::MemRelinquish { gfn: page(ipa)? })?;
        expect_zero(status)
    }

    /// How MMIO is to be declared.
    #[must_use]
    pub const fn mmio_guard(&self) -> MmioGuard {
        let enrolment = feature::MMIO_GUARD_INFO | feature::MMIO_GUARD_ENROLL;
        if !self.offers(feature::MMIO_GUARD_MAP) {
            MmioGuard::None
        } else if self.offers(enrolment) {
            MmioGuard::Enrolled
        } else {
            MmioGuard::Optional
        }
    }

    /// Enrols in the MMIO guard, where that is offered: from then on the host cannot pass off an
    /// access to memory as MMIO. To be called before anything outside RAM is touched.
    ///
    /// # Errors
    ///
    /// As [`Error`] says, or a granule that is not a page.
    pub fn enrol(&self) -> Result<(), Error> {
        if self.mmio_guard() != MmioGuard::Enrolled {
            return Ok(());
        }
        let [granule, _] = vendor_call::<C>(&GuestCall::MmioGuardInfo)?;
        let granule = granule_from(granule)?;
        if granule != PAGE_SIZE {
            return Err(Error::Nonsense(granule));
        }
        let [status, _] = vendor_call::<C>(&GuestCall::MmioGuardEnroll)?;
        expect_zero(status)
    }

    /// Declares the page at `ipa` to be MMIO, where that is offered.
    ///
    /// # Errors
    ///
    /// As [`Error`] says: it is memory, for one. Where the guard is optional a refusal has no
    /// consequence and is none here.
    pub fn guard_mmio(&self, ipa: Ipa) -> Result<(), Error> {
        let result = match self.mmio_guard() {
            MmioGuard::None => return Ok(()),
            MmioGuard::Optional | MmioGuard::Enrolled => {
                vendor_call::<C>(&GuestCall::MmioGuardMap { gfn: page(ipa)? })
                    .and_then(|[status, _]| expect_zero(status))
            }
        };
        match self.mmio_guard() {
            MmioGuard::Enrolled => result,
            MmioGuard::None | MmioGuard::Optional => Ok(()),
        }
    }
}

/// Fills `bytes` with random numbers from the TRNG service; it is independent of the vendor service.
///
/// # Errors
///
/// [`Error::NotOffered`] without a TRNG, [`Error::Refused`] when it has no entropy.
pub fn random<C: Call>(bytes: &mut [u8]) -> Result<(), Error> {
    let [version, ..] = C::call32(trng::VERSION, [0; 7]);
    if version.cast_signed() < 0x1_0000 {
        return Err(Error::NotOffered);
    }
    for chunk in bytes.chunks_mut(TRNG_BITS / 8) {
        let bits = 8 * chunk.len() as u64;
        let mut arguments = [0; 17];
        arguments[0] = bits;
        let [status, high, middle, low, ..] = C::call64(trng::RND64, arguments);
        if status != 0 {
            return Err(Error::Refused(status.cast_signed()));
        }
        // Bits 63:0 come in the last register (DEN0098, 2.6).
        let words = [low, middle, high].map(u64::to_le_bytes);
        for (byte, random) in chunk.iter_mut().zip(words.as_flattened()) {
            *byte = *random;
        }
    }
    Ok(())
}

/// The page at `ipa`, for a call that takes one.
fn page(ipa: Ipa) -> Result<Gfn, Error> {
    ipa.aligned_page().ok_or(Error::Unaligned(ipa))
}

/// Makes a call of the vendor service. Returns x0 and x1. An SMCCC error code is an error.
fn vendor_call<C: Call>(call: &GuestCall) -> Result<[u64; 2], Error> {
    let [function, x1, x2, x3] = call.emit();
    let mut arguments = [0; 17];
    [arguments[0], arguments[1], arguments[2]] = [x1, x2, x3];
    let [result, more, ..] = C::call64(function as u32, arguments);
    // Error codes are 32-bit numbers; some implementations extend them to 64 bits, some do not.
    let code = (result as u32).cast_signed();
    if code < 0 {
        return Err(Error::Refused(code.into()));
    }
    Ok([result, more])
}

const fn expect_zero(result: u64) -> Result<(), Error> {
    if result == 0 { Ok(()) } else { Err(Error::Nonsense(result)) }
}

const fn granule_from(bytes: u64) -> Result<u64, Error> {
    if bytes.is_power_of_two() && bytes >= PAGE_SIZE && bytes <= GRANULE_LIMIT {
        Ok(bytes)
    } else {
        Err(Error::Nonsense(bytes))
    }
}

#[cfg(test)]
pub(crate) mod fake;

#[cfg(test)]
mod tests;
