//! Finds the values that one guest wrote and another party read.

use std::collections::BTreeMap;

use shared_abi::sweep::{Observation, PHASES, RegisterEncoding, is_complement};

/// A party that writes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reader {
    /// The second guest.
    Guest,
    /// The host.
    Host,
}

/// The result of a sweep: the bits of each register that follow the writer's pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Registers that the writing guest could read.
    pub readable: usize,
    /// The bits that it changed.
    pub written: BTreeMap<RegisterEncoding, u64>,
    /// The bits that reached a reader.
    pub crossed: BTreeMap<(Reader, RegisterEncoding), u64>,
    /// Registers that a reader could read.
    pub looked_at: BTreeMap<Reader, usize>,
}

impl Sweep {
    /// Reads the parties' reports on a console.
    #[must_use]
    pub fn read(console: &str) -> Self {
        let mut sweep = Self::default();
        for Observation { party, register, values } in console.lines().filter_map(Observation::parse) {
            let following = following(values);
            let reader = match party {
                1 => {
                    sweep.readable += 1;
                    if following != 0 {
                        sweep.written.insert(register, following);
                    }
                    continue;
                }
                2 => Reader::Guest,
                _ => Reader::Host,
            };
            *sweep.looked_at.entry(reader).or_default() += 1;
            if following != 0 {
                sweep.crossed.insert((reader, register), following);
            }
        }
        sweep
    }
}

/// The bits that are the same in all phases with the writer's pattern, and inverted in all with its complement.
/// They depend on a value that the writing guest wrote, to whichever register.
const fn following(values: [u64; PHASES]) -> u64 {
    let (mut bits, mut phase) = (u64::MAX, 1);
    while phase < PHASES {
        let changed = values[phase] ^ values[0];
        bits &= if is_complement(phase) { changed } else { !changed };
        phase += 1;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: RegisterEncoding = RegisterEncoding::new(3, 0, 12, 1, 1);
    const OTHER: RegisterEncoding = RegisterEncoding::new(3, 3, 13, 0, 2);

    fn sweep(observations: &[(u64, RegisterEncoding, [u64; PHASES])]) -> Sweep {
        let lines = observations
            .iter()
            .map(|(party, register, values)| {
                let observation = Observation { party: *party, register: *register, values: *values };
                format!("{observation}\r\n")
            })
            .collect::<String>();
        Sweep::read(&format!("fp party=1\n{lines}other words\n"))
    }

    #[test]
    fn what_follows_the_writer_crosses() {
        let found = sweep(&[
            (1, ONE, [5, 10, 10, 5]),
            (1, OTHER, [7, 7, 7, 7]),
            (2, ONE, [5, 10, 10, 5]),
            (3, ONE, [1, 1, 1, 1]),
            (3, OTHER, [8, 0, 0, 8]), // another register, and a part of the value
        ]);
        assert_eq!(found.readable, 2);
        assert_eq!(found.written, BTreeMap::from([(ONE, 15)]));
        assert_eq!(found.looked_at, BTreeMap::from([(Reader::Guest, 1), (Reader::Host, 2)]));
        assert_eq!(found.crossed, BTreeMap::from([((Reader::Guest, ONE), 15), ((Reader::Host, OTHER), 8)]));
    }

    #[test]
    fn what_moves_by_itself_does_not() {
        for values in [[7, 7, 7, 7], [0, 1, 2, 3], [4, 5, 4, 5], [0, 1, 0, 0], [5, 5, 10, 10]] {
            assert_eq!(sweep(&[(2, ONE, values)]).crossed, BTreeMap::new(), "{values:?}");
        }
    }
}
