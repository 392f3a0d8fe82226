//! Which interrupts are worth a look.

use super::interrupt::Interrupt;
use crate::bits::places;

/// A set of interrupts: at least those that are pending or active. One that is about to be changed is
/// added; one that turns out to be at rest is left out when somebody looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Restless(u64);

impl Restless {
    pub(super) const NONE: Self = Self(0);

    /// Adds the interrupt at a place below 64.
    pub(super) fn add(&mut self, place: usize) {
        self.0 |= 1 << place;
    }

    /// Whether it is empty.
    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Leaves out those that are at rest.
    pub(super) fn settle(&mut self, interrupts: &[Interrupt]) {
        for place in places(self.0) {
            if interrupts.get(place as usize).is_none_or(Interrupt::at_rest) {
                self.0 &= !(1 << place);
            }
        }
    }

    /// They and their places, in order.
    pub(super) fn of(self, interrupts: &[Interrupt]) -> impl Iterator<Item = (u32, &Interrupt)> {
        places(self.0).filter_map(|place| Some((place, interrupts.get(place as usize)?)))
    }
}
