//! What guest and host report: counts of CNTVCT_EL0, which all of the machine shares.

use shared_abi::bench::Operation;
use shared_abi::record::Record;

use crate::machine::Console;

/// Something that was timed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What.
    pub operation: Operation,
    /// The count before it.
    pub start: u64,
    /// The count after it.
    pub end: u64,
    /// How many of the operation it was, at least one.
    pub units: u64,
}

/// A stay of the CPU in EL2 and perhaps in a guest, between two stays in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// The count right before the host's call.
    pub entered: u64,
    /// The count right after it.
    pub left: u64,
}

/// All that was reported, in the order in which it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// What was timed.
    pub samples: Vec<Sample>,
    /// The host's calls, by time.
    pub crossings: Vec<Crossing>,
}

impl Samples {
    /// Takes in a line of a console.
    pub fn observe(&mut self, console: Console, line: &str) {
        match (console, Record::parse(line)) {
            (Console::Guest | Console::Host, Some(Record::Sample { operation, start, end, units })) => {
                self.samples.push(Sample { operation, start, end, units: units.max(1) })
            }
            (Console::Host, Some(Record::Crossing { entered, left })) => {
                self.crossings.push(Crossing { entered, left });
            }
            _ => {}
        }
    }

    /// The samples of an operation.
    pub fn of(&self, operation: Operation) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.operation == operation)
    }
}
