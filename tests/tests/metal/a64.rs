//! As much of A64 as the tests read (Arm ARM DDI0487, C4.1 and C6.2).

/// What an instruction does, as far as the tests have to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// A barrier, maintenance of caches or TLBs, ERET, SMC: its name.
    Named(String),
    /// MRS.
    Read { register: String, to: u8 },
    /// MSR (register).
    Write { register: String, from: u8 },
    /// LDR and LDP (X and Q).
    Load { transfer: Transfer },
    /// STR and STP (X and Q).
    Store { transfer: Transfer },
    /// ADD or SUB (immediate).
    Add { to: u8, from: u8, value: i64 },
    /// MOVZ.
    Set { to: u8, value: u64 },
    /// MOV (register).
    Move { to: u8, from: u8 },
    /// B and B.cond, CBZ, TBZ and their like: where to, and whether it may not be taken.
    Branch { target: u64, conditional: bool },
    /// BL.
    Call { target: u64 },
    /// BLR.
    CallRegister,
    /// BR and RET.
    Return,
    /// BRK and UDF.
    Trap,
    /// Anything else; it changes this general register at most.
    Other { to: u8 },
}

/// Registers and memory of a load or a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// One or two; Q registers from [`Q0`] on.
    pub(crate) registers: Vec<u8>,
    /// Bytes of each.
    pub(crate) size: i64,
    /// The register that holds the address; [`SP`] for the stack pointer.
    pub(crate) base: u8,
    /// What is added to it before the access.
    pub(crate) offset: i64,
    /// What is added to it for good.
    pub(crate) write_back: i64,
}

/// The stack pointer, where an instruction takes it; else it is XZR.
pub(crate) const SP: u8 = 31;
/// Q0; the others follow.
pub(crate) const Q0: u8 = 64;

/// Instructions named by SYS: op1, CRn, CRm, op2 (Arm ARM DDI0487, C5.1.3).
const MAINTENANCE: &[(&str, [u32; 4])] = &[
    ("DC ZVA", [3, 7, 4, 1]),
    ("DC CIVAC", [3, 7, 14, 1]),
    ("IC IALLUIS", [0, 7, 1, 0]),
    ("IC IALLU", [0, 7, 5, 0]),
    ("TLBI IPAS2E1IS", [4, 8, 0, 1]),
    ("TLBI VMALLE1IS", [0, 8, 3, 0]),
    ("TLBI VMALLS12E1IS", [4, 8, 3, 6]),
    ("TLBI VMALLE1", [0, 8, 7, 0]),
    ("TLBI ALLE1", [4, 8, 7, 4]),
    ("TLBI ALLE2", [4, 8, 7, 0]),
];

/// System registers: op0, op1, CRn, CRm, op2 (Arm ARM DDI0487, D22.3; IHI 0069, 12.1).
const REGISTERS: &[(&str, [u32; 5])] = &[
    ("MDSCR_EL1", [2, 0, 0, 2, 2]),
    ("MIDR_EL1", [3, 0, 0, 0, 0]),
    ("MPIDR_EL1", [3, 0, 0, 0, 5]),
    ("ID_AA64DFR0_EL1", [3, 0, 0, 5, 0]),
    ("ID_AA64MMFR0_EL1", [3, 0, 0, 7, 0]),
    ("ID_AA64MMFR1_EL1", [3, 0, 0, 7, 1]),
    ("SCTLR_EL1", [3, 0, 1, 0, 0]),
    ("CPACR_EL1", [3, 0, 1, 0, 2]),
    ("TRFCR_EL1", [3, 0, 1, 2, 1]),
    ("TTBR0_EL1", [3, 0, 2, 0, 0]),
    ("TTBR1_EL1", [3, 0, 2, 0, 1]),
    ("TCR_EL1", [3, 0, 2, 0, 2]),
    ("SPSR_EL1", [3, 0, 4, 0, 0]),
    ("ELR_EL1", [3, 0, 4, 0, 1]),
    ("SP_EL0", [3, 0, 4, 1, 0]),
    ("AFSR0_EL1", [3, 0, 5, 1, 0]),
    ("AFSR1_EL1", [3, 0, 5, 1, 1]),
    ("ESR_EL1", [3, 0, 5, 2, 0]),
    ("FAR_EL1", [3, 0, 6, 0, 0]),
    ("PAR_EL1", [3, 0, 7, 4, 0]),
    ("MAIR_EL1", [3, 0, 10, 2, 0]),
    ("AMAIR_EL1", [3, 0, 10, 3, 0]),
    ("VBAR_EL1", [3, 0, 12, 0, 0]),
    ("CONTEXTIDR_EL1", [3, 0, 13, 0, 1]),
    ("TPIDR_EL1", [3, 0, 13, 0, 4]),
    ("CNTKCTL_EL1", [3, 0, 14, 1, 0]),
    ("CSSELR_EL1", [3, 2, 0, 0, 0]),
    ("CTR_EL0", [3, 3, 0, 0, 1]),
    ("DCZID_EL0", [3, 3, 0, 0, 7]),
    ("FPCR", [3, 3, 4, 4, 0]),
    ("FPSR", [3, 3, 4, 4, 1]),
    ("TPIDR_EL0", [3, 3, 13, 0, 2]),
    ("TPIDRRO_EL0", [3, 3, 13, 0, 3]),
    ("CNTV_CTL_EL0", [3, 3, 14, 3, 1]),
    ("CNTV_CVAL_EL0", [3, 3, 14, 3, 2]),
    ("VPIDR_EL2", [3, 4, 0, 0, 0]),
    ("VMPIDR_EL2", [3, 4, 0, 0, 5]),
    ("SCTLR_EL2", [3, 4, 1, 0, 0]),
    ("HCR_EL2", [3, 4, 1, 1, 0]),
    ("MDCR_EL2", [3, 4, 1, 1, 1]),
    ("CPTR_EL2", [3, 4, 1, 1, 2]),
    ("HSTR_EL2", [3, 4, 1, 1, 3]),
    ("HFGRTR_EL2", [3, 4, 1, 1, 4]),
    ("HFGWTR_EL2", [3, 4, 1, 1, 5]),
    ("HFGITR_EL2", [3, 4, 1, 1, 6]),
    ("TRFCR_EL2", [3, 4, 1, 2, 1]),
    ("HCRX_EL2", [3, 4, 1, 2, 2]),
    ("TTBR0_EL2", [3, 4, 2, 0, 0]),
    ("TCR_EL2", [3, 4, 2, 0, 2]),
    ("VTTBR_EL2", [3, 4, 2, 1, 0]),
    ("VTCR_EL2", [3, 4, 2, 1, 2]),
    ("HDFGRTR_EL2", [3, 4, 3, 1, 4]),
    ("HDFGWTR_EL2", [3, 4, 3, 1, 5]),
    ("SPSR_EL2", [3, 4, 4, 0, 0]),
    ("ELR_EL2", [3, 4, 4, 0, 1]),
    ("SP_EL1", [3, 4, 4, 1, 0]),
    ("ESR_EL2", [3, 4, 5, 2, 0]),
    ("FAR_EL2", [3, 4, 6, 0, 0]),
    ("MAIR_EL2", [3, 4, 10, 2, 0]),
    ("VBAR_EL2", [3, 4, 12, 0, 0]),
    ("ICH_AP0R0_EL2", [3, 4, 12, 8, 0]),
    ("ICH_AP1R0_EL2", [3, 4, 12, 9, 0]),
    ("ICC_SRE_EL2", [3, 4, 12, 9, 5]),
    ("ICH_HCR_EL2", [3, 4, 12, 11, 0]),
    ("ICH_VTR_EL2", [3, 4, 12, 11, 1]),
    ("ICH_VMCR_EL2", [3, 4, 12, 11, 7]),
    ("CNTVOFF_EL2", [3, 4, 14, 0, 3]),
    ("CNTHCTL_EL2", [3, 4, 14, 1, 0]),
];

/// Decodes the instruction at `address`.
pub(crate) fn decode(word: u32, address: u64) -> Op {
    let register = |low: u32| u8::try_from(word >> low & 0x1f).expect("five bits");
    let unsigned = |low: u32, bits: u32| i64::from(word >> low & ((1 << bits) - 1));
    let signed = |low: u32, bits: u32| {
        let value = unsigned(low, bits);
        if value >> (bits - 1) == 0 { value } else { value - (1 << bits) }
    };
    let target = |low: u32, bits: u32| address.wrapping_add_signed(4 * signed(low, bits));
    let conditional = |target| Op::Branch { target, conditional: true };
    let is = |mask: u32, value: u32| word & mask == value;

    if is(0xffc0_0000, 0xd500_0000) {
        return system(word);
    }
    if is(0xfc00_0000, 0x1400_0000) {
        return Op::Branch { target: target(0, 26), conditional: false };
    }
    if is(0xfc00_0000, 0x9400_0000) {
        return Op::Call { target: target(0, 26) };
    }
    if is(0xff00_0010, 0x5400_0000) || is(0x7e00_0000, 0x3400_0000) {
        return conditional(target(5, 19));
    }
    if is(0x7e00_0000, 0x3600_0000) {
        return conditional(target(5, 14));
    }
    if word == 0xd69f_03e0 {
        return Op::Named("ERET".to_owned());
    }
    if is(0xffff_fc1f, 0xd63f_0000) {
        return Op::CallRegister;
    }
    if is(0xffdf_fc1f, 0xd61f_0000) || is(0xffff_fc1f, 0xd65f_0000) {
        return Op::Return;
    }
    if is(0xffe0_001f, 0xd420_0000) || is(0xffff_0000, 0) {
        return Op::Trap;
    }
    if is(0xff00_0000, 0xd400_0000) {
        return Op::Named(["SVC?", "SVC", "HVC", "SMC"][word as usize & 3].to_owned());
    }
    if is(0xfe00_0000, 0xa800_0000) {
        let (pair, change) = (vec![register(0), register(10)], 8 * signed(15, 7));
        let (offset, write_back) = match word >> 23 & 3 {
            0b01 => (0, change),
            0b11 => (change, change),
            _ => (change, 0),
        };
        return transfer(word >> 22 & 1, pair, 8, register(5), offset, write_back);
    }
    if is(0xff80_0000, 0xf900_0000) {
        return transfer(word >> 22 & 1, vec![register(0)], 8, register(5), 8 * unsigned(10, 12), 0);
    }
    if is(0xffa0_0400, 0xf800_0400) {
        let change = signed(12, 9);
        let offset = if word >> 11 & 1 == 1 { change } else { 0 };
        return transfer(word >> 22 & 1, vec![register(0)], 8, register(5), offset, change);
    }
    if is(0xff80_0000, 0x3d80_0000) {
        return transfer(word >> 22 & 1, vec![Q0 + register(0)], 16, register(5), 16 * unsigned(10, 12), 0);
    }
    if is(0xbf80_0000, 0x9100_0000) {
        let value = unsigned(10, 12) << (12 * (word >> 22 & 1));
        let value = if word >> 30 & 1 == 1 { -value } else { value };
        return Op::Add { to: register(0), from: register(5), value };
    }
    if is(0x7f80_0000, 0x5280_0000) {
        let value = u64::from(word >> 5 & 0xffff) << (16 * (word >> 21 & 3));
        return Op::Set { to: register(0), value };
    }
    if is(0xffe0_ffe0, 0xaa00_03e0) {
        return Op::Move { to: register(0), from: register(16) };
    }
    Op::Other { to: register(0) }
}

fn transfer(load: u32, registers: Vec<u8>, size: i64, base: u8, offset: i64, write_back: i64) -> Op {
    let transfer = Transfer { registers, size, base, offset, write_back };
    if load == 1 { Op::Load { transfer } } else { Op::Store { transfer } }
}

/// Barriers, SYS, MSR and MRS (Arm ARM DDI0487, C4.1.94).
fn system(word: u32) -> Op {
    let read = word >> 21 & 1 == 1;
    let [op0, op1, crn, crm, op2] =
        [word >> 19 & 3, word >> 16 & 7, word >> 12 & 0xf, word >> 8 & 0xf, word >> 5 & 7];
    let rt = u8::try_from(word & 0x1f).expect("five bits");
    match (op0, crn, op2) {
        (0, 3, 4 | 5) => {
            let kind = if op2 == 4 { "DSB" } else { "DMB" };
            let domain = match crm {
                0b1111 => "SY".to_owned(),
                0b1011 => "ISH".to_owned(),
                0b1010 => "ISHST".to_owned(),
                0b0111 => "NSH".to_owned(),
                other => format!("#{other}"),
            };
            Op::Named(format!("{kind} {domain}"))
        }
        (0, 3, 6) => Op::Named("ISB".to_owned()),
        // NOP.
        (0, 2, 0) if crm == 0 => Op::Other { to: SP },
        (0, ..) => Op::Named(format!("hint or PSTATE {word:#x}")),
        (1, ..) => {
            let known = MAINTENANCE.iter().find(|(_, encoding)| *encoding == [op1, crn, crm, op2]);
            Op::Named(known.map_or_else(
                || format!("SYS #{op1}, C{crn}, C{crm}, #{op2}"),
                |(name, _)| (*name).to_owned(),
            ))
        }
        _ => {
            let register = match [op0, op1, crn, crm, op2] {
                // Eight list registers in each of two rows.
                [3, 4, 12, 12 | 13, _] => format!("ICH_LR{}_EL2", 8 * (crm - 12) + op2),
                encoding => REGISTERS.iter().find(|(_, known)| *known == encoding).map_or_else(
                    || format!("S{op0}_{op1}_C{crn}_C{crm}_{op2}"),
                    |(name, _)| (*name).to_owned(),
                ),
            };
            if read { Op::Read { register, to: rt } } else { Op::Write { register, from: rt } }
        }
    }
}
