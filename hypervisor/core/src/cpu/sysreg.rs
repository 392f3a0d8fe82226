//! Emulation of trapped system registers, for guests and the host alike. An unlisted register is undefined.
//!
//! The ID registers (HCR_EL2.TID3) show only features that the hypervisor switches or that need no switching.
//! For each register a table lists the visible fields and their maximum values. An unlisted field reads 0, so
//! a future CPU's features stay hidden.

use crate::cpu::exception::Exception;
use crate::cpu::registers::Registers;
use crate::cpu::syndrome::{SysRegAccess, SysRegId};

/// The result of a trapped access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Emulation {
    /// The read returns this value; the PC advances.
    Read(u64),
    /// The write has no effect; the PC advances.
    Ignored,
    /// The instruction is undefined.
    Undefined,
    /// A write of this value to ICC_SGI1R_EL1; the caller completes it and advances the PC. Only a guest's
    /// write traps: the host writes the physical register.
    Sgi(u64),
}

/// Emulates a trapped access of the host or of a vCPU. `registers` receive the result and the new PC.
///
/// Returns the written value if the instruction is a write to ICC_SGI1R_EL1. In that case `registers` are
/// unchanged and the PC still points to the instruction.
pub fn emulate(
    access: SysRegAccess,
    registers: &mut Registers,
    id_register: impl FnOnce(SysRegId) -> u64,
) -> Option<u64> {
    match decide(access, registers.get(access.rt), id_register) {
        Emulation::Read(value) => registers.set(access.rt, value),
        Emulation::Ignored => {}
        Emulation::Undefined => {
            Exception::Undefined.inject(registers);
            return None;
        }
        Emulation::Sgi(value) => return Some(value),
    }
    registers.skip_instruction();
    None
}

/// Decides about a trapped access. `value` is the value that a write would write. `id_register` reads an ID
/// register of this CPU.
fn decide(access: SysRegAccess, value: u64, id_register: impl FnOnce(SysRegId) -> u64) -> Emulation {
    let id = access.register;
    if is_id_register(id) {
        return if access.read { Emulation::Read(visible(id, id_register)) } else { Emulation::Undefined };
    }
    match (id, access.read) {
        (ICC_SGI1R_EL1, false) => Emulation::Sgi(value),
        // These SGIs are of group 0 or of the other Security state; the caller may not send them.
        (ICC_SGI0R_EL1 | ICC_ASGI1R_EL1, false) => Emulation::Ignored,
        (ICC_SRE_EL1, true) => Emulation::Read(ICC_SRE_VALUE),
        (ICC_SRE_EL1, false) => Emulation::Ignored,
        (OSLSR_EL1, false) | (OSLAR_EL1, true) => Emulation::Undefined,
        _ if is_zero(id) => {
            if access.read {
                Emulation::Read(0)
            } else {
                Emulation::Ignored
            }
        }
        _ => Emulation::Undefined,
    }
}

const ICC_SGI1R_EL1: SysRegId = SysRegId::new(3, 0, 12, 11, 5);
const ICC_ASGI1R_EL1: SysRegId = SysRegId::new(3, 0, 12, 11, 6);
const ICC_SGI0R_EL1: SysRegId = SysRegId::new(3, 0, 12, 11, 7);
const ICC_SRE_EL1: SysRegId = SysRegId::new(3, 0, 12, 12, 5);
/// ICC_SRE_EL1 with SRE, DFB and DIB set: system register access, no bypass.
const ICC_SRE_VALUE: u64 = 0b111;

const OSLAR_EL1: SysRegId = SysRegId::new(2, 0, 1, 0, 4);
const OSLSR_EL1: SysRegId = SysRegId::new(2, 0, 1, 1, 4);
const OSDLR_EL1: SysRegId = SysRegId::new(2, 0, 1, 3, 4);
const MDSCR_EL1: SysRegId = SysRegId::new(2, 0, 0, 2, 2);
const DBGBVR0_EL1: SysRegId = SysRegId::new(2, 0, 0, 0, 4);
const DBGBCR0_EL1: SysRegId = SysRegId::new(2, 0, 0, 0, 5);
const DBGWVR0_EL1: SysRegId = SysRegId::new(2, 0, 0, 0, 6);
const DBGWCR0_EL1: SysRegId = SysRegId::new(2, 0, 0, 0, 7);

/// Returns whether a register reads 0 and ignores writes. These are the debug registers that every kernel
/// clears at boot, and the error record registers (ERRIDR, ERRSELR, ERX*: S3_0_C5_C3 to C5), because there
/// are no records.
const fn is_zero(id: SysRegId) -> bool {
    matches!(
        id,
        OSLAR_EL1 | OSLSR_EL1 | OSDLR_EL1 | MDSCR_EL1 | DBGBVR0_EL1 | DBGBCR0_EL1 | DBGWVR0_EL1 | DBGWCR0_EL1
    ) || matches!(id.fields(), (3, 0, 5, 3..=5, _))
}

/// Returns whether HCR_EL2.TID3 traps the register: the ID space S3_0_C0_C1_0 to S3_0_C0_C7_7.
const fn is_id_register(id: SysRegId) -> bool {
    matches!(id.fields(), (3, 0, 0, 1..=7, _))
}

/// Returns the visible value of ID register S3_0_C0_C`crm`_`op2`. Three masks describe its 4-bit fields:
/// `as_is` keeps a field (0xf), `up_to` caps a field at a non-zero value, and `always` sets a field whatever
/// the CPU has. All other fields, and the AArch32 registers, read 0.
fn visible(id: SysRegId, read: impl FnOnce(SysRegId) -> u64) -> u64 {
    let (.., crm, op2) = id.fields();
    let (as_is, up_to, always) = match (crm, op2) {
        // ID_AA64PFR0: FP, AdvSIMD, DIT, CSV3 and GIC stay. RAS is capped below the version that ERX* would
        // need, CSV2 below the version with SCXTNUM_ELx. EL0 and EL1 are AArch64 only. No EL2, EL3, SVE,
        // MPAM, AMU, RME.
        (4, 0) => (0xf00f_0000_00ff_0000, 0x0100_0000_1100_0000, 0x11),
        // ID_AA64PFR1: BT, SSBS. No MTE, SME, NMI, GCS.
        (4, 1) => (0, 0x21, 0),
        // ID_AA64DFR0: Armv8 debug with one breakpoint and one watchpoint, both without effect. No PMU, SPE,
        // trace or double lock (DoubleLock and MTPMU encode that as 0xf).
        (5, 0) => (0, 0, 0x000f_00f0_0000_0006),
        // ID_AA64ISAR0: all but TME (bits 27:24).
        (6, 0) => (0xffff_ffff_f0ff_fff0, 0, 0),
        // ID_AA64ISAR1: DPB, JSCVT, FCMA, LRCPC, FRINTTS, SB, SPECRES, BF16, DGH, I8MM. No pointer
        // authentication (APA, API, GPA, GPI), XS, LS64.
        (6, 1) => (0x00ff_f0ff_00ff_f00f, 0x0000_0100_0000_0000, 0),
        // ID_AA64ISAR2: BC, CLRBHB, RPRFM, CSSC. No pointer authentication (GPA3, APA3), MOPS, WFxT.
        (6, 2) => (0x00ff_0000_f0f0_0000, 0, 0),
        // ID_AA64MMFR0: PARange is capped at 40 bits, the size of stage 2's input. ASIDBits, BigEnd,
        // BigEndEL0 and TGran64 stay; TGran16 is capped below 52 bits. No FGT, ECV. TGran4 is capped below 52
        // bits at the end of this function.
        (7, 0) => (0x0f0f_0ff0, 0x0010_0002, 0),
        // ID_AA64MMFR1: HAFDBS, HPDS, PAN; ETS, ECBHB. No VHE, LOR, HCX.
        (7, 1) => (0xf000_00f0_0000_0000, 0x0030_2002, 0),
        // ID_AA64MMFR2: CnP, UAO, IESB, AT, TTL, BBM, E0PD; CCIDX, IDS. No 52-bit addresses, nested
        // virtualization, FWB, EVT.
        (7, 2) => (0x0000_00f0_00f0_0000, 0x1021_0001_0000_1011, 0),
        _ => return 0,
    };
    let kept =
        seeded!(as_is, HiddenFeature => if (crm, op2) == (4, 0) { as_is | (0xf << 32) } else { as_is });
    let value = read(id);
    // TGran4 (MMFR0): 0xf says that the granule is not supported; any other value is shown as 0.
    let no_4k = (crm, op2) == (7, 0) && (value >> 28) & 0xf == 0xf;
    let always = always | if no_4k { 0xf << 28 } else { 0 };
    (0..u64::BITS).step_by(4).fold(0, |visible, shift| {
        let field = |of: u64| (of >> shift) & 0xf;
        let cut = field(value).min(field(up_to));
        visible | ((field(value) & field(kept) | cut | field(always)) << shift)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(register: SysRegId, real: u64) -> Emulation {
        let mrs = SysRegAccess { register, read: true, rt: 0 };
        decide(mrs, 0, |_| real)
    }

    fn write(register: SysRegId, value: u64) -> Emulation {
        let msr = SysRegAccess { register, read: false, rt: 0 };
        decide(msr, value, |_| unreachable!())
    }

    const fn id(crm: u8, op2: u8) -> SysRegId {
        SysRegId::new(3, 0, 0, crm, op2)
    }

    #[test]
    fn a_cpu_with_everything_shows_what_is_on_the_list() {
        // Every field is 0b1110: implemented, and above every cap.
        let everything = 0xeeee_eeee_eeee_eeee;
        for (crm, op2, visible) in [
            (4, 0, 0xe10e_0000_11ee_0011),
            (4, 1, 0x21),
            (5, 0, 0x000f_00f0_0000_0006),
            (6, 0, 0xeeee_eeee_e0ee_eee0),
            (6, 1, 0x00ee_e1ee_00ee_e00e),
            (6, 2, 0x00ee_0000_e0e0_0000),
            (7, 0, 0x0e1e_0ee2),
            (7, 1, 0xe000_00e0_0030_2002),
            (7, 2, 0x1021_00e1_00e0_1011),
        ] {
            let emulation = read(id(crm, op2), everything);
            assert_eq!(emulation, Emulation::Read(visible), "CRm {crm}, op2 {op2}");
        }
    }

    #[test]
    fn a_cortex_a76_keeps_its_visible_features() {
        // ID_AA64PFR0_EL1 of QEMU's cortex-a76 with EL2: AArch32 and EL2 are hidden.
        assert_eq!(read(id(4, 0), 0x1100_0000_1111_1122), Emulation::Read(0x1100_0000_1111_0011));
        // Its ID_AA64MMFR0_EL1: 40 bits, 16-bit ASIDs; SNSMem is hidden.
        assert_eq!(read(id(7, 0), 0x10_1122), Emulation::Read(0x10_0122));
        // Absent FP and an absent 4 KiB granule stay absent.
        assert_eq!(read(id(4, 0), 0xff_0000), Emulation::Read(0xff_0011));
        assert_eq!(read(id(7, 0), 0xf000_0000), Emulation::Read(0xf000_0000));
    }

    #[test]
    fn all_else_in_the_id_space_reads_zero() {
        for crm in 1..=7 {
            for op2 in 0..=7 {
                let listed = matches!((crm, op2), (4, 0 | 1) | (5, 0) | (6, 0..=2) | (7, 0..=2));
                if !listed {
                    assert_eq!(read(id(crm, op2), u64::MAX), Emulation::Read(0), "{crm} {op2}");
                }
                assert_eq!(write(id(crm, op2), 0), Emulation::Undefined);
            }
        }
    }

    #[test]
    fn the_gic_registers_that_trap() {
        assert_eq!(write(ICC_SGI1R_EL1, 0x1_0002), Emulation::Sgi(0x1_0002));
        assert_eq!(read(ICC_SGI1R_EL1, 0), Emulation::Undefined, "it is write-only");
        assert_eq!(write(ICC_SGI0R_EL1, 1), Emulation::Ignored);
        assert_eq!(write(ICC_ASGI1R_EL1, 1), Emulation::Ignored);
        assert_eq!(read(ICC_SRE_EL1, 0), Emulation::Read(7));
        assert_eq!(write(ICC_SRE_EL1, 0), Emulation::Ignored);
    }

    #[test]
    fn debug_and_error_registers_are_zero() {
        for register in [
            MDSCR_EL1,
            OSDLR_EL1,
            DBGBVR0_EL1,
            DBGBCR0_EL1,
            DBGWVR0_EL1,
            DBGWCR0_EL1,
            SysRegId::new(3, 0, 5, 3, 0), // ERRIDR_EL1
            SysRegId::new(3, 0, 5, 5, 3), // ERXMISC3_EL1
        ] {
            assert_eq!(read(register, 0), Emulation::Read(0), "{register:?}");
            assert_eq!(write(register, 1), Emulation::Ignored, "{register:?}");
        }
        assert_eq!(write(OSLAR_EL1, 0), Emulation::Ignored);
        assert_eq!(read(OSLSR_EL1, 0), Emulation::Read(0));
        assert_eq!(write(OSLSR_EL1, 0), Emulation::Undefined);
    }

    #[test]
    fn unlisted_registers_are_undefined() {
        for (name, register) in [
            ("PMCR_EL0", SysRegId::new(3, 3, 9, 12, 0)),
            ("PMEVCNTR0_EL0", SysRegId::new(3, 3, 14, 8, 0)),
            ("PMSCR_EL1", SysRegId::new(3, 0, 9, 9, 0)),
            ("AMCR_EL0", SysRegId::new(3, 3, 13, 2, 0)),
            ("LORC_EL1", SysRegId::new(3, 0, 10, 4, 3)),
            ("TRFCR_EL1", SysRegId::new(3, 0, 1, 2, 1)),
            ("TRCPRGCTLR", SysRegId::new(2, 1, 0, 1, 0)),
            ("DC ISW", SysRegId::new(1, 0, 7, 6, 2)),
            ("APIAKEYLO_EL1", SysRegId::new(3, 0, 2, 1, 0)),
            ("ZCR_EL1", SysRegId::new(3, 0, 1, 2, 0)),
            ("CNTP_CTL_EL0", SysRegId::new(3, 3, 14, 2, 1)),
            ("DBGBVR1_EL1", SysRegId::new(2, 0, 0, 1, 4)),
            ("SMPRI_EL1", SysRegId::new(3, 0, 1, 2, 4)),
        ] {
            assert_eq!(read(register, 0), Emulation::Undefined, "{name}");
            assert_eq!(write(register, 0), Emulation::Undefined, "{name}");
        }
    }
}
