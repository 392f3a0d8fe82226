//! The registers that control stage 1, and the barriers around their writes.

use core::arch::asm;

/// MAIR_EL1: index 0 is Device-nGnRE, index 1 Normal, inner and outer write-back, read- and
/// write-allocate (Arm ARM DDI0487 L.b, D24.2.121).
const MAIR: u64 = 0xff_04;

/// TCR_EL1 without IPS (Arm ARM DDI0487 L.b, D24.2.197).
const TCR: u64 = {
    const T0SZ_39_BITS: u64 = 64 - 39;
    const IRGN0_WRITE_BACK: u64 = 1 << 8;
    const ORGN0_WRITE_BACK: u64 = 1 << 10;
    const SH0_INNER: u64 = 3 << 12;
    const EPD1_NO_UPPER_RANGE: u64 = 1 << 23;
    T0SZ_39_BITS | IRGN0_WRITE_BACK | ORGN0_WRITE_BACK | SH0_INNER | EPD1_NO_UPPER_RANGE
};
const TCR_IPS_SHIFT: u32 = 32;
/// 48 bits. More bits need a larger granule or FEAT_LPA2.
const IPS_LIMIT: u64 = 5;

/// SCTLR_EL1 (Arm ARM DDI0487 L.b, D24.2.174).
const SCTLR: u64 = {
    /// Bits that are RES1 on Armv8.0. Later versions give some of them a meaning, for which 1 is harmless.
    const RES1: u64 = 1 << 29 | 1 << 28 | 1 << 23 | 1 << 22 | 1 << 20 | 1 << 11;
    const M_MMU: u64 = 1 << 0;
    const C_DATA_CACHE: u64 = 1 << 2;
    const SA_STACK_ALIGNMENT: u64 = 1 << 3;
    const I_INSTRUCTION_CACHE: u64 = 1 << 12;
    const WXN_WRITABLE_NEVER_EXECUTES: u64 = 1 << 19;
    RES1 | M_MMU | C_DATA_CACHE | SA_STACK_ALIGNMENT | I_INSTRUCTION_CACHE | WXN_WRITABLE_NEVER_EXECUTES
};

/// The register values of a CPU that runs on these tables.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    ttbr0: u64,
    tcr: u64,
}

impl Registers {
    pub(super) fn new(root: u64) -> Self {
        let id: u64;
        // SAFETY: a read of ID_AA64MMFR0_EL1 has no side effect.
        unsafe {
            asm!("mrs {}, id_aa64mmfr0_el1", out(reg) id, options(nomem, nostack, preserves_flags));
        }
        let physical_range = (id & 0xf).min(IPS_LIMIT);
        Self { ttbr0: root, tcr: TCR | physical_range << TCR_IPS_SHIFT }
    }

    /// Turns on the MMU and caches of this CPU.
    ///
    /// # Safety
    ///
    /// The CPU is at EL1 with its MMU off. The tables exist and map all memory that the CPU uses.
    pub unsafe fn enable(self) {
        // SAFETY: the caller is at EL1 with the MMU off, and gives tables that map all memory that this CPU uses. The
        // sequence invalidates old translations before it turns the MMU on, and barriers order its steps.
        unsafe {
            asm!(
                "dsb sy",
                "msr mair_el1, {mair}",
                "msr tcr_el1, {tcr}",
                "msr ttbr0_el1, {ttbr0}",
                "msr ttbr1_el1, xzr",
                "isb",
                "tlbi vmalle1",
                "ic iallu",
                "dsb nsh",
                "isb",
                "msr sctlr_el1, {sctlr}",
                "isb",
                mair = in(reg) MAIR,
                tcr = in(reg) self.tcr,
                ttbr0 = in(reg) self.ttbr0,
                sctlr = in(reg) SCTLR,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Invalidates stale cache lines of the binary. The binary wrote its data with the MMU off, so past the caches. The
/// boot loader cleans only the bytes that it wrote (`Documentation/arch/arm64/booting.rst` of Linux).
pub(super) fn invalidate_stale_lines(start: u64, end: u64) {
    const SMALLEST_LINE: usize = 16;
    for line in (start..end).step_by(SMALLEST_LINE) {
        // SAFETY: the MMU is off, so no cache line of the binary is newer than memory.
        unsafe {
            asm!("dc ivac, {}", in(reg) line, options(nostack, preserves_flags));
        }
    }
}

/// Makes a new valid entry visible to this CPU's next access. An invalid entry is in no TLB, so no TLBI is needed.
pub(super) fn publish() {
    // SAFETY: barriers order accesses and change no state.
    unsafe {
        asm!("dsb ish", "isb", options(nostack, preserves_flags));
    }
}
