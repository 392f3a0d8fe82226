//! Whether some order of calls that were made at once explains what they were answered.

use std::collections::BTreeMap;

/// A call and what it was answered, for a specification `S`.
pub(super) trait Answered<S> {
    /// When it began and when it ended, by a clock that all threads share.
    fn when(&self) -> (u64, u64);

    /// Does it to the specification; whether it would have been answered so.
    fn admits(&self, spec: &mut S) -> bool;
}

/// Whether some order of the threads' calls explains the answers, and leads to a state that `is_there`.
pub(super) fn explain<S: Clone + PartialEq, D: Answered<S>>(
    spec: &S,
    threads: &[Vec<D>],
    is_there: &mut dyn FnMut(&S) -> bool,
) -> bool {
    let at = vec![0; threads.len()];
    Search { threads, dead_ends: BTreeMap::new(), is_there }.goes_on(spec, &at)
}

struct Search<'a, S, D> {
    threads: &'a [Vec<D>],
    /// How many calls of each thread were done in some order, and the states from which no order of the others
    /// explains them.
    dead_ends: BTreeMap<Vec<usize>, Vec<S>>,
    is_there: &'a mut dyn FnMut(&S) -> bool,
}

impl<S: Clone + PartialEq, D: Answered<S>> Search<'_, S, D> {
    /// Whether some order explains what is left of each thread's calls, from `at` on.
    fn goes_on(&mut self, spec: &S, at: &[usize]) -> bool {
        let threads = self.threads;
        let next: Vec<Option<&D>> = threads.iter().zip(at).map(|(calls, at)| calls.get(*at)).collect();
        let Some(first_end) = next.iter().flatten().map(|call| call.when().1).min() else {
            return (self.is_there)(spec);
        };
        if self.dead_ends.get(at).is_some_and(|states| states.contains(spec)) {
            return false;
        }
        for (thread, call) in next.iter().enumerate() {
            let mut after = spec.clone();
            let explained = call.is_some_and(|call| call.when().0 <= first_end && call.admits(&mut after))
                && {
                    let mut at = at.to_vec();
                    at[thread] += 1;
                    self.goes_on(&after, &at)
                };
            if explained {
                return true;
            }
        }
        self.dead_ends.entry(at.to_vec()).or_default().push(spec.clone());
        false
    }
}
