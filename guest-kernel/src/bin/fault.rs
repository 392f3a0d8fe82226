//! A payload that touches an address where nothing is: its VM reports the fault and is reset.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "to fault"))]

guest_kernel::payload!(run);

#[cfg(target_os = "none")]
fn run(_: &mut guest_kernel::Guest) -> Result<(), guest_kernel::Failure> {
    guest_kernel::println!("about to read an address where nothing is");
    let nowhere = core::ptr::without_provenance::<u64>(0x7f_ffff_f000);
    // SAFETY: nothing is mapped there: the CPU takes a translation fault, and no memory is read.
    unsafe { nowhere.read_volatile() };
    Err("the read did not fault".into())
}
