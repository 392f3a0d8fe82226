//! Words as sets of small numbers.

/// The positions of a word's ones, from the lowest up.
pub(crate) fn places(mut word: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let place = word.trailing_zeros();
        let lowest = word & word.wrapping_neg();
        word ^= lowest;
        (lowest != 0).then_some(place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_ones() {
        assert_eq!(places(0).count(), 0);
        assert_eq!(places(0b1010).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(places(1 | 1 << 63).collect::<Vec<_>>(), [0, 63]);
        assert!(places(u64::MAX).eq(0..64));
    }
}
