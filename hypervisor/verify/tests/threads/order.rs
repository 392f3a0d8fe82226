//! Finds a sequential order of concurrent calls that explains their results.

use std::collections::BTreeMap;

/// A call with its result, for a specification `S`.
pub(super) trait Answered<S> {
    /// Its start and end, by a clock that all threads share.
    fn when(&self) -> (u64, u64);

    /// Runs the call on the specification. Returns true if the result is the same.
    fn admits(&self, spec: &mut S) -> bool;
}

/// Returns true if some order of the threads' calls explains the results and leads to a state that `is_there`
/// accepts.
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
    /// For each number of completed calls per thread, the states from which no order of the remaining calls explains
    /// the results.
    dead_ends: BTreeMap<Vec<usize>, Vec<S>>,
    is_there: &'a mut dyn FnMut(&S) -> bool,
}

impl<S: Clone + PartialEq, D: Answered<S>> Search<'_, S, D> {
    /// Returns true if some order explains the remaining calls of each thread, from `at` on.
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
