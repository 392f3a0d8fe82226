//! The payload of the system tests of registers (docs/verification.md): it loads values into registers, lets
//! others run, and reports the registers that changed.
//!
//! Its boot arguments name the test (`test`) and the guest (`party`).
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
    let party = value("party").ok_or("the boot arguments name no party")?.parse()?;
    let uart = guest.machine().uart.ok_or("there is no PL011")?;
    match value("test") {
        Some("fp") => {
            fp::run(party, uart);
            Ok(())
        }
        Some("sweep") => sweep::run(party, uart, guest.initrd()),
        _ => Err("the boot arguments name no test".into()),
    }
}

/// Ends this guest's turn: a read of UARTFR (Arm DDI 0183, 3.3.3) exits to the host that emulates the PL011.
#[cfg(target_os = "none")]
fn end_turn(uart: u64) {
    const FLAGS: u64 = 0x18;
    let flags = core::ptr::with_exposed_provenance::<u32>((uart + FLAGS) as usize);
    // SAFETY: `run` takes `uart` from the machine, whose PL011 the library has mapped. A read has no effect there.
    unsafe { flags.read_volatile() };
}
