//! Calls to the hypervisor: `hvc #0`.

use host::hypervisor::Hypervisor;
use shared_abi::host_call::Arguments;

use super::bench;

/// The hypervisor at EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum El2 {
    /// Called as it is.
    Plain,
    /// Called by the benchmark's stopwatch.
    Timed,
}

impl Hypervisor for El2 {
    fn invoke(&self, function: u32, arguments: &Arguments) -> (u64, Arguments) {
        match self {
            Self::Plain => {
                let [x0, results @ ..] = smccc::hvc64(function, *arguments);
                (x0, results)
            }
            Self::Timed => bench::timed_call(function, arguments),
        }
    }
}
