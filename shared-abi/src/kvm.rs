//! The vendor-hypervisor services of KVM and pKVM, as a guest sees them
//! (`Documentation/virt/kvm/arm/{hypercalls,pkvm}.rst` and `include/linux/arm-smccc.h` of Linux; MMIO guard enrolment
//! as in Android's common kernel).

/// The four words that `UID` returns in w0 to w3: 28b46fb6-2ec5-11e9-a9ca-4b564d003a74.
pub const UID: [u32; 4] = [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d];

/// Bit of x1 of `MEMINFO`: calls about memory take ranges (as in Android's common kernel).
pub const MEMINFO_RANGES: u64 = 1 << 0;

/// Function IDs (SMCCC fast calls, owner 6).
pub mod function {
    /// `VENDOR_HYP_CALL_UID_FUNC_ID`.
    pub const UID: u32 = 0x8600_ff01;
    /// Returns the bitmap of the functions below, in w0 to w3.
    pub const FEATURES: u32 = 0x8600_0000;
    /// Returns x0 = the granule in bytes, x1 = [`MEMINFO_RANGES`](super::MEMINFO_RANGES) if calls take ranges. All
    /// arguments must be 0.
    pub const MEMINFO: u32 = 0xc600_0002;
    /// Shares the page at IPA x1 with the host. x3 must be 0. If calls take ranges, x2 is the number of pages (0
    /// means 1), and on success x1 is the number of pages done. Otherwise x2 must be 0.
    pub const MEM_SHARE: u32 = 0xc600_0003;
    /// Makes the page at IPA x1 private again. x2 and x3 as for [`MEM_SHARE`].
    pub const MEM_UNSHARE: u32 = 0xc600_0004;
    /// Returns the granule of the MMIO guard in bytes. All arguments must be 0.
    pub const MMIO_GUARD_INFO: u32 = 0xc600_0005;
    /// Enrols in the MMIO guard: from now on, only guarded pages are MMIO. A guest cannot undo this.
    pub const MMIO_GUARD_ENROLL: u32 = 0xc600_0006;
    /// Declares the page at IPA x1 as MMIO.
    pub const MMIO_GUARD_MAP: u32 = 0xc600_0007;
    /// Undoes the declaration of the page at IPA x1.
    pub const MMIO_GUARD_UNMAP: u32 = 0xc600_0008;
    /// Gives the page at IPA x1 back to the host, wiped. x2 and x3 must be 0.
    pub const MEM_RELINQUISH: u32 = 0xc600_0009;
}

/// Bits of the result of [`function::FEATURES`], by function number.
pub mod feature {
    /// `FEATURES` itself.
    pub const FEATURES: u32 = 1 << 0;
    /// `MEMINFO`.
    pub const MEMINFO: u32 = 1 << 2;
    /// `MEM_SHARE`.
    pub const MEM_SHARE: u32 = 1 << 3;
    /// `MEM_UNSHARE`.
    pub const MEM_UNSHARE: u32 = 1 << 4;
    /// `MMIO_GUARD_INFO`.
    pub const MMIO_GUARD_INFO: u32 = 1 << 5;
    /// `MMIO_GUARD_ENROLL`.
    pub const MMIO_GUARD_ENROLL: u32 = 1 << 6;
    /// `MMIO_GUARD_MAP`.
    pub const MMIO_GUARD_MAP: u32 = 1 << 7;
    /// `MMIO_GUARD_UNMAP`.
    pub const MMIO_GUARD_UNMAP: u32 = 1 << 8;
    /// `MEM_RELINQUISH`.
    pub const MEM_RELINQUISH: u32 = 1 << 9;
}

/// The Arm TRNG firmware interface (DEN0098), which guests use too.
pub mod trng {
    /// Returns version 1.0, or NOT_SUPPORTED.
    pub const VERSION: u32 = 0x8400_0050;
    /// Returns whether the function in x1 exists.
    pub const FEATURES: u32 = 0x8400_0051;
    /// Returns the UUID of the source, in w0 to w3.
    pub const GET_UUID: u32 = 0x8400_0052;
    /// Returns up to 96 bits of entropy.
    pub const RND32: u32 = 0x8400_0053;
    /// Returns up to 192 bits of entropy.
    pub const RND64: u32 = 0xc400_0053;
}

#[cfg(test)]
mod tests {
    use super::{feature, function};

    #[test]
    fn a_feature_is_the_bit_of_its_functions_number() {
        let all = [
            (function::FEATURES, feature::FEATURES),
            (function::MEMINFO, feature::MEMINFO),
            (function::MEM_SHARE, feature::MEM_SHARE),
            (function::MEM_UNSHARE, feature::MEM_UNSHARE),
            (function::MMIO_GUARD_INFO, feature::MMIO_GUARD_INFO),
            (function::MMIO_GUARD_ENROLL, feature::MMIO_GUARD_ENROLL),
            (function::MMIO_GUARD_MAP, feature::MMIO_GUARD_MAP),
            (function::MMIO_GUARD_UNMAP, feature::MMIO_GUARD_UNMAP),
            (function::MEM_RELINQUISH, feature::MEM_RELINQUISH),
        ];
        for (function, feature) in all {
            assert_eq!(feature.trailing_zeros(), function & 0xffff, "{function:#x}");
            assert_eq!(feature.count_ones(), 1);
        }
    }
}
