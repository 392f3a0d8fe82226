//! The MMIO access that a guest made and the host is to finish.
//!
//! The guest's register and the PC stay at EL2: the host learns address, size and stored value, and says
//! what was read. Which register takes it, and how it is extended, is kept here.

use shared_abi::addr::Ipa;
use shared_abi::error::CallError;
use shared_abi::vcpu::{AccessSize, Exit, Resume};

use crate::inject::{Abort, Exception};
use crate::syndrome::Access;
use crate::vcpu::VcpuContext;

/// The access that the host is to finish. Plain integers: it lives in a page whose wiped state has to
/// mean "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PendingAccess {
    /// 0 for none, [`READ`] or [`WRITE`].
    kind: u64,
    /// Bytes.
    size: u64,
    /// The general-purpose register of a read.
    register: u64,
    /// [`SIGN_EXTEND`], [`WIDE`].
    flags: u64,
    /// The guest's virtual address, for the abort that the host may answer with.
    far: u64,
}

const READ: u64 = 1;
const WRITE: u64 = 2;

const SIGN_EXTEND: u64 = 1 << 0;
const WIDE: u64 = 1 << 1;

/// Turns an access of the guest's into an exit, and remembers it until the host has finished it.
pub(crate) fn begin(context: &mut VcpuContext, access: Access, write: bool, ipa: Ipa, far: u64) -> Exit {
    let mut flags = 0;
    if access.sign_extend {
        flags |= SIGN_EXTEND;
    }
    if access.wide {
        flags |= WIDE;
    }
    context.pending = PendingAccess {
        kind: if write { WRITE } else { READ },
        size: access.size.bytes(),
        register: access.register.into(),
        flags,
        far,
    };
    let size = access.size;
    if write {
        let value = context.register(access.register) & seeded!(size.mask(), WholeRegister => u64::MAX);
        Exit::MmioWrite { ipa, size, value }
    } else {
        Exit::MmioRead { ipa, size }
    }
}

/// Does what the host says on entry about the pending access.
///
/// [`Resume::Continue`] is always right: whatever was pending runs again.
///
/// # Errors
///
/// [`CallError::InvalidParameter`] for an answer to an access that is not pending; nothing was done.
pub fn resume(context: &mut VcpuContext, resume: Resume) -> Result<(), CallError> {
    let pending = context.pending;
    match (pending.kind, resume) {
        (_, Resume::Continue) => {}
        (READ, Resume::MmioRead(value)) => {
            let register = u8::try_from(pending.register).unwrap_or(ZERO_REGISTER);
            context.set_register(register, pending.extend(value));
            context.skip_instruction();
        }
        (WRITE, Resume::MmioWritten) => context.skip_instruction(),
        (READ | WRITE, Resume::Abort) => Exception::ExternalAbort(Abort {
            fetch: false,
            write: pending.kind == WRITE,
            far: Some(pending.far),
        })
        .inject(context),
        _ => return Err(CallError::InvalidParameter),
    }
    context.pending = seeded!(PendingAccess::default(), AnsweredTwice => pending);
    Ok(())
}

/// Register number 31: XZR.
const ZERO_REGISTER: u8 = 31;

impl PendingAccess {
    /// What a load of this kind leaves in its register when memory holds `value`.
    fn extend(&self, value: u64) -> u64 {
        let size = AccessSize::from_bytes(self.size).unwrap_or(AccessSize::Double);
        let value = value & seeded!(size.mask(), AnswerUnmasked => u64::MAX);
        if self.flags & SIGN_EXTEND == 0 {
            return value;
        }
        let sign = (size.mask() >> 1).wrapping_add(1);
        let extended = (value ^ sign).wrapping_sub(sign);
        if self.flags & WIDE == 0 { extended & AccessSize::Word.mask() } else { extended }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(size: AccessSize, sign_extend: bool, wide: bool) -> Access {
        Access { size, sign_extend, wide, register: 5 }
    }

    fn context() -> VcpuContext {
        let mut context = VcpuContext { pc: 0x1000, pstate: 0x3c5, ..VcpuContext::default() };
        context.x[5] = 0x1122_3344_5566_7788;
        context.system.vbar_el1 = 0x8000;
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
            let exit = begin(&mut context, access(size, false, false), true, ipa, 0);
            assert_eq!(exit, Exit::MmioWrite { ipa, size, value });
            assert_eq!(resume(&mut context, Resume::MmioWritten), Ok(()));
            assert_eq!(context.pc, 0x1004);
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
            begin(&mut context, access(size, sign, wide), false, ipa, 0);
            assert_eq!(resume(&mut context, Resume::MmioRead(given)), Ok(()));
            assert_eq!(context.x[5], expected, "{size:?} {sign} {wide} {given:#x}");
            assert_eq!(context.pc, 0x1004);
        }
    }

    #[test]
    fn the_answer_must_fit_the_question() {
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
                begin(&mut context, access(AccessSize::Word, false, false), write, ipa, 0);
            }
            let before = context.clone();
            assert_eq!(resume(&mut context, answer), Err(CallError::InvalidParameter));
            assert!(context == before, "a refused entry changes nothing");
        }
    }

    #[test]
    fn an_access_is_finished_once() {
        let mut context = context();
        let word = access(AccessSize::Word, false, false);
        begin(&mut context, word, false, Ipa(0x900_0000), 0);
        assert_eq!(resume(&mut context, Resume::MmioRead(1)), Ok(()));
        assert!(resume(&mut context, Resume::MmioRead(2)).is_err());
        assert_eq!(context.x[5], 1);
        begin(&mut context, word, false, Ipa(0x900_0000), 0);
        assert_eq!(resume(&mut context, Resume::Continue), Ok(()));
        assert_eq!(context.pc, 0x1004, "the instruction runs again");
        assert!(resume(&mut context, Resume::MmioRead(2)).is_err());
    }

    #[test]
    fn an_abort_is_taken_at_the_access() {
        let mut context = context();
        let word = access(AccessSize::Word, false, false);
        begin(&mut context, word, true, Ipa(0x900_0000), 0xffff_0000);
        assert_eq!(resume(&mut context, Resume::Abort), Ok(()));
        assert_eq!(context.pc, 0x8200);
        assert_eq!(context.system.elr_el1, 0x1000);
        assert_eq!(context.system.far_el1, 0xffff_0000);
        assert_eq!(context.system.esr_el1, 0x9600_0050);
    }
}
