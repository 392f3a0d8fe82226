//! The world switch: every register that belongs to the host or a guest is stored to its place, and loaded from it.

use std::mem::offset_of;

use hyp_core::cpu::registers::{FpRegisters, Registers, SystemRegisters};

use crate::a64::{Op, Q0, SP};
use crate::binary::shipped;
use crate::symbolic::{Effects, Value};

/// Each field of [`SystemRegisters`], with the register that it is.
macro_rules! fields {
    ($($field:ident)*) => {
        [$((stringify!($field).to_uppercase(), offset_of!(SystemRegisters, $field) as i64)),*]
    };
}

/// The registers with their places.
fn system_registers() -> Vec<(String, i64)> {
    let fields = fields! {
        sp_el0 sp_el1 elr_el1 spsr_el1 sctlr_el1 cpacr_el1 ttbr0_el1 ttbr1_el1 tcr_el1 esr_el1 afsr0_el1
        afsr1_el1 far_el1 mair_el1 amair_el1 vbar_el1 contextidr_el1 tpidr_el0 tpidrro_el0 tpidr_el1
        cntkctl_el1 par_el1 mdscr_el1 csselr_el1 cntv_cval_el0 cntv_ctl_el0
    };
    assert_eq!(fields.len() * 8, size_of::<SystemRegisters>(), "a field is not in this list");
    fields.to_vec()
}

/// The general registers of EL1.
const GENERAL: std::ops::RangeInclusive<u8> = 0..=30;
/// Those that AAPCS64 has a callee preserve.
const PRESERVED: std::ops::RangeInclusive<u8> = 19..=29;

/// The place of a general register in [`VcpuContext`], and of the host's alike.
fn place(register: u8) -> i64 {
    offset_of!(Registers, x) as i64 + 8 * i64::from(register)
}

/// Where the first argument pointed to, so far in.
fn loaded(offset: i64) -> Value {
    Value::Loaded(Box::new(Value::Initial(0, offset)))
}

/// The one way through a function.
#[track_caller]
fn straight(path: &[&str]) -> Effects {
    let ways = shipped().function(path).ways();
    let [way] = &ways[..] else { panic!("{} ways through {}", ways.len(), path.join("::")) };
    Effects::of(way, &[])
}

#[test]
fn every_system_register_is_stored_and_loaded() {
    let (stores, loads) = (straight(&["state", "save_system"]), straight(&["state", "load_system"]));
    for (register, offset) in system_registers() {
        assert_eq!(stores.stored(0, offset), Some(&Value::System(register.clone())), "{register} is stored");
        assert_eq!(loads.system.get(&register), Some(&loaded(offset)), "{register} is loaded");
    }
    assert_eq!(loads.system.len(), system_registers().len(), "and nothing else");
}

#[test]
fn every_fp_register_is_stored_and_loaded() {
    let (stores, loads) = (straight(&["fp", "save"]), straight(&["fp", "load"]));
    for register in 0..32 {
        let offset = offset_of!(FpRegisters, q) as i64 + 16 * i64::from(register);
        let q = Q0 + register;
        assert_eq!(stores.stored(0, offset), Some(&Value::Initial(q, 0)), "q{register} is stored");
        assert_eq!(loads.register(q), loaded(offset), "q{register} is loaded");
    }
    for (register, offset) in
        [("FPCR", offset_of!(FpRegisters, fpcr)), ("FPSR", offset_of!(FpRegisters, fpsr))]
    {
        let offset = offset as i64;
        assert_eq!(stores.stored(0, offset), Some(&Value::System(register.to_owned())), "{register}");
        assert_eq!(loads.system.get(register), Some(&loaded(offset)), "{register}");
    }
}

/// PC and PSTATE of EL1 are in ELR_EL2 and SPSR_EL2.
const STATE: [(&str, usize); 2] =
    [("ELR_EL2", offset_of!(Registers, pc)), ("SPSR_EL2", offset_of!(Registers, pstate))];

/// A number for what the frame on the stack points to, which is no register's.
const REGISTERS: u8 = 128;

/// Where `enter`, which gets a pointer to the registers, keeps it, as seen from the stack pointer while EL1 runs.
fn pointer() -> (i64, Effects) {
    let entered = straight(&["switch", "enter"]);
    let Value::Initial(SP, bottom) = entered.register(SP) else { panic!("the stack pointer is lost") };
    let kept = entered.stores.iter().find(|(_, value)| **value == Value::Initial(0, 0));
    let Some((Value::Initial(SP, offset), _)) = kept else { panic!("the pointer is not kept") };
    (offset - bottom, entered)
}

#[test]
fn every_general_register_is_loaded_at_entry() {
    let (_, entered) = pointer();
    for register in GENERAL {
        assert_eq!(entered.register(register), loaded(place(register)), "x{register}");
    }
    for (register, offset) in STATE {
        assert_eq!(entered.system.get(register), Some(&loaded(offset as i64)), "{register}");
    }
}

/// Where a vector puts x0 and x1 of EL1, as seen from the stack pointer.
fn frame() -> i64 {
    let Op::Store { transfer } = shipped().at(vector(8)) else {
        panic!("a vector stores two registers first")
    };
    assert_eq!((&transfer.registers[..], transfer.base), (&[0, 1][..], SP));
    transfer.offset
}

/// What a way out of EL1 has stored at the end; the pointer to the registers is [`REGISTERS`].
fn way_out(way: &[Op]) -> Effects {
    let pointer = Value::Loaded(Box::new(Value::Initial(SP, pointer().0)));
    Effects::of(way, &[(pointer, REGISTERS)])
}

/// Holds the registers of these numbers to be stored, and PC and PSTATE.
#[track_caller]
fn are_stored(effects: &Effects, registers: impl Iterator<Item = u8>) {
    for register in registers {
        let expected = match register {
            0 | 1 => Value::Loaded(Box::new(Value::Initial(SP, frame() + 8 * i64::from(register)))),
            _ => Value::Initial(register, 0),
        };
        assert_eq!(effects.stored(REGISTERS, place(register)), Some(&expected), "x{register}");
    }
    for (register, offset) in STATE {
        let expected = Value::System(register.to_owned());
        assert_eq!(effects.stored(REGISTERS, offset as i64), Some(&expected), "{register}");
    }
}

/// Holds the registers that the caller of `enter` had to be loaded from where it put them.
#[track_caller]
fn caller_gets_its_own_back(effects: &Effects) {
    let (_, entered) = pointer();
    let Value::Initial(SP, bottom) = entered.register(SP) else { panic!("the stack pointer is lost") };
    for register in PRESERVED.chain([30]) {
        let put = entered.stores.iter().find(|(_, value)| **value == Value::Initial(register, 0));
        let Some((Value::Initial(SP, offset), _)) = put else {
            panic!("x{register} of the caller is not put")
        };
        let expected = Value::Loaded(Box::new(Value::Initial(SP, offset - bottom)));
        assert_eq!(effects.register(register), expected, "x{register} of the caller");
    }
    assert_eq!(effects.register(SP), Value::Initial(SP, -bottom), "the frame is gone");
}

#[test]
fn every_general_register_is_stored_at_exit() {
    let ways = shipped().function(&["switch", "leave"]).ways();
    let [way] = &ways[..] else { panic!("{} ways", ways.len()) };
    let left = way_out(way);
    are_stored(&left, GENERAL);
    caller_gets_its_own_back(&left);
}

#[test]
fn a_hypercall_keeps_every_general_register() {
    let ways = shipped().function(&["switch", "synchronous"]).ways();
    let (mut resumed, mut returned, mut others) = (0, 0, 0);
    for way in &ways {
        let effects = way_out(way);
        match way.last() {
            // The handler wants EL1 to go on.
            Some(Op::Named(name)) if name == "ERET" => {
                resumed += 1;
                are_stored(&effects, (0..=18).chain([30]));
                for register in GENERAL.filter(|register| !PRESERVED.contains(register)) {
                    let expected = effects.stored(REGISTERS, place(register)).cloned();
                    assert_eq!(Some(effects.register(register)), expected, "x{register}");
                }
                for register in PRESERVED {
                    assert_eq!(effects.register(register), Value::Initial(register, 0), "x{register}");
                }
                for (register, _) in STATE {
                    assert_eq!(effects.system.get(register), Some(&Value::System(register.to_owned())));
                }
            }
            // No hypercall: `leave` goes on with the registers as they are.
            Some(Op::Call { target }) if shipped().name_at(*target) == "leave" => {
                others += 1;
                let effects = way_out(&way[..way.len() - 1]);
                assert!(effects.stores.is_empty());
                for register in 2..=30 {
                    assert_eq!(effects.register(register), Value::Initial(register, 0), "x{register}");
                }
                assert_eq!(effects.register(1), Value::Number(0));
            }
            _ => {
                returned += 1;
                are_stored(&effects, GENERAL);
                caller_gets_its_own_back(&effects);
            }
        }
    }
    assert_eq!((resumed, returned, others), (1, 1, 1));
}

/// After ERET nothing is executed, nor speculated (Arm ARM DDI0487, C6.2.118).
#[test]
fn no_speculation_goes_past_an_eret() {
    for name in ["enter", "synchronous"] {
        let listing = shipped().function(&["switch", name]).listing();
        let at = listing.iter().position(|name| name == "ERET").expect("an ERET");
        assert_eq!(listing[at + 1..at + 3], ["DSB NSH", "ISB"], "{name}");
    }
}

/// The address of a vector, by its number (Arm ARM DDI0487, D1.4.1).
fn vector(number: u64) -> u64 {
    shipped().address("hypervisor_vectors") + 0x80 * number
}

#[test]
fn every_vector_goes_where_it_says() {
    assert_eq!(vector(0) % 0x800, 0, "VBAR_EL2 takes 2 KiB");
    let binary = shipped();
    let goes_to = |address: u64| match binary.at(address) {
        Op::Branch { target, conditional: false } => binary.name_at(target),
        other => panic!("{address:#x}: {other:?}"),
    };
    // From EL2 itself: what is told of it, and the end.
    for number in 0..8 {
        for (index, register) in ["ESR_EL2", "ELR_EL2", "FAR_EL2"].into_iter().enumerate() {
            let expected = Op::Read { register: register.to_owned(), to: index as u8 };
            assert_eq!(binary.at(vector(number) + 4 * index as u64), expected);
        }
        assert_eq!(goes_to(vector(number) + 12), "own_fault");
    }
    let stored = binary.at(vector(8));
    assert_eq!(goes_to(vector(8) + 4), "synchronous");
    // From EL1: IRQ, FIQ and SError of AArch64, and all four of AArch32. `Vector` has the numbers.
    const SYNCHRONOUS: u64 = 0;
    const INTERRUPT: u64 = 1;
    const SERROR: u64 = 2;
    let kinds = [INTERRUPT, INTERRUPT, SERROR, SYNCHRONOUS, INTERRUPT, INTERRUPT, SERROR];
    for (number, value) in (9..).zip(kinds) {
        assert_eq!(binary.at(vector(number)), stored, "vector {number}");
        assert_eq!(binary.at(vector(number) + 4), Op::Set { to: 1, value }, "vector {number}");
        assert_eq!(goes_to(vector(number) + 8), "leave");
    }
}
