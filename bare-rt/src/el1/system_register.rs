//! System registers by the number of their encoding, all that MRS and MSR (register) can name.
//!
//! The number is in the instruction's own bits. A table has an MRS and an MSR for each of the 2^15 numbers,
//! and [`read`] and [`write`] call into it. A binary that does not use them does not have the table.

use core::arch::{asm, naked_asm};

use super::lock::IrqMasked;

/// Numbers: bits 19 to 5 of MRS and MSR (register), from o0 (op0 less 2) down to op2 (Arm ARM DDI0487
/// L.b, C6.2.234 and C6.2.236).
pub const NUMBERS: u16 = 1 << 15;

/// `mrs x0, S2_0_C0_C0_0`.
const MRS: u32 = 0xd530_0000;
/// `msr S2_0_C0_C0_0, x0`.
const MSR: u32 = 0xd510_0000;
/// Bytes of an entry of the table.
const ENTRY_BYTES: usize = 8;

/// The table: the instruction of each number, and a return.
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

/// The result of an instruction.
#[repr(C)]
struct Attempt {
    /// x0 after it.
    value: u64,
    /// 1 if it was executed, 0 if it is undefined.
    executed: u64,
}

/// Calls an entry of the table with `value` in x0. It returns `executed` from x10, which [`vectors`] set to 0.
#[unsafe(naked)]
unsafe extern "C" fn attempt(entry: usize, value: u64) -> Attempt {
    naked_asm!("mov x9, x30", "mov x10, #1", "mov x2, x0", "mov x0, x1", "blr x2", "mov x1, x10", "ret x9",)
}

/// Returns the address of vectors that step over an undefined instruction, and set x10 to 0. They change
/// x11. Any other exception stops the CPU.
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

/// While it lives, an instruction of the table may be undefined on this CPU. IRQs are masked.
#[derive(Debug)]
pub struct Probing {
    own_vectors: u64,
    _masked: IrqMasked,
}

impl Probing {
    /// Masks IRQs, and makes this CPU step over undefined instructions.
    #[expect(clippy::new_without_default, reason = "it changes the CPU's state")]
    #[must_use]
    pub fn new() -> Self {
        let masked = IrqMasked::new();
        let own_vectors;
        // SAFETY: `vectors` are a complete table, aligned to 2 KiB by their own directive. They change x10 and
        // x11 after an undefined instruction alone, which only `attempt` executes.
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

    /// Reads a register; `None` if that is undefined.
    ///
    /// # Safety
    ///
    /// If it can be read, that has no effect.
    #[must_use]
    pub unsafe fn read(&self, number: u16) -> Option<u64> {
        // SAFETY: `entry` returns an entry of a table. An undefined instruction ends in `vectors`, which `new`
        // installed; a defined one reads a register without effect, as the caller of `read` promises.
        let Attempt { value, executed } = unsafe { attempt(entry(table::<MRS>, number), 0) };
        (executed == 1).then_some(value)
    }

    /// Writes a register; whether that is not undefined.
    ///
    /// # Safety
    ///
    /// If it can be written, this value has no effect on the code that runs here.
    #[must_use]
    pub unsafe fn write(&self, number: u16, value: u64) -> bool {
        // SAFETY: `entry` returns an entry of a table. An undefined instruction ends in `vectors`, which `new`
        // installed; a defined one has no effect on this code, as the caller of `write` promises.
        let Attempt { executed, .. } = unsafe { attempt(entry(table::<MSR>, number), value) };
        executed == 1
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        // SAFETY: `new` read this address from VBAR_EL1 of this CPU: `IrqMasked` keeps the value on it.
        unsafe {
            asm!("msr vbar_el1, {}", "isb", in(reg) self.own_vectors, options(nostack, preserves_flags));
        }
    }
}

/// Reads a register that [`Probing::read`] can read, without an exception.
///
/// # Safety
///
/// Reading it is defined, and has no effect.
#[must_use]
pub unsafe fn read(number: u16) -> u64 {
    // SAFETY: `entry` returns an entry of the table, and the caller promises that its instruction is defined
    // and has no effect.
    unsafe { attempt(entry(table::<MRS>, number), 0) }.value
}

/// Writes a register that [`Probing::write`] can write, without an exception.
///
/// # Safety
///
/// Writing it is defined, and this value has no effect on the code that runs here.
pub unsafe fn write(number: u16, value: u64) {
    // SAFETY: `entry` returns an entry of the table, and the caller promises that its instruction is defined
    // and has no effect on this code.
    unsafe { attempt(entry(table::<MSR>, number), value) };
}

/// The address of a number's entry.
///
/// # Panics
///
/// If there is no such number.
fn entry(table: extern "C" fn(), number: u16) -> usize {
    assert!(number < NUMBERS, "no system register has the number {number:#x}");
    table as *const () as usize + usize::from(number) * ENTRY_BYTES
}
