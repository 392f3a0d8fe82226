//! What the host times when it runs the benchmark payload: its crossings to the hypervisor and back.
//!
//! The numbers are raw counts of CNTVCT_EL0, which the guest reads as well. All are kept until the
//! guest has ended, and then reported; `docs/measuring.md` has the method.

mod stopwatch;

use shared_abi::record::Record;

use super::console;
pub(crate) use stopwatch::timed_call;

/// Reports what was kept.
pub(crate) fn report() {
    for (entered, left) in stopwatch::crossings() {
        console::record(&Record::Crossing { entered, left });
    }
}
