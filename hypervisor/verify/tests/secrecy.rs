//! Two-run secrecy: two runs with the same actions differ only in the guests' secrets. The host must see the same in
//! both: results, exit records, the memory that it reaches, counters, and the events of the machine in order.
//!
//! A guest with a secret scrubs a page before it shares it, and its actions must not depend on the secret. The
//! controls show that the test watches each channel: it detects a guest or a hypervisor that leaks through it.

use hyp_core::machine::geometry::Geometry;
use hyp_verify::lockstep::action::{Action, GuestStep};
use hyp_verify::lockstep::{PUBLIC_BYTE, Pair, with_pair};
use hyp_verify::spec::{HostReach, SpecOwner};
use shared_abi::addr::Pfn;

use super::bench_machine::{Short, Tiny};
use super::cases;
use super::guide::{self, Dice};
use super::random::bench;

/// A leak that the test must detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leak {
    /// No leak.
    None,
    /// The machine does not wipe pages with a secret.
    Unwiped,
    /// Guests share pages without a scrub.
    Unscrubbed,
    /// Guests write a secret to a device.
    Exit,
    /// A guest's actions depend on its secret.
    Deed,
}

/// Steps of a run.
const STEPS: u64 = 300;

/// Runs a sequence. Returns the host's view of it, a line per step.
fn run<G: Geometry>(seed: u64, secret: u8, leak: Leak) -> Vec<String> {
    with_pair(&bench(), |pair: &mut Pair<'_, '_, G>| {
        pair.secret = secret;
        // Only the comparison of the two runs may find the leak, so content is not checked.
        pair.checking_content = false;
        if leak == Leak::Unwiped {
            pair.real.machine().leave_unwiped(secret);
        }
        let mut seen = Vec::new();
        for step in 0..STEPS {
            let mut action = guide::next(pair, &mut Dice(seed.wrapping_mul(0x1_0001) + step));
            if leak == Leak::Deed
                && secret > 0x80
                && let Action::Guest { call: GuestStep::Touch(gfn), .. } = &mut action
            {
                *gfn ^= 1;
            }
            if leak != Leak::Unscrubbed {
                scrub(pair, &action);
            }
            let verdict =
                pair.step(&action).unwrap_or_else(|divergence| panic!("{action}: {}", divergence.0));
            hide(pair);
            if let (Leak::Exit, Action::Guest { .. }) = (leak, action)
                && let Some(value) = pair.told.get_mut(3)
            {
                // As if x5, the register that is stored to the device, held the secret.
                *value ^= u64::from(secret);
            }
            let told = &pair.told;
            let events = &pair.events;
            seen.push(format!("{action}: {verdict:?} {told:x?} {} {events:?}", memory(pair)));
        }
        seen
    })
}

/// Guests make pages public before they share them.
fn scrub<G: Geometry>(pair: &Pair<'_, '_, G>, action: &Action) {
    if let Action::Guest { cpu, call: GuestStep::Share([ipa, pages, _]) } = *action
        && let Some((vm, _, false)) = pair.on_cpu(cpu)
    {
        let first = ipa / 4096;
        for gfn in (first..).take(pages.clamp(1, 64) as usize) {
            if let Some(page) = pair.spec.guest_reach(vm, gfn) {
                pair.real.machine().fill(Pfn(page), PUBLIC_BYTE);
            }
        }
    }
}

/// Guests fill all their private pages with their secrets.
fn hide<G: Geometry>(pair: &Pair<'_, '_, G>) {
    for (page, owner) in &pair.spec.owners {
        if let SpecOwner::Private(_) = owner {
            pair.real.machine().fill(Pfn(*page), pair.secret);
        }
    }
}

/// Returns the content of the pages that the host reaches.
fn memory<G: Geometry>(pair: &Pair<'_, '_, G>) -> String {
    let reached = pair.spec.owners.keys().filter(|page| pair.spec.host_reach(**page) == HostReach::Yes);
    reached
        .map(|page| match pair.real.machine().uniform_byte(Pfn(*page)) {
            Some(byte) => format!("{byte:02x}"),
            None => "??".into(),
        })
        .collect()
}

/// Returns the first step in which two runs differ.
fn differs<G: Geometry>(seed: u64, leak: Leak) -> Option<String> {
    let (one, other) = (run::<G>(seed, 0x77, leak), run::<G>(seed, 0xee, leak));
    let pairs = one.into_iter().zip(other);
    pairs.filter(|(one, other)| one != other).map(|(one, other)| format!("{one}\n{other}")).next()
}

#[test]
fn the_host_sees_the_same_whatever_the_guests_secret() {
    for seed in 0..u64::from(cases()).div_ceil(4) {
        assert_eq!(differs::<Tiny>(seed, Leak::None), None, "seed {seed}");
        assert_eq!(differs::<Short>(seed, Leak::None), None, "seed {seed}");
    }
}

#[test]
fn what_does_leak_is_seen() {
    for leak in [Leak::Unwiped, Leak::Unscrubbed, Leak::Exit, Leak::Deed] {
        let found = (0..20).any(|seed| differs::<Tiny>(seed, leak).is_some());
        assert!(found, "{leak:?} was not seen");
    }
}
