//! The oracle at EL2 (feature `oracle`): it checks all state after each call and each exit, and stops the machine at
//! the first difference. The shipped hypervisor has no oracle.

use core::sync::atomic::{AtomicU64, Ordering};

use hyp_core::cpu::registers::Registers;
use hyp_core::cpu::syndrome::Syndrome;
use hyp_core::hypervisor::Hypervisor;
use hyp_core::ownership::setup::Needs;
use hyp_verify::oracle::Oracle;
use shared_abi::host_call::HostCall;
use shared_abi::record::Record;
use spin::Once;
use spin::mutex::TicketMutex;

use crate::arch::{self, controls};
use crate::machine::el2::CoreMachine;
use crate::machine::{console, power};

pub(crate) use hyp_verify::oracle::changes::Calls;

/// The oracle and the core that it checks. Its lock is taken before all locks of the core, so one CPU checks at a
/// time.
static ORACLE: Once<(&Hypervisor<'static, CoreMachine>, TicketMutex<Oracle<'static>>)> = Once::new();

/// The number of checks so far.
static CHECKS: AtomicU64 = AtomicU64::new(0);

/// For each kind, the number of calls in progress on any CPU whose effects were not checked yet.
static UNDER_WAY: [AtomicU64; Calls::KINDS] = [const { AtomicU64::new(0) }; Calls::KINDS];

/// Adds room for the oracle's memory after the owner map.
pub(crate) fn with_room(needs: Needs) -> Needs {
    Needs { owner_words: needs.owner_words * 2, ..needs }
}

/// Splits that room off. Returns the owner map's words, then the oracle's.
pub(crate) fn take_room(owner_words: &'static mut [u64]) -> (&'static mut [u64], &'static mut [u64]) {
    let half = owner_words.len() / 2;
    owner_words.split_at_mut(half)
}

/// Starts the oracle, which takes the present state of `hypervisor` as given.
pub(crate) fn install(hypervisor: &'static Hypervisor<'static, CoreMachine>, room: &'static mut [u64]) {
    match Oracle::new(hypervisor, room) {
        Ok(oracle) => {
            ORACLE.call_once(|| (hypervisor, TicketMutex::new(oracle)));
        }
        Err(difference) => power::panicked(format_args!("{difference}")),
    }
}

/// A guard for work that may change what these kinds of calls change. The oracle checks when it is dropped.
#[must_use = "the oracle checks when this is dropped"]
pub(crate) struct Watched(Calls);

/// Announces work that may have the effects of these kinds of calls.
pub(crate) fn after(calls: Calls) -> Watched {
    for count in kinds(calls) {
        // This precedes the call's first lock, so a CPU that checks sees this count before the call's effects.
        count.fetch_add(1, Ordering::SeqCst);
    }
    Watched(calls)
}

/// [`after`], for an exception of the host: if it is a call, for that call. Any other exception changes nothing.
pub(crate) fn host_exception(registers: &Registers, esr: u64) -> Watched {
    after(match Syndrome::decode(esr) {
        Syndrome::Hvc { imm: 0 } | Syndrome::Smc { imm: 0 } => host_call(registers),
        _ => Calls::NONE,
    })
}

/// The kind of the call that the host makes by these registers.
fn host_call(registers: &Registers) -> Calls {
    let [x0, arguments @ .., _, _, _, _, _, _, _, _, _, _, _, _, _] = &registers.x;
    let call = u32::try_from(*x0).ok().and_then(|function| HostCall::parse(function, arguments).ok());
    call.map_or(Calls::NONE, |call| Calls::of(&call))
}

impl Drop for Watched {
    fn drop(&mut self) {
        held(self.0 == Calls::GUEST);
        let Some((hypervisor, oracle)) = ORACLE.get() else {
            return;
        };
        let result = oracle.lock().check(hypervisor, under_way);
        CHECKS.fetch_add(1, Ordering::Relaxed);
        for count in kinds(self.0) {
            count.fetch_sub(1, Ordering::SeqCst);
        }
        if let Err(difference) = result {
            power::panicked(format_args!("{difference}"));
        }
    }
}

/// Reads back this CPU's control registers of EL2, and checks that they have the values for the host, or for a guest.
/// They are this CPU's own, so no lock is needed.
fn held(guest: bool) {
    macro_rules! hold {
        ($($register:literal = $value:expr, in $mask:expr;)*) => {
            $({
                let (found, expected): (u64, u64) = (arch::read!($register) & $mask, $value & $mask);
                if found != expected {
                    power::panicked(format_args!(
                        "oracle: {} is {found:#x}, not {expected:#x}, while {} runs",
                        $register,
                        if guest { "a guest" } else { "the host" },
                    ));
                }
            })*
        };
    }
    /// ICC_SRE_EL2.Enable. It reads as one on a CPU whose only CPU interface is the system registers (IHI 0069,
    /// section 12.2.24).
    const SRE_ENABLE: u64 = 1 << 3;
    /// ICH_HCR_EL2.EOIcount, which the hardware updates.
    const EOI_COUNT: u64 = 0x1f << 27;

    let range = arch::physical_range();
    let mdcr = arch::read!("mdcr_el2");
    let (hcr, mdcr, cnthctl, ich_hcr) = if guest {
        (controls::GUEST_HCR, controls::guest_mdcr(mdcr), controls::GUEST_CNTHCTL, controls::GUEST_ICH_HCR)
    } else {
        (controls::HOST_HCR, controls::host_mdcr(mdcr), controls::HOST_CNTHCTL, controls::HOST_ICH_HCR)
    };
    hold! {
        "hcr_el2" = hcr, in u64::MAX;
        // FP traps while the CPU holds another party's FP registers.
        "cptr_el2" = controls::cptr(false), in !controls::CPTR_TFP;
        "mdcr_el2" = mdcr, in u64::MAX;
        "cnthctl_el2" = cnthctl, in u64::MAX;
        "ich_hcr_el2" = ich_hcr, in !EOI_COUNT;
        "icc_sre_el2" = controls::ICC_SRE, in !SRE_ENABLE;
        "vtcr_el2" = controls::vtcr(range), in u64::MAX;
        "hstr_el2" = 0, in u64::MAX;
        "cntvoff_el2" = 0, in u64::MAX;
        "vpidr_el2" = arch::read!("midr_el1"), in u64::MAX;
        "sctlr_el2" = controls::SCTLR, in u64::MAX;
        "tcr_el2" = controls::tcr(range), in u64::MAX;
        "mair_el2" = controls::MAIR, in u64::MAX;
    }
}

/// Returns the counters of these kinds.
fn kinds(calls: Calls) -> impl Iterator<Item = &'static AtomicU64> {
    UNDER_WAY
        .iter()
        .enumerate()
        .filter(move |(kind, _)| Calls::nth(*kind).any_of(calls))
        .map(|(_, count)| count)
}

fn under_way() -> Calls {
    UNDER_WAY
        .iter()
        .enumerate()
        .filter(|(_, count)| count.load(Ordering::SeqCst) != 0)
        .fold(Calls::NONE, |calls, (kind, _)| calls.and(Calls::nth(kind)))
}

/// Reports the number of checks.
pub(crate) fn report() {
    console::record(&Record::Oracle { checks: CHECKS.load(Ordering::Relaxed) });
}
