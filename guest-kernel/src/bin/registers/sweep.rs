//! All system registers: one guest writes those that the plan allows, the other reads.
//!
//! Both probe for undefined registers first. After that neither takes an exception before its last turn: one
//! would change ELR_EL1, SPSR_EL1 and ESR_EL1.

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;

use bare_rt::el1::fp::FpState;
use bare_rt::el1::lock::IrqMasked;
use bare_rt::el1::system_register::{self, Probing};
use guest_kernel::{Failure, println};
use shared_abi::sweep::{Observation, PHASES, Plan, RegisterEncoding, pattern};

use super::end_turn;

/// The party that writes.
const WRITER: u64 = 1;

pub(super) fn run(party: u64, uart: u64, plan: &[u8]) -> Result<(), Failure> {
    let plan = Plan::parse(plan).ok_or("there is no plan: the sweep wants one as its initrd")?;
    FpState::permit();
    let masked = IrqMasked::new();
    let registers = readable(&plan);
    let written = if party == WRITER { writable(&plan, &registers) } else { Vec::new() };
    end_turn(uart);
    let mut seen = vec![[0; PHASES]; registers.len()];
    for phase in 0..PHASES {
        for (register, own) in &written {
            let bits = plan.writable_bits(*register);
            write(*register, own & !bits | pattern(*register, phase) & bits);
        }
        for (register, values) in registers.iter().zip(&mut seen) {
            values[phase] = read(*register);
        }
        end_turn(uart);
        for (register, own) in written.iter().rev() {
            write(*register, *own);
        }
    }
    drop(masked);
    for (register, values) in registers.into_iter().zip(seen) {
        println!("{}", Observation { party, register, values });
    }
    Ok(())
}

/// The registers that can be read, of those that may be.
fn readable(plan: &Plan<'_>) -> Vec<RegisterEncoding> {
    let probing = Probing::new();
    let registers = RegisterEncoding::all().filter(|register| plan.may_read(*register));
    // SAFETY: `may_read` is true of no register that has an effect when it is read, as `RULES` of the tests say.
    registers.filter(|register| unsafe { probing.read(register.number()) }.is_some()).collect()
}

/// The registers that can be written, of those that may be, each with its own value; 0 if it can't be read.
fn writable(plan: &Plan<'_>, readable: &[RegisterEncoding]) -> Vec<(RegisterEncoding, u64)> {
    let probing = Probing::new();
    let own = |register| if readable.contains(&register) { read(register) } else { 0 };
    RegisterEncoding::all()
        .filter(|register| plan.writable_bits(*register) != 0)
        .map(|register| (register, own(register)))
        // SAFETY: `writable_bits` is 0 for every register where a write of its own value has an effect, as
        // `RULES` of the tests say.
        .filter(|(register, own)| unsafe { probing.write(register.number(), *own) })
        .collect()
}

/// Reads a register that [`readable`] has found.
fn read(register: RegisterEncoding) -> u64 {
    // SAFETY: `readable` has found that it is defined, and the plan lists no register with an effect.
    unsafe { system_register::read(register.number()) }
}

/// Writes a register that [`writable`] has found.
fn write(register: RegisterEncoding, value: u64) {
    // SAFETY: `writable` has found that it is defined. `run` changes only bits that the plan lists: they have no
    // effect on code at EL1 that takes no exception, and `run` masks interrupts.
    unsafe { system_register::write(register.number(), value) };
}
