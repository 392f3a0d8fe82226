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

/// How many list registers an entry carries: what the reference CPU has (ICH_VTR_EL2.ListRegs).
pub const LIST_REGISTERS: usize = 4;

/// The virtual timer's interrupt: PPI 11 (Arm BSA, "EL1 virtual timer"). The only one that may be
/// linked to a physical interrupt.
pub const VIRTUAL_TIMER_INTID: u32 = 27;

/// A value of `ICH_LR<n>_EL2` (GIC architecture, IHI 0069, section 12.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct ListRegister(pub u64);

/// The state of the interrupt in a [`ListRegister`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InterruptState {
    /// The list register is free.
    Inactive,
    /// Not yet taken by the guest.
    Pending,
    /// Taken and not yet ended.
    Active,
    /// Both.
    PendingActive,
}

impl ListRegister {
    const PHYSICAL_INTID_SHIFT: u32 = 32;
    const PHYSICAL_INTID_MASK: u64 = 0x1fff;
    const PRIORITY_SHIFT: u32 = 48;
    const GROUP_1: u64 = 1 << 60;
    const HARDWARE: u64 = 1 << 61;
    const STATE_SHIFT: u32 = 62;
    /// All bits that an entry may set.
    const VALID: u64 = 0xffff_ffff
        | (Self::PHYSICAL_INTID_MASK << Self::PHYSICAL_INTID_SHIFT)
        | (0xff << Self::PRIORITY_SHIFT)
        | Self::GROUP_1
        | Self::HARDWARE
        | (0b11 << Self::STATE_SHIFT);

    /// A free list register.
    pub const EMPTY: Self = Self(0);

    /// A pending group 1 interrupt that software alone knows.
    #[must_use]
    pub const fn pending(intid: u32, priority: u8) -> Self {
        Self(
            intid as u64
                | ((priority as u64) << Self::PRIORITY_SHIFT)
                | Self::GROUP_1
                | (0b01 << Self::STATE_SHIFT),
        )
    }

    /// The virtual timer's interrupt, pending and linked to the physical one: the guest's
    /// deactivation deactivates both.
    #[must_use]
    pub const fn virtual_timer(priority: u8) -> Self {
        Self(
            Self::pending(VIRTUAL_TIMER_INTID, priority).0
                | Self::HARDWARE
                | ((VIRTUAL_TIMER_INTID as u64) << Self::PHYSICAL_INTID_SHIFT),
        )
    }

    /// The interrupt that the guest sees.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the field is the low 32 bits")]
    pub const fn intid(self) -> u32 {
        self.0 as u32
    }

    /// Pending, active, both, or free.
    #[must_use]
    pub const fn state(self) -> InterruptState {
        match self.0 >> Self::STATE_SHIFT {
            0b00 => InterruptState::Inactive,
            0b01 => InterruptState::Pending,
            0b10 => InterruptState::Active,
            _ => InterruptState::PendingActive,
        }
    }

    /// The same interrupt in another state.
    #[must_use]
    pub const fn with_state(self, state: InterruptState) -> Self {
        let bits = match state {
            InterruptState::Inactive => 0b00,
            InterruptState::Pending => 0b01,
            InterruptState::Active => 0b10,
            InterruptState::PendingActive => 0b11,
        };
        Self(self.0 & !(0b11 << Self::STATE_SHIFT) | (bits << Self::STATE_SHIFT))
    }

    /// Whether deactivation reaches a physical interrupt.
    #[must_use]
    pub const fn is_hardware(self) -> bool {
        self.0 & Self::HARDWARE != 0
    }

    /// Fails for a register that no host may set: it may have no unknown bit, no INTID above 1019, and be
    /// linked to a physical interrupt only for the virtual timer and its own.
    ///
    /// # Errors
    ///
    /// [`CallError::InvalidParameter`] then.
    pub fn check(self) -> Result<(), CallError> {
        let physical = (self.0 >> Self::PHYSICAL_INTID_SHIFT) & Self::PHYSICAL_INTID_MASK;
        let own = physical == u64::from(VIRTUAL_TIMER_INTID) && self.intid() == VIRTUAL_TIMER_INTID;
        let linked = if self.is_hardware() { own } else { physical == 0 };
        let known = self.0 & !Self::VALID == 0;
        let free = self.state() == InterruptState::Inactive;
        if known && (free || (linked && self.intid() < 1020)) {
            Ok(())
        } else {
            Err(CallError::InvalidParameter)
        }
    }
}

/// Fails for list registers that no host may set: each by itself, or an interrupt that is in two of them, as what the
/// GIC does then is UNPREDICTABLE (IHI 0069, section 12.4.5, vINTID). They come in registers and mostly stay there.
#[inline(never)]
fn check_all(a: ListRegister, b: ListRegister, c: ListRegister, d: ListRegister) -> Result<(), CallError> {
    let mut rest = &[a, b, c, d][..];
    while let [first, others @ ..] = rest {
        first.check()?;
        let taken = |other: &ListRegister| {
            other.state() != InterruptState::Inactive && other.intid() == first.intid()
        };
        if first.state() != InterruptState::Inactive && others.iter().any(taken) {
            return Err(CallError::InvalidParameter);
        }
        rest = others;
    }
    Ok(())
}

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
    #[inline(always)]
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

    #[inline(always)]
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
    #[inline]
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

/// Why a vCPU exited: the whole of what the host learns. It is numbered as [`ExitRecord::emit`] says it, so that
/// nothing has to be looked up for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Exit {
    /// A physical interrupt is the host's to take.
    Interrupted = 0,
    /// The guest waits for an interrupt; the virtual timer will fire when CNTVCT_EL0 reaches the
    /// deadline, if it is armed.
    Wfi {
        /// A value of CNTVCT_EL0.
        deadline: Option<u64>,
    } = 1,
    /// The guest read a device: resume with [`Resume::MmioRead`] or [`Resume::Abort`].
    MmioRead {
        /// Where.
        ipa: Ipa,
        /// How many bytes.
        size: AccessSize,
    } = 2,
    /// The guest wrote a device: resume with [`Resume::MmioWritten`] or [`Resume::Abort`].
    MmioWrite {
        /// Where.
        ipa: Ipa,
        /// How many bytes.
        size: AccessSize,
        /// What; no bits above the size.
        value: u64,
    } = 3,
    /// The guest needs a page of a bound object that is absent: populate it and enter again.
    MemoryFault {
        /// Which page.
        gfn: Gfn,
    } = 4,
    /// The VM's pool ran out: top it up by so many pages and enter again.
    NeedPages {
        /// How many.
        pages: u64,
    } = 5,
    /// The guest sent software-generated interrupts: the value that it wrote to ICC_SGI1R_EL1.
    Sgi {
        /// The register.
        sgi1r: u64,
    } = 6,
    /// The guest started another of its vCPUs (PSCI CPU_ON): it can be entered now.
    CpuOn {
        /// Which.
        vcpu: VcpuIndex,
    } = 7,
    /// This vCPU is off (PSCI CPU_OFF) until another starts it.
    CpuOff = 8,
    /// The guest wants power off (PSCI SYSTEM_OFF). No vCPU of it runs again.
    SystemOff = 9,
    /// The guest wants a reset (PSCI SYSTEM_RESET). No vCPU of it runs again.
    SystemReset = 10,
    /// The hypervisor stopped the VM. No vCPU of it runs again.
    Stopped(StopReason) = 11,
    /// The guest gave a page back: it is wiped and the host's again, and absent for the guest.
    Relinquished {
        /// Which page.
        gfn: Gfn,
    } = 12,
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
    #[inline(always)]
    #[must_use]
    pub fn emit(&self) -> Arguments {
        let fields = match self.exit {
            Exit::Interrupted => [0, 0, 0, 0],
            Exit::Wfi { deadline: None } => [1, 0, 0, 0],
            Exit::Wfi { deadline: Some(deadline) } => [1, 1, deadline, 0],
            Exit::MmioRead { ipa, size } => [2, ipa.0, size.bytes(), 0],
            Exit::MmioWrite { ipa, size, value } => [3, ipa.0, size.bytes(), value],
            Exit::MemoryFault { gfn } => [4, gfn.0, 0, 0],
            Exit::NeedPages { pages } => [5, pages, 0, 0],
            Exit::Sgi { sgi1r } => [6, sgi1r, 0, 0],
            Exit::CpuOn { vcpu } => [7, vcpu.0.into(), 0, 0],
            Exit::CpuOff => [8, 0, 0, 0],
            Exit::SystemOff => [9, 0, 0, 0],
            Exit::SystemReset => [10, 0, 0, 0],
            Exit::Stopped(StopReason::Poisoned(gfn)) => [11, 0, gfn.0, 0],
            Exit::Stopped(StopReason::Exception(class)) => [11, 1, class.into(), 0],
            Exit::Relinquished { gfn } => [12, gfn.0, 0, 0],
        };
        let [l0, l1, l2, l3] = self.list_registers;
        let timer = u64::from(self.timer_fired);
        let [reason, a, b, c] = fields;
        [reason, a, b, c, l0.0, l1.0, l2.0, l3.0, timer, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    /// Reads the record from x1 to x17; `None` for one that this version does not know.
    #[inline(always)]
    #[must_use]
    pub fn parse(x: &Arguments) -> Option<Self> {
        let [reason, a, b, c, l0, l1, l2, l3, timer, ..] = *x;
        let exit = match reason {
            0 => Exit::Interrupted,
            1 => Exit::Wfi { deadline: (a == 1).then_some(b) },
            2 => Exit::MmioRead { ipa: Ipa(a), size: AccessSize::from_bytes(b)? },
            3 => Exit::MmioWrite { ipa: Ipa(a), size: AccessSize::from_bytes(b)?, value: c },
            4 => Exit::MemoryFault { gfn: Gfn(a) },
            5 => Exit::NeedPages { pages: a },
            6 => Exit::Sgi { sgi1r: a },
            7 => Exit::CpuOn { vcpu: VcpuIndex(u32::try_from(a).ok()?) },
            8 => Exit::CpuOff,
            9 => Exit::SystemOff,
            10 => Exit::SystemReset,
            11 if a == 0 => Exit::Stopped(StopReason::Poisoned(Gfn(b))),
            11 => Exit::Stopped(StopReason::Exception(u8::try_from(b).ok()?)),
            12 => Exit::Relinquished { gfn: Gfn(a) },
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
            Exit::Interrupted,
            Exit::Wfi { deadline: None },
            Exit::Wfi { deadline: Some(u64::MAX) },
            Exit::MmioRead { ipa: Ipa(0x900_0018), size: AccessSize::Half },
            Exit::MmioWrite { ipa: Ipa(0x900_0000), size: AccessSize::Byte, value: 0x41 },
            Exit::MemoryFault { gfn: Gfn(0x40000) },
            Exit::NeedPages { pages: 2 },
            Exit::Sgi { sgi1r: 1 << 40 },
            Exit::CpuOn { vcpu: VcpuIndex(3) },
            Exit::CpuOff,
            Exit::SystemOff,
            Exit::SystemReset,
            Exit::Stopped(StopReason::Poisoned(Gfn(0x40001))),
            Exit::Stopped(StopReason::Exception(0x32)),
            Exit::Relinquished { gfn: Gfn(0x40002) },
        ];
        for exit in exits {
            let record =
                ExitRecord { exit, list_registers: [1, 2, 3, 4].map(ListRegister), timer_fired: true };
            assert_eq!(ExitRecord::parse(&record.emit()), Some(record));
        }
    }

    #[test]
    fn only_the_virtual_timer_is_hardware_linked() {
        assert!(ListRegister::virtual_timer(0xa0).check().is_ok());
        assert!(ListRegister::pending(40, 0xa0).check().is_ok());
        assert!(ListRegister::EMPTY.check().is_ok());
        let other = ListRegister::pending(40, 0).0 | ListRegister::HARDWARE | (40 << 32);
        assert!(ListRegister(other).check().is_err());
        let timer_as_other = ListRegister::pending(40, 0).0 | ListRegister::HARDWARE | (27 << 32);
        assert!(ListRegister(timer_as_other).check().is_err());
        assert!(ListRegister::pending(1020, 0).check().is_err());
        assert!(ListRegister(1 << 45).check().is_err());
    }

    #[test]
    fn an_interrupt_is_in_one_list_register() {
        let parse = |registers: [ListRegister; LIST_REGISTERS]| {
            let mut x = [0; 17];
            for (register, value) in x[4..].iter_mut().zip(registers) {
                *register = value.0;
            }
            Entry::parse(&x).map(|entry| entry.list_registers == registers)
        };
        let [free, one, other] =
            [ListRegister::EMPTY, ListRegister::pending(40, 0xa0), ListRegister::pending(41, 0xa0)];
        let active = one.with_state(InterruptState::Active);
        let ended = one.with_state(InterruptState::Inactive);
        assert_eq!(parse([one, other, free, free]), Ok(true));
        assert_eq!(parse([one, free, ended, other]), Ok(true));
        assert_eq!(parse([ended, free, free, one]), Ok(true));
        for twice in [[one, one, free, free], [one, free, free, active], [free, other, active, one]] {
            assert_eq!(parse(twice), Err(CallError::InvalidParameter), "{twice:?}");
        }
        assert_eq!(parse([free, free, free, ListRegister(1 << 45)]), Err(CallError::InvalidParameter));
    }

    #[test]
    fn a_state_changes_nothing_else() {
        let pending = ListRegister::virtual_timer(0xa0);
        for state in [
            InterruptState::Inactive,
            InterruptState::Pending,
            InterruptState::Active,
            InterruptState::PendingActive,
        ] {
            let other = pending.with_state(state);
            assert_eq!(other.state(), state);
            assert_eq!(other.with_state(InterruptState::Pending), pending);
        }
    }

    #[test]
    fn a_resume_action_has_no_stray_value() {
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
    }
}
