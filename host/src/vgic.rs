//! The guest's GICv3 as far as software makes it: distributor, redistributors, and what goes into the
//! list registers (GIC architecture, IHI 0069).
//!
//! The CPU interface is hardware's. Between two entries of a vCPU all of an interrupt's state is here;
//! while the vCPU runs, the state of the interrupts in its list registers is there. [`Vgic::load`] moves
//! it out and [`Vgic::fold`] takes it back. What finds no list register waits for the next entry.
//!
//! Of a hundred interrupts hardly any is ever pending or active, and every exit asks which: so that only
//! those are looked at, `Restless` names them.

use alloc::vec::Vec;

use shared_abi::host_call::VcpuIndex;
use shared_abi::vcpu::{InterruptState, LIST_REGISTERS, ListRegister, VIRTUAL_TIMER_INTID};

mod interrupt;
mod registers;
mod restless;
#[cfg(test)]
mod tests;

use crate::machine::Spi;
use interrupt::Interrupt;
pub use registers::Frame;
use restless::Restless;

/// SGIs and PPIs: the interrupts that each vCPU has of its own.
const PRIVATE: usize = Spi::FIRST_INTID as usize;
/// SPIs: the interrupts that the vCPUs share.
const SPIS: usize = 64;

/// What a vCPU's redistributor and list registers hold.
#[derive(Debug)]
struct Cpu {
    private: [Interrupt; PRIVATE],
    /// Which of these may be pending or active, by INTID.
    restless: Restless,
    /// The interrupts in the list registers while the vCPU runs, from the first register on.
    loaded: heapless::Vec<u32, LIST_REGISTERS>,
    /// GICR_WAKER.ProcessorSleep.
    asleep: bool,
}

/// A guest's interrupt controller.
#[derive(Debug)]
pub struct Vgic {
    cpus: Vec<Cpu>,
    spis: [Interrupt; SPIS],
    /// Which of these may be pending or active, by their numbers.
    restless: Restless,
    /// GICD_IROUTER of each SPI.
    routes: [u64; SPIS],
    /// GICD_CTLR: the two group enables.
    control: u32,
}

impl Vgic {
    /// The controller of a guest with so many vCPUs; nothing is enabled.
    #[must_use]
    pub fn new(vcpus: u32) -> Self {
        let cpu = |index| Cpu {
            private: core::array::from_fn(|intid| Interrupt::private(intid, index)),
            restless: Restless::NONE,
            loaded: heapless::Vec::new(),
            asleep: true,
        };
        Self {
            cpus: (0..vcpus).map(cpu).collect(),
            spis: core::array::from_fn(|_| Interrupt::shared()),
            restless: Restless::NONE,
            routes: [0; SPIS],
            control: 0,
        }
    }

    /// An edge on an SPI.
    pub fn pulse(&mut self, spi: Spi) {
        if let Some(interrupt) = self.interrupt_mut(VcpuIndex(0), spi.intid()) {
            interrupt.latch = true;
        }
    }

    /// The level of an SPI's line.
    pub fn set_line(&mut self, spi: Spi, high: bool) {
        if self.spis.get(spi.0 as usize).is_some_and(|spi| spi.line != high)
            && let Some(interrupt) = self.interrupt_mut(VcpuIndex(0), spi.intid())
        {
            interrupt.line = high;
        }
    }

    /// A vCPU's virtual timer reached its deadline while the vCPU did not run.
    pub fn expire_timer(&mut self, vcpu: VcpuIndex) {
        self.set_timer_line(vcpu, true);
    }

    /// Whether the physical interrupt of the virtual timer must be active while this vCPU runs: its
    /// list register is linked to it, or the timer has fired and the guest does not take the interrupt.
    /// Otherwise the physical interrupt would exit the vCPU again at once, for ever.
    #[must_use]
    pub fn timer_line_active(&self, vcpu: VcpuIndex) -> bool {
        self.interrupt(vcpu, VIRTUAL_TIMER_INTID).is_some_and(|timer| timer.line || timer.active_on.is_some())
    }

    /// Software-generated interrupts: the value that `from` wrote to ICC_SGI1R_EL1 (IHI 0069, 12.2.18).
    pub fn send_sgi(&mut self, from: VcpuIndex, sgi1r: u64) {
        const ROUTE_TO_OTHERS: u64 = 1 << 40;
        /// Aff1, Aff2, RS and Aff3: all guests' vCPUs have 0 there.
        const UPPER_AFFINITY: u64 = 0xff << 16 | 0xff << 32 | 0xf << 44 | 0xff << 48;

        let intid = (sgi1r >> 24 & 0xf) as usize;
        let targets = if sgi1r & ROUTE_TO_OTHERS != 0 {
            !(1 << from.0)
        } else if sgi1r & UPPER_AFFINITY == 0 {
            sgi1r & 0xffff
        } else {
            0
        };
        for (index, cpu) in self.cpus.iter_mut().enumerate() {
            if targets & (1 << index) != 0 {
                cpu.restless.add(intid);
                cpu.private[intid].latch = true;
            }
        }
    }

    /// Whether an interrupt waits that this vCPU would take: reason to wake it, or to kick it out of
    /// the guest.
    #[must_use]
    #[inline(never)] // every exit comes past, hardly any asks
    pub fn has_pending(&self, vcpu: VcpuIndex) -> bool {
        self.enabled() && self.candidates(vcpu).any(|(_, interrupt)| interrupt.deliverable_on(vcpu.0))
    }

    /// What the next entry of a vCPU takes along: [`Self::load`], and then [`Self::timer_line_active`].
    #[inline(always)] // mostly constants
    pub fn enter(&mut self, vcpu: VcpuIndex) -> ([ListRegister; LIST_REGISTERS], bool) {
        // The timer's interrupt is level-sensitive: neither its line nor its activity leaves it at rest.
        if self.is_at_rest(vcpu) {
            return ([ListRegister::EMPTY; LIST_REGISTERS], false);
        }
        (self.load(vcpu), self.timer_line_active(vcpu))
    }

    /// The list registers for the next entry of a vCPU: what is active first, as its deactivation must
    /// find it, then the pending interrupts by priority.
    #[cold]
    pub fn load(&mut self, vcpu: VcpuIndex) -> [ListRegister; LIST_REGISTERS] {
        self.settle(vcpu);
        let mut chosen = [None; LIST_REGISTERS];
        for (intid, interrupt) in self.candidates(vcpu) {
            let active = interrupt.active_on == Some(vcpu.0);
            let pending = self.enabled() && interrupt.deliverable_on(vcpu.0);
            if interrupt.loaded.is_none() && (active || pending) {
                insert(&mut chosen, (!active, interrupt.priority, intid));
            }
        }
        let chosen = chosen.map(|rank| rank.map(|(_, _, intid)| intid));
        let enabled = self.enabled();
        if let Some(cpu) = self.cpus.get_mut(vcpu.0 as usize) {
            cpu.loaded = chosen.into_iter().flatten().collect();
        }
        chosen.map(|intid| {
            intid
                .and_then(|intid| {
                    let interrupt = self.interrupt_mut(vcpu, intid)?;
                    Some(interrupt.load(intid, vcpu.0, enabled))
                })
                .unwrap_or(ListRegister::EMPTY)
        })
    }

    /// Takes back what [`Self::load`] gave: the list registers as an exit found them, and whether the
    /// virtual timer has fired.
    #[inline]
    pub fn fold(&mut self, vcpu: VcpuIndex, registers: &[ListRegister; LIST_REGISTERS], timer_fired: bool) {
        let Some(cpu) = self.cpus.get(vcpu.0 as usize) else {
            return;
        };
        if !cpu.loaded.is_empty() {
            self.fold_loaded(vcpu, *registers);
        }
        self.set_timer_line(vcpu, timer_fired);
    }

    #[cold]
    fn fold_loaded(&mut self, vcpu: VcpuIndex, registers: [ListRegister; LIST_REGISTERS]) {
        let Some(cpu) = self.cpus.get_mut(vcpu.0 as usize) else {
            return;
        };
        for (intid, register) in core::mem::take(&mut cpu.loaded).into_iter().zip(registers) {
            if let Some(interrupt) = self.interrupt_mut(vcpu, intid) {
                interrupt.fold(vcpu.0, register.state());
            }
        }
    }

    fn set_timer_line(&mut self, vcpu: VcpuIndex, high: bool) {
        let timer = self.interrupt(vcpu, VIRTUAL_TIMER_INTID);
        if timer.is_some_and(|timer| timer.line != high)
            && let Some(timer) = self.interrupt_mut(vcpu, VIRTUAL_TIMER_INTID)
        {
            timer.line = high;
        }
    }

    /// GICD_CTLR.EnableGrp1: the group that guests use.
    fn enabled(&self) -> bool {
        self.control & registers::ENABLE_GROUP_1 != 0
    }

    /// All interrupts that could be a vCPU's, but for those that are neither pending nor active.
    fn candidates(&self, vcpu: VcpuIndex) -> impl Iterator<Item = (u32, &Interrupt)> {
        let private = self.cpus.get(vcpu.0 as usize).into_iter();
        let private = private.flat_map(|cpu| cpu.restless.of(&cpu.private));
        let shared = self.restless.of(&self.spis);
        private.chain(shared.map(|(spi, interrupt)| (Spi(spi).intid(), interrupt)))
    }

    /// Whether no interrupt that could be a vCPU's is pending or active.
    fn is_at_rest(&self, vcpu: VcpuIndex) -> bool {
        self.restless.is_empty() && self.cpus.get(vcpu.0 as usize).is_none_or(|cpu| cpu.restless.is_empty())
    }

    /// Forgets the interrupts that came to rest.
    fn settle(&mut self, vcpu: VcpuIndex) {
        self.restless.settle(&self.spis);
        if let Some(cpu) = self.cpus.get_mut(vcpu.0 as usize) {
            cpu.restless.settle(&cpu.private);
        }
    }

    fn interrupt(&self, vcpu: VcpuIndex, intid: u32) -> Option<&Interrupt> {
        match intid.checked_sub(Spi::FIRST_INTID) {
            Some(spi) => self.spis.get(spi as usize),
            None => self.cpus.get(vcpu.0 as usize)?.private.get(intid as usize),
        }
    }

    /// The interrupt, to be changed: it is looked at from now on.
    fn interrupt_mut(&mut self, vcpu: VcpuIndex, intid: u32) -> Option<&mut Interrupt> {
        let (restless, interrupts, number) = match intid.checked_sub(Spi::FIRST_INTID) {
            Some(spi) => (&mut self.restless, &mut self.spis[..], spi as usize),
            None => {
                let cpu = self.cpus.get_mut(vcpu.0 as usize)?;
                (&mut cpu.restless, &mut cpu.private[..], intid as usize)
            }
        };
        let interrupt = interrupts.get_mut(number)?;
        restless.add(number);
        Some(interrupt)
    }
}

/// How interrupts rank for a list register, the lowest first: not active, priority, INTID.
type Rank = (bool, u8, u32);

/// Puts a rank where it belongs; the last one falls out if there is no room.
fn insert(chosen: &mut [Option<Rank>; LIST_REGISTERS], rank: Rank) {
    let mut rank = Some(rank);
    for place in chosen {
        if place.is_none() || rank < *place {
            core::mem::swap(place, &mut rank);
        }
        if rank.is_none() {
            return;
        }
    }
}

impl Interrupt {
    /// Moves the state into a list register.
    fn load(&mut self, intid: u32, vcpu: u32, enabled: bool) -> ListRegister {
        let timer = intid == VIRTUAL_TIMER_INTID;
        let active = self.active_on == Some(vcpu);
        // A hardware-linked interrupt can't be pending while it is active: the physical one is not either.
        let pending = enabled && self.enabled && self.group_1 && self.pending() && !(active && timer);
        let state = match (active, pending) {
            (false, false) => return ListRegister::EMPTY,
            (false, true) => InterruptState::Pending,
            (true, false) => InterruptState::Active,
            (true, true) => InterruptState::PendingActive,
        };
        self.loaded = Some(vcpu);
        self.loaded_pending = pending;
        if self.edge && pending {
            self.latch = false;
        }
        let register = if timer {
            ListRegister::virtual_timer(self.priority)
        } else {
            ListRegister::pending(intid, self.priority)
        };
        register.with_state(state)
    }

    /// Takes the state back from a list register.
    fn fold(&mut self, vcpu: u32, state: InterruptState) {
        let pending = matches!(state, InterruptState::Pending | InterruptState::PendingActive);
        let active = matches!(state, InterruptState::Active | InterruptState::PendingActive);
        self.loaded = None;
        self.active_on = active.then_some(vcpu);
        if self.edge {
            self.latch |= pending;
        } else {
            self.latch &= pending || !self.loaded_pending;
        }
    }
}
