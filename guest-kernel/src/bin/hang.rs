//! A payload that never ends, and uses its CPU all the time: whoever runs it needs a time limit.
#![cfg_attr(target_os = "none", no_std, no_main)]

guest_kernel::payload!(run);

#[cfg(target_os = "none")]
fn run(_: &mut guest_kernel::Guest) -> Result<(), guest_kernel::Failure> {
    guest_kernel::println!("spinning for ever");
    loop {
        core::hint::spin_loop();
    }
}
