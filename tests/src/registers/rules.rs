//! System registers that a guest does not read or write, or in part, each with the reason; and those that are
//! known to cross.
//!
//! A guest reads each register that is not here, and writes all its bits.

use shared_abi::sweep::{Plan, RegisterEncoding};

use super::judge::Reader;

/// The accesses to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It is neither read nor written.
    None,
    /// It is read.
    Read,
    /// It is read, and these bits are written.
    Write(u64),
}

/// A register that is not read and written whole.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name in the Arm ARM.
    pub name: &'static str,
    /// Its encoding.
    pub register: RegisterEncoding,
    /// The accesses to it.
    pub access: Access,
    /// The reason for no more.
    pub why: &'static str,
}

/// A register that is known to carry a value from the guest that wrote it.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its name in the Arm ARM.
    pub name: &'static str,
    /// Its encoding.
    pub register: RegisterEncoding,
    /// The party that reads it.
    pub reader: Reader,
    /// The cause.
    pub why: &'static str,
}

const fn rule(name: &'static str, encoding: [u8; 5], access: Access, why: &'static str) -> Rule {
    Rule { name, register: register(encoding), access, why }
}

/// op0, op1, `CRn`, `CRm` and op2 as one.
#[must_use]
pub const fn register([op0, op1, crn, crm, op2]: [u8; 5]) -> RegisterEncoding {
    RegisterEncoding::new(op0, op1, crn, crm, op2)
}

/// Bits `low` to `high`.
const fn field(high: u32, low: u32) -> u64 {
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

/// In the order of their encodings.
pub const RULES: &[Rule] = &[
    rule(
        "SCTLR_EL1",
        [3, 0, 1, 0, 0],
        // SA0, CP15BEN, ITD, SED, UMA, DZE, UCT, nTWI, nTWE, E0E, UCI
        Access::Write(field(9, 7) | field(5, 4) | field(16, 14) | 1 << 18 | 1 << 24 | 1 << 26),
        "the guest runs by it; these bits are about EL0, where nothing runs",
    ),
    rule(
        "CPACR_EL1",
        [3, 0, 1, 0, 2],
        Access::Write(1 << 28 | 1 << 21), // TTA; the part of FPEN that is about EL0
        "FPCR and FPSR are read and written, which must not trap at EL1",
    ),
    rule(
        "TTBR0_EL1",
        [3, 0, 2, 0, 0],
        Access::Write(field(63, 48)), // ASID
        "the guest's own tables are there",
    ),
    rule(
        "TCR_EL1",
        [3, 0, 2, 0, 2],
        Access::Write(field(29, 24) | 1 << 38), // IRGN1, ORGN1, SH1; TBI1
        "the guest's own tables are read by it; these bits are about the upper range, which is off (EPD1)",
    ),
    rule("SPSel", [3, 0, 4, 2, 0], Access::Read, "the stack would be another"),
    rule("DAIF", [3, 3, 4, 2, 1], Access::Read, "an exception would be taken, which changes others"),
    rule("NZCV", [3, 3, 4, 2, 0], Access::Read, "the code between two accesses changes it"),
    rule(
        "MAIR_EL1",
        [3, 0, 10, 2, 0],
        Access::Write(field(63, 16)),
        "the guest's own mappings have the attributes 0 and 1",
    ),
    rule("ICC_IAR0_EL1", [3, 0, 12, 8, 0], Access::None, "reading it acknowledges an interrupt"),
    rule("ICC_EOIR0_EL1", [3, 0, 12, 8, 1], Access::None, "writing it ends an interrupt"),
    rule(
        "ICC_BPR0_EL1",
        [3, 0, 12, 8, 3],
        Access::Write(field(2, 0)),
        "the others are RES0, and QEMU takes bit 31 for a sign",
    ),
    rule("ICC_NMIAR1_EL1", [3, 0, 12, 9, 5], Access::None, "reading it acknowledges an interrupt"),
    rule("ICC_DIR_EL1", [3, 0, 12, 11, 1], Access::None, "writing it deactivates an interrupt"),
    rule("ICC_SGI1R_EL1", [3, 0, 12, 11, 5], Access::None, "writing it sends an interrupt"),
    rule("ICC_ASGI1R_EL1", [3, 0, 12, 11, 6], Access::None, "writing it sends an interrupt"),
    rule("ICC_SGI0R_EL1", [3, 0, 12, 11, 7], Access::None, "writing it sends an interrupt"),
    rule("ICC_IAR1_EL1", [3, 0, 12, 12, 0], Access::None, "reading it acknowledges an interrupt"),
    rule("ICC_EOIR1_EL1", [3, 0, 12, 12, 1], Access::None, "writing it ends an interrupt"),
    rule(
        "CNTPCT_EL0",
        [3, 3, 14, 0, 1],
        Access::None,
        "it counts: all parties see the same, and it is read-only",
    ),
    rule(
        "CNTVCT_EL0",
        [3, 3, 14, 0, 2],
        Access::None,
        "it counts: all parties see the same, and it is read-only",
    ),
    rule("CNTP_TVAL_EL0", [3, 3, 14, 2, 0], Access::None, "it counts: CNTP_CVAL_EL0 less CNTPCT_EL0"),
    rule("CNTV_TVAL_EL0", [3, 3, 14, 3, 0], Access::None, "it counts: CNTV_CVAL_EL0 less CNTVCT_EL0"),
    rule(
        "CNTV_CTL_EL0",
        [3, 3, 14, 3, 1],
        Access::Write(1 << 1), // IMASK
        "an armed timer would fire, and exits be made for it",
    ),
];

/// Registers that cross today.
pub const KNOWN: &[Known] = &[Known {
    name: "DISR_EL1",
    register: register([3, 0, 12, 1, 1]),
    reader: Reader::Guest,
    why: "HCR_EL2.AMO makes it VDISR_EL2 in guests, which is not switched; the host has the real one",
}];

/// The plan for guests and host: [`RULES`], and all accesses to all other registers.
#[must_use]
pub fn plan() -> Vec<u8> {
    let mut bytes = vec![0; Plan::BYTES];
    for register in RegisterEncoding::all() {
        let rule = RULES.iter().find(|rule| rule.register == register);
        let (may_read, writable_bits) = match rule.map_or(Access::Write(u64::MAX), |rule| rule.access) {
            Access::None => (false, 0),
            Access::Read => (true, 0),
            Access::Write(bits) => (true, bits),
        };
        Plan::put(&mut bytes, register, may_read, writable_bits);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_has_one_rule() {
        let mut registers: Vec<_> = RULES.iter().map(|rule| rule.register).collect();
        registers.sort_unstable();
        registers.dedup();
        assert_eq!(registers.len(), RULES.len());
    }

    #[test]
    fn the_plan_is_the_rules_and_all_else() {
        let bytes = plan();
        let plan = Plan::parse(&bytes).unwrap();
        let bits = |encoding| (plan.may_read(register(encoding)), plan.writable_bits(register(encoding)));
        assert_eq!(bits([3, 3, 13, 0, 2]), (true, u64::MAX)); // TPIDR_EL0
        assert_eq!(bits([3, 0, 12, 12, 0]), (false, 0));
        assert_eq!(bits([3, 0, 4, 2, 0]), (true, 0));
        assert_eq!(bits([3, 0, 2, 0, 0]), (true, 0xffff << 48));
        assert_eq!(field(63, 0), u64::MAX);
    }
}
