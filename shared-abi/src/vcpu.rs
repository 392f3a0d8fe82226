//! Entering and leaving a vCPU: all that the host may say, and all that it is told.
//!
//! Everything travels in registers of the `VcpuRun` call, so nothing can change between a check and
//! its use. The guest's own registers never leave the hypervisor.
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

/// What becomes of the access that the last exit was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resume {
    /// Go on: there was none, or the instruction runs again.
    Continue,
    /// The MMIO read gave this value; only the bytes of the access count.
    MmioRead(u64),
    /// The MMIO write was done.
    MmioWritten,
    /// Nothing is there: the guest takes a synchronous external abort.
    Abort,
}

/// What the host says when it enters a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The end of a pending MMIO access; [`Resume::Continue`] where none is pending.
    pub resume: Resume,
    /// The virtual interrupts.
    pub list_registers: [ListRegister; LIST_REGISTERS],
}

impl Entry {
    /// Reads the entry from x1 to x17 of a `VcpuRun`.
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
        // Mostly no interrupt is under way.
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
    /// The size of that many bytes.
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

    /// The size of 2^0 to 2^3 bytes; of a greater one, that of 2^3.
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

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self as u64
    }

    /// The bits of a value of this size.
    #[must_use]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// Why a VM was stopped for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// It touched a page that the host had taken by force.
    Poisoned(Gfn),
    /// It did something that a guest has no business doing; the exception class (ESR_EL2.EC).
    Exception(u8),
}

/// The reasons for an exit, as they are numbered in x1.
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

/// Why a vCPU exited: the whole of what the host learns. It is numbered as [`ExitRecord::emit`] says it, so that
/// nothing has to be looked up for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Exit {
    /// A physical interrupt is the host's to take.
    Interrupted = reason::INTERRUPTED,
    /// The guest waits for an interrupt; the virtual timer will fire when CNTVCT_EL0 reaches the
    /// deadline, if it is armed.
    Wfi {
        /// A value of CNTVCT_EL0.
        deadline: Option<u64>,
    } = reason::WFI,
    /// The guest read a device: resume with [`Resume::MmioRead`] or [`Resume::Abort`].
    MmioRead {
        /// Where.
        ipa: Ipa,
        /// How many bytes.
        size: AccessSize,
    } = reason::MMIO_READ,
    /// The guest wrote a device: resume with [`Resume::MmioWritten`] or [`Resume::Abort`].
    MmioWrite {
        /// Where.
        ipa: Ipa,
        /// How many bytes.
        size: AccessSize,
        /// What; no bits above the size.
        value: u64,
    } = reason::MMIO_WRITE,
    /// The guest needs a page of a bound object that is absent: populate it and enter again.
    MemoryFault {
        /// Which page.
        gfn: Gfn,
    } = reason::MEMORY_FAULT,
    /// The VM's pool ran out: top it up by so many pages and enter again.
    NeedPages {
        /// How many.
        pages: u64,
    } = reason::NEED_PAGES,
    /// The guest sent software-generated interrupts: the value that it wrote to ICC_SGI1R_EL1.
    Sgi {
        /// The register.
        sgi1r: u64,
    } = reason::SGI,
    /// The guest started another of its vCPUs (PSCI CPU_ON): it can be entered now.
    CpuOn {
        /// Which.
        vcpu: VcpuIndex,
    } = reason::CPU_ON,
    /// This vCPU is off (PSCI CPU_OFF) until another starts it.
    CpuOff = reason::CPU_OFF,
    /// The guest wants power off (PSCI SYSTEM_OFF). No vCPU of it runs again.
    SystemOff = reason::SYSTEM_OFF,
    /// The guest wants a reset (PSCI SYSTEM_RESET). No vCPU of it runs again.
    SystemReset = reason::SYSTEM_RESET,
    /// The hypervisor stopped the VM. No vCPU of it runs again.
    Stopped(StopReason) = reason::STOPPED,
    /// The guest gave a page back: it is wiped and the host's again, and absent for the guest.
    Relinquished {
        /// Which page.
        gfn: Gfn,
    } = reason::RELINQUISHED,
}

/// What the host is told when a vCPU exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExitRecord {
    /// Why.
    pub exit: Exit,
    /// The virtual interrupts as the guest left them.
    pub list_registers: [ListRegister; LIST_REGISTERS],
    /// The virtual timer is enabled, not masked, and has reached its deadline.
    pub timer_fired: bool,
}

impl ExitRecord {
    /// Writes the record to x1 to x17.
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

    /// Reads the record from x1 to x17; `None` for one that this version does not know.
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
