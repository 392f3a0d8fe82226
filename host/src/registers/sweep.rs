//! One guest writes all system registers; then the host and the other guest read theirs. All run on the boot
//! CPU.

use alloc::vec;
use alloc::vec::Vec;

use bare_rt::el1::fp::FpState;
use bare_rt::el1::system_register::{self, Probing};
use shared_abi::sweep::{Observation, PHASES, Plan, RegisterEncoding};

use super::party::Party;
use super::report;

/// The host among the parties.
const HOST: u64 = 3;

/// Runs both guests to their end.
pub(super) fn run(mut guests: [Party; 2], plan: &Plan<'_>) -> [Party; 2] {
    FpState::permit();
    let [writer, reader] = &mut guests;
    // In their first turns the guests probe for undefined registers.
    reader.turn();
    writer.turn();
    let registers = readable(plan);
    let mut seen = vec![[0; PHASES]; registers.len()];
    for phase in 0..PHASES {
        writer.turn();
        for (register, values) in registers.iter().zip(&mut seen) {
            // SAFETY: `readable` has found that it is defined, and the plan lists no register with an effect.
            values[phase] = unsafe { system_register::read(register.number()) };
        }
        reader.turn();
    }
    for guest in &mut guests {
        while guest.turn() {}
    }
    for (register, values) in registers.into_iter().zip(seen) {
        report(format_args!("{}", Observation { party: HOST, register, values }));
    }
    guests
}

/// The registers that the host can read, of those that may be read.
fn readable(plan: &Plan<'_>) -> Vec<RegisterEncoding> {
    let probing = Probing::new();
    let registers = RegisterEncoding::all().filter(|register| plan.may_read(*register));
    // SAFETY: `may_read` is true of no register that has an effect when it is read, as `RULES` of the tests say.
    registers.filter(|register| unsafe { probing.read(register.number()) }.is_some()).collect()
}
