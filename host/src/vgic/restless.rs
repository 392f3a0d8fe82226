//! Which interrupts are worth a look.

use super::interrupt::Interrupt;

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

    /// Leaves out those that are at rest.
    pub(super) fn settle(&mut self, interrupts: &[Interrupt]) {
        for place in places(self.0) {
            if interrupts
                .get(place as usize)
                .is_none_or(Interrupt::at_rest)
            {
                self.0 &= !(1 << place);
            }
        }
    }

    /// They and their places, in order.
    pub(super) fn of(self, interrupts: &[Interrupt]) -> impl Iterator<Item = (u32, &Interrupt)> {
        places(self.0).filter_map(|place| Some((place, interrupts.get(place as usize)?)))
    }
}

/// The positions of a word's ones, from the lowest up.
fn places(mut word: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let place = word.trailing_zeros();
        let lowest = word & word.wrapping_neg();
        word ^= lowest;
        (lowest != 0).then_some(place)
    })
}
