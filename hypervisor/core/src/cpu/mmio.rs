//! The guest's pending MMIO access, which the host finishes.
//!
//! The guest's registers and PC stay at EL2. The host sees the address, the size and the stored value, and
//! returns the loaded value. The destination register and the extension of the loaded value are decided here.

use shared_abi::addr::Ipa;
use shared_abi::error::CallError;
use shared_abi::vcpu::{AccessSize, Exit, Resume};

use crate::cpu::exception::{Abort, Exception};
use crate::cpu::registers::VcpuContext;
use crate::cpu::syndrome::{DataAbort, RegisterAccess};

/// An access that waits for the host. It consists of plain integers and lives in a page that starts wiped, so
/// all zeroes mean that no access is pending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PendingAccess {
    /// ESR_EL2 of the abort; 0 if no access is pending.
    esr: u64,
    /// The guest's virtual address, for the abort that the host may request.
    far: u64,
}

/// Turns a guest access that aborted with `esr` into an exit. Records the access until the host finishes it.
#[inline(always)] // mmio_exit: the exit stays in registers
pub(crate) fn begin(context: &mut VcpuContext, esr: u64, access: RegisterAccess, ipa: Ipa, far: u64) -> Exit {
    context.pending = PendingAccess { esr, far };
    let size = access.size;
    if DataAbort::decode(esr).write {
        let mask = seeded!(size.mask(), WholeRegister => u64::MAX);
        let value = context.registers.get(access.register) & mask;
        Exit::MmioWrite { ipa, size, value }
    } else {
        Exit::MmioRead { ipa, size }
    }
}

/// Finishes or retries the pending access, as the host requests at entry.
///
/// [`Resume::Continue`] is always valid: the guest runs the instruction again.
///
/// # Errors
///
/// [`CallError::InvalidParameter`] if no access is pending that `resume` fits. Nothing has changed then.
#[inline(always)] // mmio_exit: decodes the pending access in registers
pub fn resume(context: &mut VcpuContext, resume: Resume) -> Result<(), CallError> {
    let PendingAccess { esr, far } = context.pending;
    let DataAbort { write, access, .. } = DataAbort::decode(esr);
    match (access, resume) {
        (_, Resume::Continue) => {}
        (Some(access), Resume::MmioRead(value)) if !write => {
            context.registers.set(access.register, extend(access, value));
            context.registers.skip_instruction();
        }
        (Some(_), Resume::MmioWritten) if write => context.registers.skip_instruction(),
        (Some(_), Resume::Abort) => {
            Exception::ExternalAbort(Abort { fetch: false, write, far: Some(far) })
                .inject(&mut context.registers);
        }
        _ => return Err(CallError::InvalidParameter),
    }
    context.pending = seeded!(PendingAccess::default(), AnsweredTwice => context.pending);
    Ok(())
}

/// Returns the register value that this load produces when memory holds `value`.
fn extend(access: RegisterAccess, value: u64) -> u64 {
    let mask = seeded!(access.size.mask(), AnswerUnmasked => u64::MAX);
    let value = value & mask;
    if !access.sign_extend {
        return value;
    }
    let sign = (access.size.mask() >> 1).wrapping_add(1);
    let extended = (value ^ sign).wrapping_sub(sign);
    if access.wide { extended } else { extended & AccessSize::Word.mask() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::registers::Registers;

    /// ESR_EL2 of an access to x5 (DDI0487, D19.2.42).
    fn access(size: AccessSize, sign_extend: bool, wide: bool, write: bool) -> u64 {
        let sas = u64::from(size.bytes().trailing_zeros());
        let (sse, sf, wnr) = (u64::from(sign_extend), u64::from(wide), u64::from(write));
        0x9300_0007 | sas << 22 | sse << 21 | 5 << 16 | sf << 15 | wnr << 6
    }

    fn begin(context: &mut VcpuContext, esr: u64, ipa: Ipa, far: u64) -> Exit {
        let access = DataAbort::decode(esr).access.unwrap();
        super::begin(context, esr, access, ipa, far)
    }

    fn context() -> VcpuContext {
        let registers = Registers { pc: 0x1000, pstate: 0x3c5, ..Registers::default() };
        let mut context = VcpuContext { registers, ..VcpuContext::default() };
        context.registers.x[5] = 0x1122_3344_5566_7788;
        context.registers.system.vbar_el1 = 0x8000;
        context
    }

    #[test]
    fn a_write_shows_only_its_own_bytes() {
        for (size, value) in [
            (AccessSize::Byte, 0x88),
            (AccessSize::Half, 0x7788),
            (AccessSize::Word, 0x5566_7788),
            (AccessSize::Double, 0x1122_3344_5566_7788),
        ] {
            let ipa = Ipa(0x900_0000);
            let mut context = context();
            let exit = begin(&mut context, access(size, false, false, true), ipa, 0);
            assert_eq!(exit, Exit::MmioWrite { ipa, size, value });
            assert_eq!(resume(&mut context, Resume::MmioWritten), Ok(()));
            assert_eq!(context.registers.pc, 0x1004);
        }
    }

    #[test]
    fn a_read_is_masked_and_extended_as_the_instruction_says() {
        use AccessSize::{Byte, Double, Half, Word};
        for (size, sign, wide, given, expected) in [
            (Byte, false, false, u64::MAX, 0xff),
            (Half, false, false, u64::MAX, 0xffff),
            (Word, false, false, u64::MAX, 0xffff_ffff),
            (Double, false, true, u64::MAX, u64::MAX),
            (Byte, true, false, 0x80, 0xffff_ff80),
            (Byte, true, true, 0x80, 0xffff_ffff_ffff_ff80),
            (Byte, true, true, 0xff7f, 0x7f),
            (Half, true, false, 0x8000, 0xffff_8000),
            (Word, true, true, 0x8000_0000, 0xffff_ffff_8000_0000),
            (Double, true, true, 1 << 63, 1 << 63),
        ] {
            let mut context = context();
            let ipa = Ipa(0x900_0000);
            begin(&mut context, access(size, sign, wide, false), ipa, 0);
            assert_eq!(resume(&mut context, Resume::MmioRead(given)), Ok(()));
            assert_eq!(context.registers.x[5], expected, "{size:?} {sign} {wide} {given:#x}");
            assert_eq!(context.registers.pc, 0x1004);
        }
    }

    #[test]
    fn a_resume_must_fit_the_pending_access() {
        let ipa = Ipa(0x900_0000);
        for (pending, answer) in [
            (None, Resume::MmioRead(0)),
            (None, Resume::MmioWritten),
            (None, Resume::Abort),
            (Some(false), Resume::MmioWritten),
            (Some(true), Resume::MmioRead(0)),
        ] {
            let mut context = context();
            if let Some(write) = pending {
                begin(&mut context, access(AccessSize::Word, false, false, write), ipa, 0);
            }
            let before = context.clone();
            assert_eq!(resume(&mut context, answer), Err(CallError::InvalidParameter));
            assert!(context == before, "a refused entry changes nothing");
        }
    }

    #[test]
    fn an_access_is_finished_once() {
        let mut context = context();
        let word = access(AccessSize::Word, false, false, false);
        begin(&mut context, word, Ipa(0x900_0000), 0);
        assert_eq!(resume(&mut context, Resume::MmioRead(1)), Ok(()));
        assert!(resume(&mut context, Resume::MmioRead(2)).is_err());
        assert_eq!(context.registers.x[5], 1);
        begin(&mut context, word, Ipa(0x900_0000), 0);
        assert_eq!(resume(&mut context, Resume::Continue), Ok(()));
        assert_eq!(context.registers.pc, 0x1004, "the instruction runs again");
        assert!(resume(&mut context, Resume::MmioRead(2)).is_err());
    }

    #[test]
    fn an_abort_is_taken_at_the_access() {
        let mut context = context();
        let word = access(AccessSize::Word, false, false, true);
        begin(&mut context, word, Ipa(0x900_0000), 0xffff_0000);
        assert_eq!(resume(&mut context, Resume::Abort), Ok(()));
        assert_eq!(context.registers.pc, 0x8200);
        assert_eq!(context.registers.system.elr_el1, 0x1000);
        assert_eq!(context.registers.system.far_el1, 0xffff_0000);
        assert_eq!(context.registers.system.esr_el1, 0x9600_0050);
    }
}
