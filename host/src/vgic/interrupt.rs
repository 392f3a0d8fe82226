//! The state of one interrupt.

/// What the distributor or a redistributor knows of an interrupt.
#[derive(Clone, Debug)]
pub(super) struct Interrupt {
    pub(super) enabled: bool,
    /// Only group 1 is ever delivered: guests have no other.
    pub(super) group_1: bool,
    /// Edge-triggered, or level-sensitive.
    pub(super) edge: bool,
    /// The lower, the more urgent.
    pub(super) priority: u8,
    /// An edge was seen, or software set it pending.
    pub(super) latch: bool,
    /// The line of a level-sensitive interrupt.
    pub(super) line: bool,
    /// The vCPU that has taken it and not yet ended it.
    pub(super) active_on: Option<u32>,
    /// The vCPU that runs with it in a list register.
    pub(super) loaded: Option<u32>,
    /// Its list register has it as pending, and so knows whether it still is.
    pub(super) loaded_pending: bool,
    /// The vCPU that it goes to, if there is such a vCPU.
    pub(super) target: Option<u32>,
}

impl Interrupt {
    const RESET: Self = Self {
        enabled: false,
        group_1: true,
        edge: false,
        priority: 0,
        latch: false,
        line: false,
        active_on: None,
        loaded: None,
        loaded_pending: false,
        target: Some(0),
    };

    /// An SGI (always an edge) or a PPI (here always a level) of a vCPU.
    pub(super) fn private(intid: usize, vcpu: u32) -> Self {
        const SGIS: usize = 16;
        Self { edge: intid < SGIS, target: Some(vcpu), ..Self::RESET }
    }

    /// An SPI.
    pub(super) fn shared() -> Self {
        Self::RESET
    }

    pub(super) fn pending(&self) -> bool {
        self.latch || (!self.edge && self.line)
    }

    /// Whether nobody has a reason to look at it.
    pub(super) fn at_rest(&self) -> bool {
        !self.pending() && self.active_on.is_none() && self.loaded.is_none()
    }

    /// Whether a vCPU could take it now, as far as this interrupt is concerned.
    pub(super) fn deliverable_on(&self, vcpu: u32) -> bool {
        self.enabled
            && self.group_1
            && self.pending()
            && self.loaded.is_none()
            && self.active_on.is_none()
            && self.target == Some(vcpu)
    }
}
