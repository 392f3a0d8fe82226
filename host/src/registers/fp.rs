//! Two guests, and the host on two CPUs, each with a pattern of its own in the FP and SIMD registers.
//!
//! Turn n of guest g is on CPU (n + g) modulo 2: both CPUs run a guest at a time, each guest changes its
//! CPU with each turn, and each CPU its guest.

use core::sync::atomic::{AtomicUsize, Ordering};

use bare_rt::el1::cpu;
use bare_rt::el1::fp::FpState;

use super::party::Party;
use super::report;
use crate::bare::sleep_lock::SleepLock;
use crate::bare::{cpus, interrupts, power};

/// The CPUs that take part.
const CPUS: usize = 2;
/// The host's number on CPU 0, for its pattern; guests are 1 and 2.
const FIRST_HOST: u64 = 3;
/// Turns that the host's pattern stays for: one more each round, up to this number, and then one again.
const LONGEST: u64 = 3;

/// The guests, while they run.
static GUESTS: [SleepLock<Option<Party>>; 2] = [const { SleepLock::new(None) }; 2];
/// CPUs that have seen both guests end.
static FINISHED: AtomicUsize = AtomicUsize::new(0);

/// Runs both guests to their end.
pub(super) fn run(guests: [Party; 2]) -> [Party; 2] {
    if cpus::online() < CPUS {
        power::refuse(format_args!("the test of FP registers takes {CPUS} CPUs"));
    }
    for (place, guest) in GUESTS.iter().zip(guests) {
        *place.lock() = Some(guest);
    }
    take_turns();
    while FINISHED.load(Ordering::Acquire) != CPUS {
        pause();
    }
    let taken = GUESTS.each_ref().map(|place| place.lock().take());
    let [Some(one), Some(other)] = taken else {
        power::refuse(format_args!("a guest is lost"));
    };
    for (number, guest) in [&one, &other].into_iter().enumerate() {
        report(format_args!("fp exits of party={} exits={}", number + 1, guest.exits()));
    }
    [one, other]
}

/// Runs a CPU other than the boot CPU.
pub(super) fn work() -> ! {
    // The boot CPU kicks this one after its first turn.
    while GUESTS[0].lock().is_none() || GUESTS[1].lock().is_none() {
        pause();
    }
    if cpus::current() < CPUS {
        take_turns();
    }
    loop {
        pause();
    }
}

/// Gives turns until both guests have ended, and checks the host's registers around them.
fn take_turns() {
    let this = cpus::current();
    let other = CPUS - 1 - this;
    let party = FIRST_HOST + this as u64;
    FpState::permit();
    let fresh = FpState::current().difference(&FpState::ZERO);
    let (mut rounds, mut turns, mut wrong) = (0, 0, 0);
    let mut goes_on = [true; GUESTS.len()];
    while goes_on.contains(&true) {
        let pattern = FpState::pattern(party, rounds);
        pattern.load();
        for _ in 0..=rounds % LONGEST {
            let number = (turns as usize + this) % GUESTS.len();
            goes_on[number] = turn(number, turns);
            turns += 1;
            interrupts::kick(other);
        }
        wrong |= pattern.difference(&FpState::current());
        rounds += 1;
    }
    report(format_args!(
        "fp party={party} cpu={this} rounds={rounds} turns={turns} fresh={fresh:#x} wrong={wrong:#x}"
    ));
    FINISHED.fetch_add(1, Ordering::Release);
    interrupts::kick(other);
}

/// Waits for turn `turn` of a guest and gives it. Returns false if the guest has ended.
fn turn(number: usize, turn: u64) -> bool {
    loop {
        if let Some(guest) = GUESTS[number].lock().as_mut().filter(|guest| guest.turns == turn) {
            return guest.turn();
        }
        pause();
    }
}

/// Sleeps until an interrupt, such as another CPU's kick.
fn pause() {
    cpu::wfi();
    interrupts::drain();
}
