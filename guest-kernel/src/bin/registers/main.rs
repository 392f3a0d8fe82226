//! The payload of the system tests of registers (docs/verification.md): it has values in registers of
//! its own while others run, and reports what became of them.
//!
//! Its boot arguments name the test and which of the two guests it is. It reports by lines of
//! `key=value` words; numbers are hexadecimal if they start with `0x`.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "registers have no safe interface"))]

guest_kernel::payload!(run);

#[cfg(target_os = "none")]
mod fp;
#[cfg(target_os = "none")]
mod sweep;

#[cfg(target_os = "none")]
fn run(guest: &mut guest_kernel::Guest) -> Result<(), guest_kernel::Failure> {
    let arguments = guest.machine().bootargs.as_str();
    let value = |key| arguments.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let party = value("party").ok_or("which party is this?")?.parse()?;
    let uart = guest.machine().uart.ok_or("there is no PL011")?;
    match value("test") {
        Some("fp") => {
            fp::run(party, uart);
            Ok(())
        }
        Some("sweep") => sweep::run(party, uart, guest.initrd()),
        _ => Err("there is no such test".into()),
    }
}

/// Ends this guest's turn: reads UARTFR (Arm DDI 0183, 3.3.3) of a PL011, which has no effect but that the
/// host, which emulates it, runs.
#[cfg(target_os = "none")]
fn end_turn(uart: u64) {
    const FLAGS: u64 = 0x18;
    let flags = core::ptr::with_exposed_provenance::<u32>((uart + FLAGS) as usize);
    // SAFETY: `uart` is a PL011's, which the library has mapped; the register can be read at any time.
    unsafe { flags.read_volatile() };
}
