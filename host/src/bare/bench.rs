//! What the host times when it runs the benchmark payload: a few operations of its own, and all its
//! crossings to the hypervisor and back.
//!
//! The numbers are raw counts of CNTVCT_EL0, which the guest reads as well. All are kept until the
//! guest has ended, and then reported; `docs/measuring.md` has the method.

mod crossings;
mod operations;

use alloc::vec::Vec;

use host::vm::VmError;
use shared_abi::record::Record;

use super::console;
pub(crate) use crossings::keep_crossing;
use operations::Timing;

/// What was timed so far.
pub(crate) struct Bench(Vec<Timing>);

impl Bench {
    /// Times what needs no guest of its own.
    ///
    /// # Errors
    ///
    /// The host is out of memory, or a call was refused.
    pub(crate) fn new() -> Result<Self, VmError> {
        operations::time_all().map(Self)
    }

    /// Reports everything, the crossings since included.
    pub(crate) fn report(&self) {
        for timing in &self.0 {
            console::record(&Record::Sample {
                operation: timing.operation,
                start: timing.start,
                end: timing.end,
                units: timing.units,
            });
        }
        for (entered, left) in crossings::kept() {
            console::record(&Record::Crossing { entered, left });
        }
    }
}
