//! Entry and exit of a vCPU: all input from the host, and all output to it.
//!
//! All of it is in registers of the `VcpuRun` call, so it cannot change between check and use. The guest's own
//! registers never leave the hypervisor.
//!
//! | register | entry | exit |
//! | --- | --- | --- |
//! | x0 | function ID | 0, or a [`CallError`]: the vCPU was not entered |
//! | x1 | VM handle | reason |
//! | x2 | vCPU index | first field |
//! | x3 | resume action | second field |
//! | x4 | its value | third field |
//! | x5 to x8 | list registers | list registers |
//! | x9 | 0 | bit 0: the virtual timer has fired and is not masked |

use crate::addr::{Gfn, Ipa};
use crate::error::CallError;
use crate::host_call::{Arguments, VcpuIndex};
use crate::list_register::check_all;
pub use crate::list_register::{InterruptState, LIST_REGISTERS, ListRegister, VIRTUAL_TIMER_INTID};

/// The outcome of the access that caused the last exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resume {
    /// No access is pending, or the instruction runs again.
    Continue,
    /// The MMIO read returned this value. Only the bytes of the access count.
    MmioRead(u64),
    /// The MMIO write is complete.
    MmioWritten,
    /// No device is there: the guest takes a synchronous external abort.
    Abort,
}

/// The host's input to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The outcome of the pending MMIO access; [`Resume::Continue`] if none is pending.
    pub resume: Resume,
    /// The virtual interrupts.
    pub list_registers: [ListRegister; LIST_REGISTERS],
}

impl Entry {
    /// Parses the entry from x1 to x17 of a `VcpuRun`.
    #[inline(always)] // mmio_exit: the entry stays in registers
    pub(crate) fn parse(x: &Arguments) -> Result<Self, CallError> {
        let resume = match (x[2], x[3]) {
            (0, 0) => Resume::Continue,
            (1, value) => Resume::MmioRead(value),
            (2, 0) => Resume::MmioWritten,
            (3, 0) => Resume::Abort,
            _ => return Err(CallError::InvalidParameter),
        };
        let list_registers = [x[4], x[5], x[6], x[7]].map(ListRegister);
        // In most entries all list registers are free, so one test covers them.
        if (x[4] | x[5] | x[6] | x[7]) != 0 {
            let [a, b, c, d] = list_registers;
            check_all(a, b, c, d)?;
        }
        Ok(Self { resume, list_registers })
    }

    #[inline(always)] // mmio_exit: the host's call is made in registers
    pub(crate) fn emit(&self, x: &mut Arguments) {
        (x[2], x[3]) = match self.resume {
            Resume::Continue => (0, 0),
            Resume::MmioRead(value) => (1, value),
            Resume::MmioWritten => (2, 0),
            Resume::Abort => (3, 0),
        };
        for (register, value) in x[4..].iter_mut().zip(&self.list_registers) {
            *register = value.0;
        }
    }
}

/// The width of an MMIO access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum AccessSize {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Half = 2,
    /// 32 bits.
    Word = 4,
    /// 64 bits.
    Double = 8,
}

impl AccessSize {
    /// Returns the size of `bytes` bytes, or `None` if no access has that size.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Half),
            4 => Some(Self::Word),
            8 => Some(Self::Double),
            _ => None,
        }
    }

    /// Returns the size of 2^`log2` bytes. A value above 3 counts as 3.
    #[inline] // mmio_exit: the syndrome is decoded in registers
    #[must_use]
    pub const fn from_log2(log2: u64) -> Self {
        match log2 {
            0 => Self::Byte,
            1 => Self::Half,
            2 => Self::Word,
            _ => Self::Double,
        }
    }

    /// Returns the size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self as u64
    }

    /// Returns a mask of the bits of a value of this size.
    #[must_use]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// The reason to stop a VM permanently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// It accessed a page that the host had taken by force.
    Poisoned(Gfn),
    /// It took an exception that no guest may cause; the exception class (ESR_EL2.EC).
    Exception(u8),
}

/// The codes of exit reasons in x1.
mod reason {
    pub(super) const INTERRUPTED: u64 = 0;
    pub(super) const WFI: u64 = 1;
    pub(super) const MMIO_READ: u64 = 2;
    pub(super) const MMIO_WRITE: u64 = 3;
    pub(super) const MEMORY_FAULT: u64 = 4;
    pub(super) const NEED_PAGES: u64 = 5;
    pub(super) const SGI: u64 = 6;
    pub(super) const CPU_ON: u64 = 7;
    pub(super) const CPU_OFF: u64 = 8;
    pub(super) const SYSTEM_OFF: u64 = 9;
    pub(super) const SYSTEM_RESET: u64 = 10;
    pub(super) const STOPPED: u64 = 11;
    pub(super) const RELINQUISHED: u64 = 12;
}

/// The reason for a vCPU's exit: all that the host learns. Discriminants are the codes that [`ExitRecord::emit`]
/// writes, so no table is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Exit {
    /// A physical interrupt is pending for the host.
    Interrupted = reason::INTERRUPTED,
    /// The guest waits for an interrupt. If its virtual timer is armed, the timer fires when CNTVCT_EL0 reaches the
    /// deadline.
    Wfi {
        /// A value of CNTVCT_EL0, if the virtual timer is armed.
        deadline: Option<u64>,
    } = reason::WFI,
    /// The guest read a device. Resume with [`Resume::MmioRead`] or [`Resume::Abort`].
    MmioRead {
        /// The address.
        ipa: Ipa,
        /// The size of the access.
        size: AccessSize,
    } = reason::MMIO_READ,
    /// The guest wrote to a device. Resume with [`Resume::MmioWritten`] or [`Resume::Abort`].
    MmioWrite {
        /// The address.
        ipa: Ipa,
        /// The size of the access.
        size: AccessSize,
        /// The value; bits above the size are 0.
        value: u64,
    } = reason::MMIO_WRITE,
    /// The guest accessed an absent page of a bound object. Populate it and enter again.
    MemoryFault {
        /// The page.
        gfn: Gfn,
    } = reason::MEMORY_FAULT,
    /// The VM's pool has too few pages. Top it up and enter again.
    NeedPages {
        /// The number of pages to add.
        pages: u64,
    } = reason::NEED_PAGES,
    /// The guest sent software-generated interrupts. The value is the one that it wrote to ICC_SGI1R_EL1.
    Sgi {
        /// The value of ICC_SGI1R_EL1.
        sgi1r: u64,
    } = reason::SGI,
    /// The guest started another of its vCPUs (PSCI CPU_ON), which can now be entered.
    CpuOn {
        /// The vCPU.
        vcpu: VcpuIndex,
    } = reason::CPU_ON,
    /// This vCPU is off (PSCI CPU_OFF) until another vCPU starts it.
    CpuOff = reason::CPU_OFF,
    /// The guest asked for power-off (PSCI SYSTEM_OFF). None of its vCPUs runs again.
    SystemOff = reason::SYSTEM_OFF,
    /// The guest asked for a reset (PSCI SYSTEM_RESET). None of its vCPUs runs again.
    SystemReset = reason::SYSTEM_RESET,
    /// The hypervisor stopped the VM. None of its vCPUs runs again.
    Stopped(StopReason) = reason::STOPPED,
    /// The guest relinquished a page: it is wiped, belongs to the host, and is absent for the guest.
    Relinquished {
        /// The page.
        gfn: Gfn,
    } = reason::RELINQUISHED,
}

/// The record that the host gets when a vCPU exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExitRecord {
    /// The reason.
    pub exit: Exit,
    /// The virtual interrupts, as the guest left them.
    pub list_registers: [ListRegister; LIST_REGISTERS],
    /// The virtual timer is enabled, not masked, and has reached its deadline.
    pub timer_fired: bool,
}

impl ExitRecord {
    /// Encodes the record in x1 to x17.
    #[inline(always)] // mmio_exit: only the registers of the exit that it is are written
    #[must_use]
    pub fn emit(&self) -> Arguments {
        let fields = match self.exit {
            Exit::Interrupted => [reason::INTERRUPTED, 0, 0, 0],
            Exit::Wfi { deadline: None } => [reason::WFI, 0, 0, 0],
            Exit::Wfi { deadline: Some(deadline) } => [reason::WFI, 1, deadline, 0],
            Exit::MmioRead { ipa, size } => [reason::MMIO_READ, ipa.0, size.bytes(), 0],
            Exit::MmioWrite { ipa, size, value } => [reason::MMIO_WRITE, ipa.0, size.bytes(), value],
            Exit::MemoryFault { gfn } => [reason::MEMORY_FAULT, gfn.0, 0, 0],
            Exit::NeedPages { pages } => [reason::NEED_PAGES, pages, 0, 0],
            Exit::Sgi { sgi1r } => [reason::SGI, sgi1r, 0, 0],
            Exit::CpuOn { vcpu } => [reason::CPU_ON, vcpu.0.into(), 0, 0],
            Exit::CpuOff => [reason::CPU_OFF, 0, 0, 0],
            Exit::SystemOff => [reason::SYSTEM_OFF, 0, 0, 0],
            Exit::SystemReset => [reason::SYSTEM_RESET, 0, 0, 0],
            Exit::Stopped(StopReason::Poisoned(gfn)) => [reason::STOPPED, 0, gfn.0, 0],
            Exit::Stopped(StopReason::Exception(class)) => [reason::STOPPED, 1, class.into(), 0],
            Exit::Relinquished { gfn } => [reason::RELINQUISHED, gfn.0, 0, 0],
        };
        let [l0, l1, l2, l3] = self.list_registers;
        let timer = u64::from(self.timer_fired);
        let [number, a, b, c] = fields;
        [number, a, b, c, l0.0, l1.0, l2.0, l3.0, timer, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    /// Parses the record from x1 to x17. Returns `None` if its code is unknown.
    #[inline(always)] // mmio_exit: the host reads only the registers of the exit that it is
    #[must_use]
    pub fn parse(x: &Arguments) -> Option<Self> {
        let [number, a, b, c, l0, l1, l2, l3, timer, ..] = *x;
        let exit = match number {
            reason::INTERRUPTED => Exit::Interrupted,
            reason::WFI => Exit::Wfi { deadline: (a == 1).then_some(b) },
            reason::MMIO_READ => Exit::MmioRead { ipa: Ipa(a), size: AccessSize::from_bytes(b)? },
            reason::MMIO_WRITE => Exit::MmioWrite { ipa: Ipa(a), size: AccessSize::from_bytes(b)?, value: c },
            reason::MEMORY_FAULT => Exit::MemoryFault { gfn: Gfn(a) },
            reason::NEED_PAGES => Exit::NeedPages { pages: a },
            reason::SGI => Exit::Sgi { sgi1r: a },
            reason::CPU_ON => Exit::CpuOn { vcpu: VcpuIndex(u32::try_from(a).ok()?) },
            reason::CPU_OFF => Exit::CpuOff,
            reason::SYSTEM_OFF => Exit::SystemOff,
            reason::SYSTEM_RESET => Exit::SystemReset,
            reason::STOPPED if a == 0 => Exit::Stopped(StopReason::Poisoned(Gfn(b))),
            reason::STOPPED => Exit::Stopped(StopReason::Exception(u8::try_from(b).ok()?)),
            reason::RELINQUISHED => Exit::Relinquished { gfn: Gfn(a) },
            _ => return None,
        };
        Some(Self { exit, list_registers: [l0, l1, l2, l3].map(ListRegister), timer_fired: timer == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_round_trips() {
        let exits = [
            (0, Exit::Interrupted),
            (1, Exit::Wfi { deadline: None }),
            (1, Exit::Wfi { deadline: Some(u64::MAX) }),
            (2, Exit::MmioRead { ipa: Ipa(0x900_0018), size: AccessSize::Half }),
            (3, Exit::MmioWrite { ipa: Ipa(0x900_0000), size: AccessSize::Byte, value: 0x41 }),
            (4, Exit::MemoryFault { gfn: Gfn(0x40000) }),
            (5, Exit::NeedPages { pages: 2 }),
            (6, Exit::Sgi { sgi1r: 1 << 40 }),
            (7, Exit::CpuOn { vcpu: VcpuIndex(3) }),
            (8, Exit::CpuOff),
            (9, Exit::SystemOff),
            (10, Exit::SystemReset),
            (11, Exit::Stopped(StopReason::Poisoned(Gfn(0x40001)))),
            (11, Exit::Stopped(StopReason::Exception(0x32))),
            (12, Exit::Relinquished { gfn: Gfn(0x40002) }),
        ];
        for (number, exit) in exits {
            let record =
                ExitRecord { exit, list_registers: [1, 2, 3, 4].map(ListRegister), timer_fired: true };
            assert_eq!(record.emit()[0], number, "{exit:?} is numbered as docs/abi.md has it");
            assert_eq!(ExitRecord::parse(&record.emit()), Some(record));
        }
    }

    #[test]
    fn a_resume_action_has_no_stray_value() {
        let resumes = [Resume::Continue, Resume::MmioRead(9), Resume::MmioWritten, Resume::Abort];
        for (number, resume) in (0..).zip(resumes) {
            let mut x = [0; 17];
            Entry { resume, list_registers: [ListRegister::EMPTY; LIST_REGISTERS] }.emit(&mut x);
            assert_eq!(x[2], number);
            assert_eq!(Entry::parse(&x).map(|entry| entry.resume), Ok(resume));
        }
        let mut x = [0; 17];
        x[3] = 1;
        assert!(Entry::parse(&x).is_err());
        x[2] = 1;
        assert_eq!(Entry::parse(&x).map(|entry| entry.resume), Ok(Resume::MmioRead(1)));
        x[2] = 4;
        x[3] = 0;
        assert!(Entry::parse(&x).is_err());
    }

    #[test]
    fn masks_cover_their_size() {
        assert_eq!(AccessSize::Byte.mask(), 0xff);
        assert_eq!(AccessSize::Double.mask(), u64::MAX);
        assert_eq!(AccessSize::from_bytes(3), None);
        for (log2, bytes) in [(0, 1), (1, 2), (2, 4), (3, 8), (4, 8)] {
            let size = AccessSize::from_log2(log2);
            assert_eq!((size.bytes(), AccessSize::from_bytes(bytes)), (bytes, Some(size)));
        }
    }
}
