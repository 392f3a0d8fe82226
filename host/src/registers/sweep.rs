//! One guest writes all system registers, and the other and the host look at theirs: all on the boot CPU.

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
    // Their first turns are to find out what is undefined.
    reader.turn();
    writer.turn();
    let registers = readable(plan);
    let mut seen = vec![[0; PHASES]; registers.len()];
    for phase in 0..PHASES {
        writer.turn();
        for (register, values) in registers.iter().zip(&mut seen) {
            // SAFETY: it can be read, and the plan leaves out what has an effect then.
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
    // SAFETY: the plan leaves out what has an effect when it is read.
    registers.filter(|register| unsafe { probing.read(register.number()) }.is_some()).collect()
}
