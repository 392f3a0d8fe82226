//! The register sweep of the system tests: the plan for guests and host, and the lines of their reports.

use core::fmt;

/// A system register, as MRS and MSR (register) encode it with op0 = 2 or 3: bits 19 to 5 of the instruction (Arm ARM
/// DDI0487, C6.2.234).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegisterEncoding(u16);

impl RegisterEncoding {
    /// The number of encodings.
    pub const COUNT: usize = 1 << 15;

    /// The register `S<op0>_<op1>_C<crn>_C<crm>_<op2>`.
    ///
    /// # Panics
    ///
    /// If a field is too large for the encoding, or `op0` is not 2 or 3.
    #[must_use]
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        assert!(matches!(op0, 2 | 3) && op1 < 8 && crn < 16 && crm < 16 && op2 < 8);
        let (op0, op1, crn, crm) = (op0 as u16 - 2, op1 as u16, crn as u16, crm as u16);
        Self(op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2 as u16)
    }

    /// Returns all encodings in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u16).map(Self)
    }

    /// Returns bits 19 to 5 of the instruction.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for RegisterEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = |shift: u32, mask: u16| (self.0 >> shift) & mask;
        let (op0, op1, op2) = (bits(14, 1) + 2, bits(11, 7), bits(0, 7));
        write!(f, "S{op0}_{op1}_C{}_C{}_{op2}", bits(7, 0xf), bits(3, 0xf))
    }
}

/// The number of times that the writing guest writes each register.
pub const PHASES: usize = 4;

/// Returns true if a phase writes the complement of a register's pattern. The phases do not simply alternate, because
/// the lowest bit of a counter does.
#[must_use]
pub const fn is_complement(phase: usize) -> bool {
    phase.count_ones() % 2 == 1
}

/// Returns the value for a register in a phase. The plan tells which of its bits are written.
#[must_use]
pub const fn pattern(register: RegisterEncoding, phase: usize) -> u64 {
    /// Each byte has as many ones as zeroes, and no two bytes are equal.
    const SEED: u64 = 0x5a3c_69a5_c396_7887;
    let pattern = SEED.rotate_left(register.0 as u32);
    if is_complement(phase) { !pattern } else { pattern }
}

/// The accesses that host and guests may make to each register. The plan is the guests' initial RAM disk.
///
/// It has two parts, both in the order of encodings: a little-endian 64-bit word with the bits that may be written,
/// for each encoding; then a byte that is not 0 if the register may be read, for each encoding.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    writable: &'a [[u8; 8]],
    readable: &'a [u8],
}

impl<'a> Plan<'a> {
    /// The plan's size in bytes.
    pub const BYTES: usize = RegisterEncoding::COUNT * 9;

    /// Parses a plan. Returns `None` if its size is wrong.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() != Self::BYTES {
            return None;
        }
        let (writable, readable) = bytes.split_at_checked(RegisterEncoding::COUNT * 8)?;
        let (writable, _) = writable.as_chunks();
        Some(Self { writable, readable })
    }

    /// Writes one register's entry into the bytes of a plan.
    ///
    /// # Panics
    ///
    /// If `bytes` is shorter than [`Self::BYTES`].
    pub fn put(bytes: &mut [u8], register: RegisterEncoding, may_read: bool, writable_bits: u64) {
        let index = register.index();
        bytes[8 * index..][..8].copy_from_slice(&writable_bits.to_le_bytes());
        bytes[8 * RegisterEncoding::COUNT + index] = may_read.into();
    }

    /// Returns true if the register may be read.
    #[must_use]
    pub fn may_read(&self, register: RegisterEncoding) -> bool {
        self.readable.get(register.index()).is_some_and(|byte| *byte != 0)
    }

    /// Returns the register's bits that may be written.
    #[must_use]
    pub fn writable_bits(&self, register: RegisterEncoding) -> u64 {
        self.writable.get(register.index()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

/// The values that a party read from a register, one for each phase. The writing guest reads after it has written all
/// registers, the other parties in their next turn. [`fmt::Display`] writes its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The party: 1 is the writing guest, 2 the other guest, 3 the host.
    pub party: u64,
    /// The register.
    pub register: RegisterEncoding,
    /// The values.
    pub values: [u64; PHASES],
}

/// The start of an observation's line.
const PREFIX: &str = "sweep ";

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{} {:x}", self.party, self.register.0)?;
        self.values.iter().try_for_each(|value| write!(f, " {value:x}"))
    }
}

impl Observation {
    /// Parses a line. Returns `None` for any other line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.trim_end().strip_prefix(PREFIX)?.split(' ');
        let party = words.next()?.parse().ok()?;
        let number = u16::from_str_radix(words.next()?, 16).ok()?;
        let register = (usize::from(number) < RegisterEncoding::COUNT).then_some(RegisterEncoding(number))?;
        let mut values = [0; PHASES];
        for value in &mut values {
            *value = u64::from_str_radix(words.next()?, 16).ok()?;
        }
        words.next().is_none().then_some(Self { party, register, values })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;
    use std::vec;

    use super::*;

    #[test]
    fn a_register_has_the_number_that_instructions_have() {
        // `mrs x0, tpidr_el1` is 0xd538d080 (Arm ARM DDI0487: op0 3, op1 0, CRn 13, CRm 0, op2 4).
        let register = RegisterEncoding::new(3, 0, 13, 0, 4);
        assert_eq!(0xd530_0000 | u32::from(register.number()) << 5, 0xd538_d080);
        assert_eq!(register.to_string(), "S3_0_C13_C0_4");
        assert_eq!(RegisterEncoding::all().count(), RegisterEncoding::COUNT);
        assert_eq!(RegisterEncoding::all().last(), Some(RegisterEncoding::new(3, 7, 15, 15, 7)));
    }

    #[test]
    fn a_plan_says_what_was_put_into_it() {
        let (one, other) = (RegisterEncoding::new(3, 0, 1, 0, 0), RegisterEncoding::new(2, 0, 0, 0, 4));
        let mut bytes = vec![0; Plan::BYTES];
        assert!(Plan::parse(&bytes[1..]).is_none());
        Plan::put(&mut bytes, one, true, 0x1234);
        let plan = Plan::parse(&bytes).unwrap();
        assert!(plan.may_read(one) && !plan.may_read(other));
        assert_eq!((plan.writable_bits(one), plan.writable_bits(other)), (0x1234, 0));
    }

    #[test]
    fn a_register_has_two_values_and_no_bit_in_common() {
        for register in RegisterEncoding::all() {
            let [a, b, c, d] = core::array::from_fn(|phase| pattern(register, phase));
            assert_eq!((a, b), (d, c));
            assert_eq!(a, !b);
        }
    }

    #[test]
    fn an_observation_round_trips() {
        let register = RegisterEncoding::new(3, 0, 13, 0, 4);
        let seen = Observation { party: 2, register, values: [1, u64::MAX, 0, 4] };
        assert_eq!(Observation::parse(&seen.to_string()), Some(seen));
        for line in ["", "sweep 1 2 3", "sweep 1 8000 0 0 0 0", "sweep 1 1 0 0 0 0 0", "other 1 1 0 0 0 0"] {
            assert_eq!(Observation::parse(line), None, "{line}");
        }
    }
}
