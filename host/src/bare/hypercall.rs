//! Calls to the hypervisor: `hvc #0`.

use host::hypervisor::Hypervisor;
use shared_abi::host_call::Arguments;

/// The hypervisor at EL2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct El2;

impl Hypervisor for El2 {
    fn invoke(&self, function: u32, arguments: &Arguments) -> (u64, Arguments) {
        let [x0, results @ ..] = smccc::hvc64(function, *arguments);
        (x0, results)
    }
}
