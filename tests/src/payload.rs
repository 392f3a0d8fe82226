//! Guest payloads: those of `guest-kernel`, and flat binaries of a handful of A64 instructions.
//!
//! The latter are entered at their first byte with the MMU off. The guest's PL011 is at 0x0900_0000 and takes
//! byte-wide stores with no status read.

use std::path::PathBuf;

use qemu::bare::Binary;
use qemu::toolchain::{Toolchain, VARIABLE};
use qemu::ui::Ui;

use crate::workspace::root;

/// The ELF file of a payload of `guest-kernel`, built as the tool builds the one that it boots.
///
/// # Panics
///
/// If it does not build.
#[must_use]
pub fn built(name: &'static str) -> PathBuf {
    build(Binary { package: "guest-kernel", name, features: &[] })
}

/// The ELF file of a bare-metal binary, built as the tool builds those that it boots.
///
/// # Panics
///
/// If it does not build.
#[must_use]
pub fn build(binary: Binary) -> PathBuf {
    let forced = match std::env::var(VARIABLE).as_deref() {
        Ok("debian") => Some(Toolchain::Debian),
        Ok("rustup") => Some(Toolchain::Rustup),
        _ => None,
    };
    let ui = Ui::new(false);
    qemu::setup::prepare_toolchain(forced, ui)
        .and_then(|toolchain| binary.build(toolchain, ui))
        .unwrap_or_else(|failure| panic!("{}: {}", binary.name, failure.message));
    binary.elf(root())
}

/// `movz x1, #0x900, lsl #16`: x1 = the PL011's data register.
const X1_IS_PL011: u32 = 0xd2a1_2001;
/// `strb w2, [x1]`.
const STORE_W2: u32 = 0x3900_0022;
/// `hvc #0`.
const HVC: u32 = 0xd400_0002;
/// `b .`: for ever.
const BRANCH_TO_SELF: u32 = 0x1400_0000;

/// `movz w<register>, #value`.
const fn movz(register: u32, value: u16) -> u32 {
    0x5280_0000 | ((value as u32) << 5) | register
}

/// `movk w<register>, #value, lsl #16`.
const fn movk_high(register: u32, value: u16) -> u32 {
    0x72a0_0000 | ((value as u32) << 5) | register
}

/// The low half of the IDs of PSCI SYSTEM_OFF and SYSTEM_RESET; the high half is 0x8400.
const SYSTEM_OFF: u16 = 0x0008;
const SYSTEM_RESET: u16 = 0x0009;

/// A PSCI call by `hvc`; for ever, should it come back.
const fn psci(function: u16) -> [u32; 4] {
    [movz(0, function), movk_high(0, 0x8400), HVC, BRANCH_TO_SELF]
}

fn assemble(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn print(text: &str) -> impl Iterator<Item = u32> {
    let characters = text.bytes().flat_map(|byte| [movz(2, byte.into()), STORE_W2]);
    [X1_IS_PL011].into_iter().chain(characters)
}

/// Prints a line on the PL011 and turns itself off.
#[must_use]
pub fn hello(line: &str) -> Vec<u8> {
    assemble(print(&format!("{line}\r\n")).chain(psci(SYSTEM_OFF)))
}

/// Prints a line on the PL011 and then does nothing, for ever.
#[must_use]
pub fn hang(line: &str) -> Vec<u8> {
    assemble(print(&format!("{line}\r\n")).chain([BRANCH_TO_SELF]))
}

/// Prints a line on the PL011, then reads where nothing is. The read takes an external abort; the
/// payload's vector prints an `!` and resets the guest, as a kernel that panics may. A read that comes back
/// prints a `?` and turns the guest off.
#[must_use]
pub fn fault(line: &str) -> Vec<u8> {
    /// Offset of "synchronous exception from the current level with SP_EL1" in a vector table.
    const VECTOR: usize = 0x200;
    /// Where the vector table is: the payload starts on a 2 MiB boundary.
    const TABLE: usize = 0x800;
    /// `adr x3, #0x800 - 0` as the first instruction.
    const ADR_X3_TABLE: u32 = 0x1000_0003 | (((TABLE as u32) >> 2) << 5);
    /// `msr vbar_el1, x3`.
    const VBAR_IS_X3: u32 = 0xd518_c003;
    /// `isb`.
    const ISB: u32 = 0xd503_3fdf;
    /// `movz x4, #0x0b00, lsl #16`: x4 = 0x0b00_0000, beyond all devices of the guest.
    const X4_IS_NOTHING: u32 = 0xd2a1_6004;
    /// `ldr w5, [x4]`.
    const LOAD_W5: u32 = 0xb940_0085;

    let mut code = assemble(
        [ADR_X3_TABLE, VBAR_IS_X3, ISB]
            .into_iter()
            .chain(print(&format!("{line}\r\n")))
            .chain([X4_IS_NOTHING, LOAD_W5])
            .chain(print("?"))
            .chain(psci(SYSTEM_OFF)),
    );
    assert!(code.len() <= TABLE, "the line is too long");
    code.resize(TABLE + VECTOR, 0);
    code.extend(assemble(print("!").chain(psci(SYSTEM_RESET))));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_an_assembler_makes() {
        assert_eq!(movz(0, 8), 0x5280_0100);
        assert_eq!(movk_high(0, 0x8400), 0x72b0_8000);
        let hello = hello("x");
        assert_eq!(hello.len(), 4 * (1 + 2 * 3 + 4));
    }
}
