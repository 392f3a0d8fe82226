//! Virtual interrupts in a host call: values of the GIC's list registers.

use crate::error::CallError;

/// The number of list registers in an entry: that of the reference CPU (ICH_VTR_EL2.ListRegs).
pub const LIST_REGISTERS: usize = 4;

/// The virtual timer's interrupt: PPI 11 (Arm BSA, "EL1 virtual timer"). It is the only one that may be linked to a
/// physical interrupt.
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
    /// The guest has not taken it yet.
    Pending,
    /// The guest has taken it, and has not ended it yet.
    Active,
    /// Pending and active.
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

    /// A pending group 1 interrupt that is not linked to a physical interrupt.
    #[must_use]
    pub const fn pending(intid: u32, priority: u8) -> Self {
        Self(
            intid as u64
                | ((priority as u64) << Self::PRIORITY_SHIFT)
                | Self::GROUP_1
                | (0b01 << Self::STATE_SHIFT),
        )
    }

    /// The virtual timer's interrupt: pending, and linked to the physical one. If the guest deactivates it, the
    /// physical one is deactivated too.
    #[must_use]
    pub const fn virtual_timer(priority: u8) -> Self {
        Self(
            Self::pending(VIRTUAL_TIMER_INTID, priority).0
                | Self::HARDWARE
                | ((VIRTUAL_TIMER_INTID as u64) << Self::PHYSICAL_INTID_SHIFT),
        )
    }

    /// Returns the INTID that the guest sees.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the field is the low 32 bits")]
    pub const fn intid(self) -> u32 {
        self.0 as u32
    }

    /// Returns the interrupt's state.
    #[must_use]
    pub const fn state(self) -> InterruptState {
        match self.0 >> Self::STATE_SHIFT {
            0b00 => InterruptState::Inactive,
            0b01 => InterruptState::Pending,
            0b10 => InterruptState::Active,
            _ => InterruptState::PendingActive,
        }
    }

    /// Returns the same interrupt in another state.
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

    /// Returns true if a deactivation also deactivates a physical interrupt.
    #[must_use]
    pub const fn is_hardware(self) -> bool {
        self.0 & Self::HARDWARE != 0
    }

    /// Checks a value from the host. It may set no unknown bit, and no INTID above 1019. Only the virtual timer's
    /// interrupt may be linked to a physical interrupt, and only to its own.
    ///
    /// # Errors
    ///
    /// [`CallError::InvalidParameter`] if the value breaks one of these rules.
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

/// Checks the list registers from the host: each by itself, and that no two have the same interrupt, for which the
/// GIC is UNPREDICTABLE (IHI 0069, section 12.4.5, vINTID). The compiler passes them in registers and can mostly keep
/// them there.
#[inline(never)] // mmio_exit: seldom, so that its registers are not saved for the others
pub(crate) fn check_all(
    a: ListRegister,
    b: ListRegister,
    c: ListRegister,
    d: ListRegister,
) -> Result<(), CallError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::Entry;

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
    fn fields_are_where_the_gic_has_them() {
        assert_eq!(ListRegister::pending(40, 0xa0).0, 0x50a0_0000_0000_0028);
        assert_eq!(ListRegister::virtual_timer(0xa0).0, 0x70a0_001b_0000_001b);
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
        for place in 0..LIST_REGISTERS {
            let mut registers = [free; LIST_REGISTERS];
            registers[place] = ListRegister(1 << 45);
            assert_eq!(parse(registers), Err(CallError::InvalidParameter), "{registers:?}");
            for second in (0..LIST_REGISTERS).filter(|second| *second != place) {
                for again in [one, active] {
                    let mut registers = [free; LIST_REGISTERS];
                    (registers[place], registers[second]) = (one, again);
                    assert_eq!(parse(registers), Err(CallError::InvalidParameter), "{registers:?}");
                }
            }
        }
    }
}
