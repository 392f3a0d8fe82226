//! The FP and SIMD registers as a value, for binaries that are compiled for a soft-float target.
//!
//! The system tests of the world switch use it: a party loads its own pattern, lets other parties run, and compares
//! the registers with the pattern.

/// V0 to V31, FPCR and FPSR.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct FpState {
    q: [u128; 32],
    fpcr: u64,
    fpsr: u64,
}

/// FPCR.AHP, DN, FZ, RMode and FZ16: the fields that every CPU with FEAT_FP16 keeps (Arm ARM DDI0487
/// L.b, C5.2.8).
const FPCR_FIELDS: u64 = 0b1_1111 << 22 | 1 << 19;
/// FPSR.QC, IDC, and IXC to IOC (Arm ARM DDI0487 L.b, C5.2.10).
const FPSR_FIELDS: u64 = 1 << 27 | 1 << 7 | 0b1_1111;

impl FpState {
    /// All registers are 0.
    pub const ZERO: Self = Self { q: [0; 32], fpcr: 0, fpsr: 0 };

    /// Returns a pattern. Its values differ between registers, parties and rounds. FPCR and FPSR have few bits, so
    /// their values differ in most cases only.
    #[must_use]
    pub fn pattern(party: u64, round: u64) -> Self {
        let seed = mix(mix(party) ^ round);
        let word = |index: u64| mix(seed ^ index);
        let q = core::array::from_fn(|register| {
            let low = 2 * register as u64;
            u128::from(word(low)) | u128::from(word(low + 1)) << 64
        });
        Self { q, fpcr: word(64) & FPCR_FIELDS, fpsr: word(65) & FPSR_FIELDS }
    }

    /// Returns a bit for each register that differs: bits 0 to 31 are V0 to V31, 32 is FPCR, 33 is FPSR.
    #[must_use]
    pub fn difference(&self, other: &Self) -> u64 {
        let vectors = self.q.iter().zip(&other.q).enumerate();
        let vectors = vectors.fold(0, |found, (index, (a, b))| found | u64::from(a != b) << index);
        vectors | u64::from(self.fpcr != other.fpcr) << 32 | u64::from(self.fpsr != other.fpsr) << 33
    }
}

/// A bijection of 64 bits that maps neighbours to unrelated values (SplitMix64).
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(target_os = "none")]
mod registers {
    use core::arch::{asm, naked_asm};
    use core::mem::offset_of;

    use super::FpState;

    /// Applies an instruction to each of q0 to q31 and its place in the [`FpState`] that x0 points to. The hypervisor
    /// has a macro like this one. They are apart, because the register test checks the hypervisor's with this one.
    macro_rules! all_q {
        ($instruction:literal) => {
            concat!(
                ".arch_extension fp\n.arch_extension simd\n",
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n",
                $instruction,
                " q\\n, [x0, #16 * \\n]\n.endr"
            )
        };
    }

    #[unsafe(naked)]
    unsafe extern "C" fn store(state: *mut FpState) {
        naked_asm!(
            all_q!("str"),
            "mrs x1, fpcr",
            "mrs x2, fpsr",
            "str x1, [x0, #{fpcr}]",
            "str x2, [x0, #{fpsr}]",
            "ret",
            fpcr = const offset_of!(FpState, fpcr),
            fpsr = const offset_of!(FpState, fpsr),
        )
    }

    #[unsafe(naked)]
    unsafe extern "C" fn load(state: *const FpState) {
        naked_asm!(
            all_q!("ldr"),
            "ldr x1, [x0, #{fpcr}]",
            "ldr x2, [x0, #{fpsr}]",
            "msr fpcr, x1",
            "msr fpsr, x2",
            "ret",
            fpcr = const offset_of!(FpState, fpcr),
            fpsr = const offset_of!(FpState, fpsr),
        )
    }

    impl FpState {
        /// Permits EL1 to use FP and SIMD on this CPU: CPACR_EL1.FPEN (Arm ARM DDI0487 L.b, D24.2.34).
        pub fn permit() {
            const FPEN: u64 = 0b11 << 20;
            // SAFETY: the target is soft-float, so the compiler uses no FP register.
            unsafe { asm!("msr cpacr_el1, {}", "isb", in(reg) FPEN, options(nostack, preserves_flags)) }
        }

        /// Returns the FP and SIMD registers of this CPU. The caller has called [`Self::permit`] on it.
        #[must_use]
        pub fn current() -> Self {
            let mut state = Self::ZERO;
            // SAFETY: `store` writes a whole `FpState`, and `state` is a local variable of that type.
            unsafe { store(&raw mut state) };
            state
        }

        /// Loads the FP and SIMD registers of this CPU. The caller has called [`Self::permit`] on it.
        pub fn load(&self) {
            // SAFETY: `load` reads a whole `FpState`, which `self` is. The target is soft-float, so the compiler
            // keeps no value in the registers that change.
            unsafe { load(&raw const *self) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_tell_registers_parties_and_rounds_apart() {
        let pattern = FpState::pattern(1, 0);
        for other in [FpState::ZERO, FpState::pattern(1, 1), FpState::pattern(2, 0)] {
            assert_eq!(pattern.difference(&other) & 0xffff_ffff, 0xffff_ffff);
        }
        let mut values = pattern.q.to_vec();
        values.sort_unstable();
        values.dedup();
        assert_eq!(values.len(), 32);
    }

    #[test]
    fn fields_take_all_their_values() {
        let rounds = || (0..1000).map(|round| FpState::pattern(1, round));
        assert_eq!(rounds().fold(0, |all, state| all | state.fpcr), FPCR_FIELDS);
        assert_eq!(rounds().fold(0, |all, state| all | state.fpsr), FPSR_FIELDS);
        let changes = rounds().zip(rounds().skip(1)).filter(|(a, b)| a.fpcr != b.fpcr).count();
        assert!(changes > 900, "{changes}");
    }

    #[test]
    fn each_register_has_a_bit() {
        assert_eq!(FpState::ZERO.difference(&FpState::ZERO), 0);
        for register in 0..34 {
            let mut state = FpState::ZERO;
            match register {
                32 => state.fpcr = 1,
                33 => state.fpsr = 1,
                _ => state.q[register] = 1 << 127,
            }
            assert_eq!(state.difference(&FpState::ZERO), 1 << register);
        }
    }
}
