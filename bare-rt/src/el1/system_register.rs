//! Access to system registers by the number of their encoding: all that MRS and MSR (register) can name.
//!
//! The instruction itself contains the number, so a table holds an MRS and an MSR for each of the 2^15 numbers.
//! [`read`] and [`write`] call into it. A binary that does not use them does not link the table.

use core::arch::{asm, naked_asm};

use super::lock::IrqMasked;

/// The count of numbers. A number is bits 19 to 5 of MRS and MSR (register), from o0 (op0 minus 2) down to op2 (Arm
/// ARM DDI0487 L.b, C6.2.234 and C6.2.236).
pub const NUMBERS: u16 = 1 << 15;

/// `mrs x0, S2_0_C0_C0_0`.
const MRS: u32 = 0xd530_0000;
/// `msr S2_0_C0_C0_0, x0`.
const MSR: u32 = 0xd510_0000;
/// The size of a table entry in bytes.
const ENTRY_BYTES: usize = 8;

/// The table: for each number its instruction and a return.
#[unsafe(naked)]
extern "C" fn table<const FIRST: u32>() {
    naked_asm!(
        ".set system_register_number, 0",
        ".rept {numbers}",
        ".inst {first} + (system_register_number << 5)",
        "ret",
        ".set system_register_number, system_register_number + 1",
        ".endr",
        numbers = const NUMBERS,
        first = const FIRST,
    )
}

/// The outcome of an instruction.
#[repr(C)]
struct Attempt {
    /// x0 after the instruction.
    value: u64,
    /// 1 if the instruction was executed, 0 if it is undefined.
    executed: u64,
}

/// Calls a table entry with `value` in x0. `executed` is x10, which [`vectors`] clears if the instruction is
/// undefined.
#[unsafe(naked)]
unsafe extern "C" fn attempt(entry: usize, value: u64) -> Attempt {
    naked_asm!("mov x9, x30", "mov x10, #1", "mov x2, x0", "mov x0, x1", "blr x2", "mov x1, x10", "ret x9",)
}

/// Returns the address of vectors that skip an undefined instruction and clear x10. They change x11. Any other
/// exception stops the CPU.
#[unsafe(naked)]
extern "C" fn vectors() -> u64 {
    naked_asm!(
        "adr x0, 2f",
        "ret",
        ".balign 0x800",
        "2:",
        ".rept 4", // with SP_EL0
        ".balign 0x80",
        "b .",
        ".endr",
        ".balign 0x80", // with SP_EL1, synchronous
        "mrs x11, esr_el1",
        "lsr x11, x11, #26", // ESR_EL1.EC; 0 is "unknown reason" (Arm ARM DDI0487 L.b, D24.2.40)
        "cbnz x11, .",
        "mov x10, #0",
        "mrs x11, elr_el1",
        "add x11, x11, #4",
        "msr elr_el1, x11",
        "eret",
        ".rept 11",
        ".balign 0x80",
        "b .",
        ".endr",
        ".balign 0x80",
    )
}

/// While it lives, table entries may be undefined on this CPU. IRQs are masked.
#[derive(Debug)]
pub struct Probing {
    own_vectors: u64,
    _masked: IrqMasked,
}

impl Probing {
    /// Masks IRQs, and makes this CPU skip undefined instructions.
    #[expect(clippy::new_without_default, reason = "it changes the CPU's state")]
    #[must_use]
    pub fn new() -> Self {
        let masked = IrqMasked::new();
        let own_vectors;
        // SAFETY: `vectors` is a complete vector table, aligned to 2 KiB by its own directive. It returns only from
        // an undefined instruction, which only `attempt` executes, and then changes x10 and x11 only.
        unsafe {
            asm!(
                "mrs {old}, vbar_el1",
                "msr vbar_el1, {new}",
                "isb",
                old = out(reg) own_vectors,
                new = in(reg) vectors(),
                options(nostack, preserves_flags),
            );
        }
        Self { own_vectors, _masked: masked }
    }

    /// Reads a register. Returns `None` if the read is undefined.
    ///
    /// # Safety
    ///
    /// If the read is defined, it has no side effect.
    #[must_use]
    pub unsafe fn read(&self, number: u16) -> Option<u64> {
        // SAFETY: `entry` returns an entry of the table. If its instruction is undefined, `vectors`, which `new`
        // installed, skips it. If it is defined, the caller of `read` says that it has no side effect.
        let Attempt { value, executed } = unsafe { attempt(entry(table::<MRS>, number), 0) };
        (executed == 1).then_some(value)
    }

    /// Writes a register. Returns false if the write is undefined.
    ///
    /// # Safety
    ///
    /// If the write is defined, this value has no effect on the code that runs here.
    #[must_use]
    pub unsafe fn write(&self, number: u16, value: u64) -> bool {
        // SAFETY: `entry` returns an entry of the table. If its instruction is undefined, `vectors`, which `new`
        // installed, skips it. If it is defined, the caller of `write` says that it has no effect on this code.
        let Attempt { executed, .. } = unsafe { attempt(entry(table::<MSR>, number), value) };
        executed == 1
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        // SAFETY: `new` read this address from this CPU's VBAR_EL1, and `IrqMasked` keeps the value on this CPU.
        unsafe {
            asm!("msr vbar_el1, {}", "isb", in(reg) self.own_vectors, options(nostack, preserves_flags));
        }
    }
}

/// Reads a register without an exception. [`Probing::read`] tells whether the read is defined.
///
/// # Safety
///
/// The read is defined and has no side effect.
#[must_use]
pub unsafe fn read(number: u16) -> u64 {
    // SAFETY: `entry` returns an entry of the table, and the caller says that its instruction is defined and has no
    // side effect.
    unsafe { attempt(entry(table::<MRS>, number), 0) }.value
}

/// Writes a register without an exception. [`Probing::write`] tells whether the write is defined.
///
/// # Safety
///
/// The write is defined, and this value has no effect on the code that runs here.
pub unsafe fn write(number: u16, value: u64) {
    // SAFETY: `entry` returns an entry of the table, and the caller says that its instruction is defined and has no
    // effect on this code.
    unsafe { attempt(entry(table::<MSR>, number), value) };
}

/// Returns the address of a number's table entry.
///
/// # Panics
///
/// If the number is not below [`NUMBERS`].
fn entry(table: extern "C" fn(), number: u16) -> usize {
    assert!(number < NUMBERS, "no system register has the number {number:#x}");
    table as *const () as usize + usize::from(number) * ENTRY_BYTES
}
