//! Executes straight code with names in place of values: what goes where.

use std::collections::BTreeMap;

use crate::a64::{Op, SP, Transfer};

/// What a register or a place in memory holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    /// What that register held at first, and so much more.
    Initial(u8, i64),
    /// What memory held at that address.
    Loaded(Box<Value>),
    /// What a system register held.
    System(String),
    /// This number.
    Number(u64),
    /// Nobody knows.
    Unknown,
}

/// What a way through a function did.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    registers: BTreeMap<u8, Value>,
    /// Memory: address, content.
    pub(crate) stores: BTreeMap<Value, Value>,
    /// System registers that were written, with their last value.
    pub(crate) system: BTreeMap<String, Value>,
}

impl Value {
    /// This address, `bytes` further on; a loaded pointer has no offset of its own, so it becomes one by
    /// [`Value::Loaded`] of the address that it is used with.
    fn plus(&self, bytes: i64) -> Self {
        match self {
            Self::Initial(register, offset) => Self::Initial(*register, offset + bytes),
            Self::Number(number) => Self::Number(number.wrapping_add_signed(bytes)),
            _ if bytes == 0 => self.clone(),
            _ => Self::Unknown,
        }
    }
}

impl Effects {
    /// Executes a way. `named` are loaded pointers: from then on what they hold is `Initial` of that number, so
    /// that memory can be named by them.
    pub(crate) fn of(way: &[Op], named: &[(Value, u8)]) -> Self {
        let mut effects = Self::default();
        for op in way {
            effects.execute(op, named);
        }
        effects
    }

    /// What a register holds at the end.
    pub(crate) fn register(&self, register: u8) -> Value {
        self.registers.get(&register).cloned().unwrap_or(Value::Initial(register, 0))
    }

    /// What was stored so many bytes from where this register pointed at first.
    pub(crate) fn stored(&self, base: u8, offset: i64) -> Option<&Value> {
        self.stores.get(&Value::Initial(base, offset))
    }

    fn set(&mut self, register: u8, value: Value) {
        self.registers.insert(register, value);
    }

    fn execute(&mut self, op: &Op, named: &[(Value, u8)]) {
        match op {
            Op::Read { register, to } => self.set(*to, Value::System(register.clone())),
            Op::Write { register, from } => {
                let value = self.register(*from);
                self.system.insert(register.clone(), value);
            }
            Op::Load { transfer } => {
                for (address, register) in self.addresses(transfer) {
                    let loaded = match self.stores.get(&address) {
                        Some(stored) => stored.clone(),
                        None => Value::Loaded(Box::new(address)),
                    };
                    let name = named.iter().find(|(value, _)| *value == loaded);
                    self.set(register, name.map_or(loaded, |(_, name)| Value::Initial(*name, 0)));
                }
            }
            Op::Store { transfer } => {
                for (address, register) in self.addresses(transfer) {
                    let value = self.register(register);
                    self.stores.insert(address, value);
                }
            }
            Op::Add { to, from, value } => {
                let sum = self.register(*from).plus(*value);
                self.set(*to, sum);
            }
            Op::Set { to, value } => self.set(*to, Value::Number(*value)),
            Op::Move { to, from } => {
                let value = self.register(*from);
                self.set(*to, value);
            }
            // AAPCS64: x19 to x29 and the stack pointer outlive a call.
            Op::Call { .. } | Op::CallRegister => {
                (0..=18).chain([30]).for_each(|register| self.set(register, Value::Unknown));
            }
            Op::Other { to } if *to != SP => self.set(*to, Value::Unknown),
            Op::Other { .. } | Op::Named(_) | Op::Branch { .. } | Op::Return | Op::Trap => {}
        }
    }

    /// The addresses of a transfer with their registers, and its write-back.
    fn addresses(&mut self, transfer: &Transfer) -> Vec<(Value, u8)> {
        let base = self.register(transfer.base);
        if transfer.write_back != 0 {
            self.set(transfer.base, base.plus(transfer.write_back));
        }
        let first = base.plus(transfer.offset);
        let at = |index: i64| first.plus(index * transfer.size);
        (0..).map(at).zip(transfer.registers.iter().copied()).collect()
    }
}
