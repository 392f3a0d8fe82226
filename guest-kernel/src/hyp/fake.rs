//! A hypervisor for unit tests: one for each thread, and so for each test.

use std::cell::RefCell;
use std::collections::BTreeSet;

use shared_abi::kvm::{self, feature, function, trng};
use smccc::Call;

pub(crate) const NOT_SUPPORTED: i64 = -1;
pub(crate) const INVALID_PARAMETER: i64 = -3;

/// What the fake is and what was done to it.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Word 0 of FEATURES; `None`: no vendor service.
    pub(crate) features: Option<u32>,
    /// The answer to MEMINFO.
    pub(crate) granule: u64,
    /// MEM_SHARE and MEM_UNSHARE take ranges, and do so many granules in one call.
    pub(crate) ranges: Option<u64>,
    /// Granules that are shared now.
    pub(crate) shared: BTreeSet<u64>,
    /// Pages that are guarded.
    pub(crate) guarded: BTreeSet<u64>,
    /// ENROLL was called.
    pub(crate) enrolled: bool,
    /// MEM_SHARE fails once this many granules are shared.
    pub(crate) share_limit: usize,
    /// MEM_UNSHARE fails for this granule.
    pub(crate) stuck: Option<u64>,
    /// All calls, in order.
    pub(crate) calls: Vec<u32>,
}

impl State {
    /// Shares granules, or takes them back; answers how many.
    fn convert(&mut self, function: u32, ipa: u64, granules: u64) -> u64 {
        let most = match self.ranges {
            None if granules != 0 => return 0,
            most => most.unwrap_or(1).min(granules.max(1)),
        };
        let done = (0..most).take_while(|index| {
            let ipa = ipa + index * self.granule;
            match function {
                function::MEM_SHARE => {
                    ipa.is_multiple_of(self.granule)
                        && self.shared.len() < self.share_limit
                        && self.shared.insert(ipa)
                }
                _ => self.stuck != Some(ipa) && self.shared.remove(&ipa),
            }
        });
        done.count() as u64
    }
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// All that pKVM, with the MMIO guard as Android has it, offers.
pub(crate) const ALL: u32 = feature::FEATURES
    | feature::MEMINFO
    | feature::MEM_SHARE
    | feature::MEM_UNSHARE
    | feature::MMIO_GUARD_INFO
    | feature::MMIO_GUARD_ENROLL
    | feature::MMIO_GUARD_MAP
    | feature::MEM_RELINQUISH;

/// Starts over with these features.
pub(crate) fn reset(features: Option<u32>) {
    with(|state| {
        *state = State { features, granule: 4096, share_limit: usize::MAX, ..State::default() };
    });
}

/// Looks at the fake, or changes it.
pub(crate) fn with<T>(f: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(f)
}

/// The conduit to the fake.
#[derive(Debug)]
pub(crate) struct Fake;

impl Call for Fake {
    fn call32(function: u32, _: [u32; 7]) -> [u32; 8] {
        with(|state| {
            state.calls.push(function);
            let mut result = [0; 8];
            match (function, state.features) {
                (function::UID, Some(_)) => result[..4].copy_from_slice(&kvm::UID),
                (function::FEATURES, Some(features)) => result[0] = features,
                (smccc::psci::PSCI_VERSION, _) => result[0] = 0x1_0001,
                (smccc::psci::PSCI_FEATURES, _) => result[0] = 0,
                (smccc::arch::SMCCC_VERSION, _) => result[0] = 0x1_0001,
                (trng::VERSION, Some(_)) => result[0] = 0x1_0000,
                _ => result[0] = NOT_SUPPORTED as u32,
            }
            result
        })
    }

    fn call64(function: u32, arguments: [u64; 17]) -> [u64; 18] {
        with(|state| {
            state.calls.push(function);
            let ipa = arguments[0];
            let aligned = ipa.is_multiple_of(state.granule);
            let mut result = [0; 18];
            let done = match function {
                function::MEM_SHARE | function::MEM_UNSHARE => {
                    result[1] = state.convert(function, ipa, arguments[1]);
                    result[1] != 0
                }
                function::MMIO_GUARD_ENROLL => {
                    state.enrolled = true;
                    true
                }
                function::MMIO_GUARD_MAP => aligned && state.guarded.insert(ipa),
                function::MEMINFO => {
                    result[1] = state.ranges.map_or(0, |_| kvm::MEMINFO_RANGES);
                    true
                }
                _ => true,
            };
            result[0] = match function {
                function::MEMINFO | function::MMIO_GUARD_INFO => state.granule,
                trng::RND64 => {
                    (result[1], result[2], result[3]) = (3, 2, 0x0102);
                    0
                }
                _ if done => 0,
                _ => INVALID_PARAMETER as u64,
            };
            result
        })
    }
}
