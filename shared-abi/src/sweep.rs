//! The register sweep of the system tests: the plan that guests and host get, and the lines that they report.

use core::fmt;

/// A system register as MRS and MSR (register) name it, with op0 = 2 or 3: bits 19 to 5 of the
/// instruction (Arm ARM DDI0487, C6.2.234).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegisterEncoding(u16);

impl RegisterEncoding {
    /// How many there are.
    pub const COUNT: usize = 1 << 15;

    /// The register `S<op0>_<op1>_C<crn>_C<crm>_<op2>`.
    ///
    /// # Panics
    ///
    /// If a field is too large, or `op0` is not 2 or 3.
    #[must_use]
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        assert!(matches!(op0, 2 | 3) && op1 < 8 && crn < 16 && crm < 16 && op2 < 8);
        let (op0, op1, crn, crm) = (op0 as u16 - 2, op1 as u16, crn as u16, crm as u16);
        Self(op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2 as u16)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u16).map(Self)
    }

    /// Its bits of the instruction.
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

/// How often the writing guest writes each register.
pub const PHASES: usize = 4;

/// Whether a phase has the complement of a register's pattern. The two do not alternate, as the lowest bit of a
/// counter does.
#[must_use]
pub const fn is_complement(phase: usize) -> bool {
    phase.count_ones() % 2 == 1
}

/// The value for a register in a phase; the plan says which bits of it are written.
#[must_use]
pub const fn pattern(register: RegisterEncoding, phase: usize) -> u64 {
    /// As many ones as zeroes in each byte, and no byte like another.
    const SEED: u64 = 0x5a3c_69a5_c396_7887;
    let pattern = SEED.rotate_left(register.0 as u32);
    if is_complement(phase) { !pattern } else { pattern }
}

/// The accesses to each register that host and guests may make. It is the guests' initial RAM disk.
///
/// For each encoding, in order, the bits that may be written as a little-endian word; then for each a byte
/// that is not 0 if it may be read.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    writable: &'a [[u8; 8]],
    readable: &'a [u8],
}

impl<'a> Plan<'a> {
    /// Its size.
    pub const BYTES: usize = RegisterEncoding::COUNT * 9;

    /// Reads a plan; `None` if it has another size.
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
    /// If they are too few.
    pub fn put(bytes: &mut [u8], register: RegisterEncoding, may_read: bool, writable_bits: u64) {
        let index = register.index();
        bytes[8 * index..][..8].copy_from_slice(&writable_bits.to_le_bytes());
        bytes[8 * RegisterEncoding::COUNT + index] = may_read.into();
    }

    /// Whether it may be read.
    #[must_use]
    pub fn may_read(&self, register: RegisterEncoding) -> bool {
        self.readable.get(register.index()).is_some_and(|byte| *byte != 0)
    }

    /// The bits of it that may be written.
    #[must_use]
    pub fn writable_bits(&self, register: RegisterEncoding) -> u64 {
        self.writable.get(register.index()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

/// The values that a party read from a register, one for each phase: the writing guest after it wrote all
/// registers, the others in their next turn. [`fmt::Display`] writes its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The writing guest is 1, the other guest 2, the host 3.
    pub party: u64,
    /// The register.
    pub register: RegisterEncoding,
    /// Its values.
    pub values: [u64; PHASES],
}

/// What an observation's line starts with.
const PREFIX: &str = "sweep ";

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{} {:x}", self.party, self.register.0)?;
        self.values.iter().try_for_each(|value| write!(f, " {value:x}"))
    }
}

impl Observation {
    /// Reads a line; `None` if it is none.
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
